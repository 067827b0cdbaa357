"""What the machine can do at best, measured first in every run: the ceilings rows are held to.

Read bandwidth is the fastest of three readers of one large f32 array (torch's sum, its dot product
with itself and a matrix-vector product), copy bandwidth torch's ``copy_`` (reads plus writes), the
matmul rate the fastest of a few shapes, square ones and those the kernels see. Each is the best of
medians over interleaved repetitions, with the same threads as the rows.

A shared machine changes from minute to minute, so the winners become probes: they take turns with
each case's contestants, and a row's floor comes from what they reached beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
class Probe:
    """One measuring call, and the bytes it reads or the operations it does."""

    call: Callable[[], Any]
    amount: float


@dataclass(frozen=True, slots=True)
class Probes:
    """The fastest way found to read, and to multiply in each dtype."""

    read: Probe
    matmul: Mapping[str, Probe]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured limits: bytes per second, floating-point operations per second by dtype."""

    read_bytes_per_s: float
    copy_bytes_per_s: float
    matmul_flops_per_s: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Flat, and with how it was measured."""
        return {
            "read_bytes_per_s": self.read_bytes_per_s,
            "copy_bytes_per_s": self.copy_bytes_per_s,
            **{f"{dtype}_flops_per_s": rate for dtype, rate in self.matmul_flops_per_s.items()},
            "how": _HOW,
        }


def measure_ceilings(device: str, *, scale: float = 1.0) -> tuple[Ceilings, Probes]:
    """Measure them on ``cpu`` or ``cuda``.

    Args:
        scale: share of the usual sizes; tests take less (a cache then answers for the memory).

    Returns:
        The ceilings and the probes that reached them (which keep their arrays).
    """
    randomness.seed_torch("bench", "ceilings")
    count = int((_CUDA_BYTES if device == "cuda" else _CPU_BYTES) * scale) // 4
    source = torch.randn(count, device=device)
    read, read_rate = _fastest(device, _readers(source))
    copy = torch.empty_like(source)
    _, copy_rate = _fastest(device, [Probe(partial(copy.copy_, source), 2.0 * 4 * count)])
    del copy
    cut = min(scale**0.5, 1.0)
    shapes = [
        (max(int(m * cut), 16), max(int(k * cut), 16), max(int(n * cut), 16))
        for m, k, n in (_CUDA_SHAPES if device == "cuda" else _CPU_SHAPES)
    ]
    matmul, rates = {}, {}
    for name in ("float32", "bfloat16"):
        matmul[name], rates[name] = _fastest(device, _products(device, name, shapes))
    return Ceilings(read_rate, copy_rate, rates), Probes(read, matmul)


def _readers(source: torch.Tensor) -> list[Probe]:
    width = 1024
    matrix = source[: source.numel() // width * width].view(-1, width)
    vector = source[:width].clone()
    size = float(source.numel() * source.element_size())
    return [
        Probe(source.sum, size),
        Probe(partial(torch.dot, source, source), size),
        Probe(partial(torch.mv, matrix, vector), size),
    ]


def _products(device: str, dtype: str, shapes: Sequence[tuple[int, int, int]]) -> list[Probe]:
    found = []
    for m, k, n in shapes:
        left = torch.randn(m, k, device=device).to(getattr(torch, dtype))
        right = torch.randn(n, k, device=device).to(getattr(torch, dtype))
        found.append(Probe(partial(torch.matmul, left, right.T), 2.0 * m * k * n))
        if device == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            # The library behind matmul may leave half of the vectors unused; this one does not.
            packed = left.to_mkldnn(), right.to_mkldnn()
            product = partial(torch.nn.functional.linear, *packed)
            if _runs(product):
                found.append(Probe(product, 2.0 * m * k * n))
    return found


def _runs(product: Callable[[], object]) -> bool:
    """Whether this processor can: the library refuses bfloat16 without AVX-512."""
    try:
        product()
    except RuntimeError:
        return False
    return True


def _fastest(device: str, probes: Sequence[Probe]) -> tuple[Probe, float]:
    """The probe with the highest rate, and the rate, per second."""
    runners = {str(place): local_runner(probe.call, device) for place, probe in enumerate(probes)}
    timings = time_interleaved(runners, repetitions=_REPETITIONS, limit_s=float("inf"))
    rates = {
        int(name): probes[int(name)].amount / (timing.median_ms / 1e3)
        for name, timing in timings.items()
        if isinstance(timing, Timing)
    }
    best = max(rates, key=rates.__getitem__)
    return probes[best], rates[best]
