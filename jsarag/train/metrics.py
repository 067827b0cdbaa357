"""Where a step's time went and what it measured, averaged over the steps between two log rows."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Value = Tensor | float


class StationClock:
    """Seconds spent at each station of the training step, by name.

    On a GPU, kernels run behind the program; with ``synchronise`` each station waits for its own,
    so the time is charged to whoever caused it (and the step gets slower by the lost overlap).
    """

    def __init__(self, device: torch.device, *, synchronise: bool = False) -> None:
        self._cuda = device.type == "cuda" and synchronise
        self._device = device
        self._total: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    @contextmanager
    def __call__(self, station: str) -> Iterator[None]:
        """Charge the block's time to ``station``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self._cuda:
                torch.cuda.synchronize(self._device)  # sync: to charge the right station
            spent = time.perf_counter() - started
            self._total[station] = self._total.get(station, 0.0) + spent

    def total(self, *, without: Collection[str] = ()) -> float:
        """Seconds charged so far to all stations but those named."""
        return sum(spent for name, spent in self._total.items() if name not in without)

    def snapshot(self) -> dict[str, float]:
        """Seconds charged to each station so far."""
        return dict(self._total)

    def take(self) -> dict[str, float]:
        """Seconds charged to each station since the last call."""
        taken = {name: s - self._taken.get(name, 0.0) for name, s in self._total.items()}
        self._taken = dict(self._total)
        return taken


def joined_means(found: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """Means of several processes as one: (their means, the share of the rows each had).

    A value that only some have is the mean over those.
    """
    names = dict.fromkeys(name for means, _ in found for name in means)
    joined = {}
    for name in names:
        known = [(means[name], share) for means, share in found if name in means]
        joined[name] = sum(v * share for v, share in known) / sum(share for _, share in known)
    return joined


class RunningMeans:
    """Means of named values since the last :meth:`take`; tensors stay on their device till then."""

    def __init__(self) -> None:
        self._sums: dict[str, Value] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Value]) -> None:
        """Add one observation of each value."""
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means, and start over."""
        # sync: once per log row
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
