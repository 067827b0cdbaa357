"""What the machine offers and which implementation each op gets, for ``doctor --json``."""

from __future__ import annotations

from typing import Any

import torch

from jsarag.backends import native
from jsarag.backends.select import choose

OPS = ("scan", "draw", "log_partition", "mis_chain", "passage_logp")


def backend_report() -> dict[str, Any]:
    """Backends and ops as JSON types.

    Returns:
        ``backends`` holds ``cpu`` (``features``) and ``cuda`` (``built``, ``architectures``,
        ``device``); ``ops`` each op's ``backend`` and ``reason``, for float32 on the best device.
    """
    architectures = native.cuda_architectures()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name(0) if device == "cuda" else native.cuda_device()
    ops = {}
    for op in OPS:
        choice = choose(
            op,
            device,
            ("float32",),
            native_ops=native.native_ops(device),
            supported=("float32",),
            missing=native.MISSING,
        )
        ops[op] = {"backend": choice.backend, "reason": choice.reason}
    return {
        "backends": {
            "cpu": {"features": native.cpu_features()},
            "cuda": {
                "built": bool(architectures),
                "architectures": architectures,
                "device": name,
            },
        },
        "ops": ops,
    }
