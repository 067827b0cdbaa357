"""The compiled module, and what it offers on this machine."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch

MISSING = ""
_module: ModuleType | None = None
try:
    _module = importlib.import_module("jsarag._native")
except ImportError as error:
    MISSING = f"the compiled module is not there ({error}); reinstall jsarag"

CPU_OPS: frozenset[str] = frozenset(getattr(_module, "CPU_OPS", ()))
CUDA_OPS: frozenset[str] = frozenset(getattr(_module, "CUDA_OPS", ()))

# bf16 products by mma.sync and asynchronous copies: older GPUs run the reference.
_LEAST_CAPABILITY = (8, 0)


def native_ops(device: str) -> frozenset[str]:
    """Ops the compiled module has for ``cpu`` or ``cuda``."""
    if device != "cuda":
        return CPU_OPS
    return CUDA_OPS if CUDA_OPS and _capability() >= _LEAST_CAPABILITY else frozenset()


@functools.cache
def _capability() -> tuple[int, int]:
    """Of the current CUDA device; (0, 0) without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


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
