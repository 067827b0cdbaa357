"""Times contestants against each other: pinned threads, warmed up, repetition by repetition.

A shared machine is noisy for minutes at a time. So contestants take turns: whatever disturbs one
repetition disturbs all of them, and the ratios hold where the milliseconds do not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from jsarag import randomness

REPETITIONS = 30
SLOW_REPETITIONS = 5
_SLOW_S = 1.0
_LIMIT_S = 40.0
_SAMPLE_S = 0.002
# OpenMP threads spin a little after their work; whoever comes next must not pay for it.
_PAUSE_S = 0.005


class Runner(Protocol):
    """Something that can be timed: runs ``inner`` calls, returns seconds per call."""

    def __call__(self, inner: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per call: median and 20th and 80th percentile over the repetitions."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    repetitions: int


@dataclass(frozen=True, slots=True)
class TooSlow:
    """A contestant that was not timed, and why."""

    reason: str


def local_runner(call: Callable[[], Any], device: str) -> Runner:
    """Time ``call`` in this process; on a GPU wait for it before and after."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def run(inner: int) -> float:
        wait()
        began = time.perf_counter()
        for _ in range(inner):
            call()
        wait()
        return (time.perf_counter() - began) / inner

    return run


def summarise(seconds: list[float]) -> Timing:
    """Median, p20 and p80 of at least one sample."""
    ordered = sorted(value * 1e3 for value in seconds)
    last = len(ordered) - 1
    return Timing(
        statistics.median(ordered),
        ordered[round(0.2 * last)],
        ordered[round(0.8 * last)],
        len(ordered),
    )


def time_interleaved(
    runners: Mapping[str, Runner],
    *,
    repetitions: int = REPETITIONS,
    must: str | None = None,
    limit_s: float = _LIMIT_S,
    clock: Callable[[float], None] = time.sleep,
) -> dict[str, Timing | TooSlow]:
    """Warm every contestant up, then let them take turns.

    Args:
        runners: by name.
        repetitions: turns of each; one that takes over a second gets fewer, at least 5 (or
            ``repetitions`` if that is less).
        must: never given up on, whatever it takes.
        limit_s: others whose single call takes longer are not timed.
        clock: sleeps between turns.

    Returns:
        Per name a timing, or why there is none.
    """
    found: dict[str, Timing | TooSlow] = {}
    turns: dict[str, tuple[int, int]] = {}
    for name, runner in runners.items():
        first = runner(1)
        if name != must and first > limit_s:
            found[name] = TooSlow(f"one call took {first:.0f} s, over the limit of {limit_s:.0f} s")
            continue
        once = first if first > _SLOW_S else runner(1)
        inner = min(max(math.ceil(_SAMPLE_S / max(once, 1e-9)), 1), 1000)
        turns[name] = (inner, _turns(once, repetitions))
    samples: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for round_ in range(max((count for _, count in turns.values()), default=0)):
        # Another order each round: nobody always follows the one that empties the caches.
        for place in randomness.permutation(1, "bench", round_, len(names)):
            name = names[place]
            inner, count = turns[name]
            if len(samples[name]) >= count:
                continue
            clock(_PAUSE_S)
            samples[name].append(runners[name](inner))
    return found | {name: summarise(values) for name, values in samples.items()}


def _turns(once: float, repetitions: int) -> int:
    """Turns of a contestant that takes ``once`` seconds."""
    if once <= _SLOW_S:
        return repetitions
    return min(max(SLOW_REPETITIONS, round(repetitions * _SLOW_S / once)), repetitions)


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """torch, and through it our kernels, on ``threads`` threads; the old number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
