"""The torch.library namespace ``jsarag``: operators torch's dispatcher, compiler and autograd know.

Each op registers its schema, one implementation for CPU and CUDA tensors (which chooses between the
compiled kernel and the reference) and a fake one that only computes shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# torch leaves this class unannotated.
LIBRARY: Any = torch.library.Library("jsarag", "FRAGMENT")  # type: ignore[no-untyped-call]


def register(
    name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> None:
    """Register ``jsarag::name``.

    Args:
        name: the op.
        schema: its arguments and results in torch's language, ``(Tensor x) -> Tensor``.
        implementation: runs on CPU and CUDA tensors; must not return or change its inputs.
        fake: returns empty tensors of the right shapes and dtypes.
    """
    LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, implementation, key)
    torch.library.register_fake(f"jsarag::{name}", fake, lib=LIBRARY)
