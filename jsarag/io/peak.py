"""How much memory a piece of work takes at its height, on a CPU or a GPU.

On Linux the kernel keeps the process's high-water mark and forgets it when asked; elsewhere the
mark only ever rises, so a piece of work that stays below an earlier height measures as 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Bytes above what was held before that ``work`` takes at its height.

    Args:
        work: is called once.
        device: a CUDA device's own memory is looked at, else the process's.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # sync: earlier work must not count
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    forget_peak()  # which gives memory back: what is held is looked up after it
    before = resident_bytes()
    work()
    return max(process_peak_bytes() - before, 0)


def held_bytes(device: torch.device) -> int:
    """Bytes taken now: a CUDA device's by tensors, else the process's."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return resident_bytes()


def resident_bytes() -> int:
    """The process's memory now."""
    return _status("VmRSS") or process_peak_bytes()


def process_peak_bytes() -> int:
    """The process's memory at its height since :func:`forget_peak`, or since it began."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def highest_bytes(device: torch.device) -> int:
    """Where the models are, the most that was taken since :func:`forget_peak`."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return process_peak_bytes()


def forget_peak() -> None:
    """Begin a new high-water mark, where the system can; free memory is given back first."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    give_back()
    try:
        with _FORGET.open("w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return


def give_back() -> None:
    """Return free memory to the system: what the allocator keeps for later counts as held."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(name: str) -> int:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else 0
