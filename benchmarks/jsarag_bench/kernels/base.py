"""What every kernel's module hands to the runner, and the error budget they share.

Budget (docs/design.md): the truth is float64; a fast kernel may be wrong by as much as the naive
computation in the same dtype is, plus a few epsilons of its output at the size of the result (the
largest of many rounding errors is partly chance).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jsarag import randomness
from jsarag.backends.report import backend_report
from jsarag.errors import NumericalError

_EPSILONS = 4.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared with the truth: the error found and the error allowed."""

    name: str
    error: float
    budget: float

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return self.error <= self.budget

    @property
    def strain(self) -> float:
        """Share of the budget that is used; above 1 is wrong."""
        if not self.passed:
            return math.inf
        return self.error / self.budget if self.budget > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """One case, ready to be verified and timed.

    Attributes:
        ours: one call of the op.
        verify: compares the op with the float64 reference.
        companions: variants of ours that rows are compared with, by name; no rivals.
        bytes_read: that must come from memory at least, once; 0 where memory is no limit.
        flops: of the products the op is defined by.
        flops_dtype: whose matmul rate is its ceiling.
        backend: which implementation runs.
    """

    ours: Callable[[], Any]
    verify: Callable[[], Sequence[Check]]
    bytes_read: float
    flops: float
    flops_dtype: str
    backend: str
    companions: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


def require_correct(case: str, checks: Sequence[Check]) -> Check:
    """Refuse a wrong kernel; else the check that came closest to its budget.

    Raises:
        NumericalError: names the case, what is wrong and by how much.
    """
    wrong = [check for check in checks if not check.passed]
    if wrong:
        what = "; ".join(
            f"{check.name}: error {check.error:.3g}, allowed {check.budget:.3g}" for check in wrong
        )
        raise NumericalError(
            f"bench {case}: the kernel is wrong against the float64 reference and is not timed "
            f"({what}). Set JSARAG_BACKEND=reference to work without it, and report this"
        )
    return max(checks, key=lambda check: check.strain)


def compare(name: str, found: Tensor, naive: Tensor, truth: Tensor) -> Check:
    """Largest absolute error of ``found`` against the budget of the house.

    Args:
        found: what the op returned.
        naive: the same from plain torch in the same dtype.
        truth: float64.
    """
    size = float(truth.abs().max()) if truth.numel() else 0.0
    allowed = largest_error(naive, truth) + _EPSILONS * torch.finfo(found.dtype).eps * size
    return Check(name, largest_error(found, truth), allowed)


def largest_error(found: Tensor, truth: Tensor) -> float:
    """max |found - truth|; NaN where found has one."""
    if truth.numel() == 0:
        return 0.0
    return float((found.double() - truth).abs().max())


def backend_of(op: str) -> str:
    """``reference``, ``cpu`` or ``cuda``: what runs ``op`` on this machine."""
    return str(backend_report()["ops"][op]["backend"])


def unit_rows(rows: int, width: int, device: str, *key: randomness.Key) -> Tensor:
    """Random unit vectors f32 [rows, width], the same for the same key and kind of device."""
    values = normal((rows, width), device, *key)
    block = 1 << 20
    for first in range(0, rows, block):  # in place: half the memory of one division
        part = values[first : first + block]
        part /= part.norm(dim=1, keepdim=True)
    return values


def normal(shape: tuple[int, ...], device: str, *key: randomness.Key) -> Tensor:
    """Standard normal numbers f32, keyed; on a GPU made there, sending them would take minutes."""
    if device == "cuda":
        randomness.seed_torch("bench", *key)
        return torch.randn(shape, device=device)
    generator = randomness.generator("bench", *key)
    return torch.from_numpy(generator.standard_normal(shape, dtype="float32"))


def spread(count: int, at_most: int) -> list[int]:
    """At most so many of range(count), evenly spread, first and last among them."""
    if count <= at_most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (at_most - 1)) for i in range(at_most)})
