"""The one door to the compiled module: the only file that turns tensors into addresses.

Its callers (``jsarag.ops``) have checked shapes and dtypes; here tensors are made contiguous where
a kernel needs it, kept alive for the call, and handed over as integers. Without the compiled module
everything runs on the reference; :data:`MISSING` says why it is not there.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

MISSING = ""
_module: ModuleType | None = None
try:
    _module = importlib.import_module("jsarag._native")
except ImportError as error:
    MISSING = f"the compiled module is not there ({error}); reinstall jsarag"

CPU_OPS: frozenset[str] = frozenset(getattr(_module, "CPU_OPS", ()))
CUDA_OPS: frozenset[str] = frozenset(getattr(_module, "CUDA_OPS", ()))


def native_ops(device: str) -> frozenset[str]:
    """Ops the compiled module has for ``cpu`` or ``cuda``."""
    return CUDA_OPS if device == "cuda" else CPU_OPS


def module() -> Any:
    """The compiled module; only where :data:`MISSING` is empty."""
    assert _module is not None, MISSING
    return _module


def tile() -> int | None:
    """TILE as compiled, None without the module."""
    return None if _module is None else int(_module.TILE)


def cpu_features() -> list[str]:
    """Instruction sets the running CPU offers and the kernels know, weakest first."""
    return [] if _module is None else list(_module.cpu_features())


def cuda_architectures() -> list[str]:
    """Architectures the CUDA kernels were compiled for; empty where they were not built."""
    return [] if _module is None else list(_module.cuda_architectures())


def cuda_device() -> str | None:
    """Name of the CUDA device, None where there is none or no CUDA kernels."""
    return (_module.cuda_device_name() or None) if _module is not None else None
