"""What the machine can do at best, measured first in every run: the ceilings rows are held to.

Read bandwidth is the fastest of three readers of one large f32 array (torch's sum, its dot product
with itself and a matrix-vector product), copy bandwidth torch's ``copy_`` (reads plus writes), the
matmul rate the fastest of a few shapes, square ones and those the kernels see. Each is the best of
medians over interleaved repetitions, with the same threads as the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from jsarag import randomness
from jsarag_bench.timing import Timing, local_runner, time_interleaved

_HOW = (
    "read: fastest of torch sum, dot and matrix-vector product over one f32 array; "
    "copy: torch copy_, reads plus writes; matmul: fastest of a few shapes in torch"
)
_CPU_BYTES, _CUDA_BYTES = 512 << 20, 4 << 30
# (m, k, n): square, scan's and passage_logp's.
_CPU_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (512, 384, 16384))
_CUDA_SHAPES = ((8192, 8192, 8192), (4096, 4096, 16384))
_REPETITIONS = 10


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured limits: bytes per second, floating-point operations per second by dtype."""

    read_bytes_per_s: float
    copy_bytes_per_s: float
    matmul_flops_per_s: dict[str, float]

    def floor_ms(self, bytes_read: float, flops: float, dtype: str) -> float | None:
        """The roofline: no kernel that moves this much and computes this much is faster.

        Args:
            bytes_read: that must come from memory.
            flops: multiplications and additions, 2 per product.
            dtype: whose matmul rate counts.

        Returns:
            Milliseconds; None for a kernel that neither streams nor multiplies.
        """
        if bytes_read <= 0 and flops <= 0:
            return None
        return 1e3 * max(bytes_read / self.read_bytes_per_s, flops / self.matmul_flops_per_s[dtype])

    def to_json(self) -> dict[str, Any]:
        """Flat, and with how it was measured."""
        return {
            "read_bytes_per_s": self.read_bytes_per_s,
            "copy_bytes_per_s": self.copy_bytes_per_s,
            **{f"{dtype}_flops_per_s": rate for dtype, rate in self.matmul_flops_per_s.items()},
            "how": _HOW,
        }


def measure_ceilings(device: str, *, scale: float = 1.0) -> Ceilings:
    """Measure them on ``cpu`` or ``cuda``.

    Args:
        scale: share of the usual sizes; tests take less (a cache then answers for the memory).
    """
    randomness.seed_torch("bench", "ceilings")
    count = int((_CUDA_BYTES if device == "cuda" else _CPU_BYTES) * scale) // 4
    read_rate, copy_rate = _bandwidths(torch.randn(count, device=device))
    cut = min(scale**0.5, 1.0)
    shapes = [
        (max(int(m * cut), 16), max(int(k * cut), 16), max(int(n * cut), 16))
        for m, k, n in (_CUDA_SHAPES if device == "cuda" else _CPU_SHAPES)
    ]
    rates = {
        name: _matmul_rate(device, getattr(torch, name), shapes) for name in ("float32", "bfloat16")
    }
    return Ceilings(read_rate, copy_rate, rates)


def _bandwidths(source: torch.Tensor) -> tuple[float, float]:
    width = 1024
    matrix = source[: source.numel() // width * width].view(-1, width)
    vector = source[:width].clone()
    copy = torch.empty_like(source)
    medians = _medians(
        source.device.type,
        {
            "sum": source.sum,
            "dot": lambda: torch.dot(source, source),
            "mv": lambda: torch.mv(matrix, vector),
            "copy": lambda: copy.copy_(source),
        },
    )
    size = source.numel() * source.element_size()
    return size / min(medians["sum"], medians["dot"], medians["mv"]), 2 * size / medians["copy"]


def _matmul_rate(device: str, dtype: torch.dtype, shapes: Sequence[tuple[int, int, int]]) -> float:
    calls: dict[str, Callable[[], Any]] = {}
    flops: dict[str, float] = {}
    for m, k, n in shapes:
        left = torch.randn(m, k, device=device).to(dtype)
        right = torch.randn(n, k, device=device).to(dtype)
        name = f"{m}x{k}x{n}"
        calls[name] = partial(torch.matmul, left, right.T)
        flops[name] = 2.0 * m * k * n
    medians = _medians(device, calls)
    return max(flops[name] / medians[name] for name in calls)


def _medians(device: str, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds per call by name."""
    runners = {name: local_runner(call, device) for name, call in calls.items()}
    timings = time_interleaved(runners, repetitions=_REPETITIONS, limit_s=float("inf"))
    return {
        name: timing.median_ms / 1e3
        for name, timing in timings.items()
        if isinstance(timing, Timing)
    }
