"""Contestants take turns; slow ones get fewer, hopeless ones none."""

from __future__ import annotations

from collections.abc import Callable

import torch

from jsarag_bench.ceilings import measure_ceilings
from jsarag_bench.timing import Timing, TooSlow, pinned_threads, summarise, time_interleaved


class Fake:
    """Pretends to take some seconds and remembers the order of calls."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def __call__(self, name: str, seconds: float) -> Callable[[int], float]:
        def run(inner: int) -> float:
            self._log.append(name)
            return seconds

        return run


def _no_pause(seconds: float) -> None:
    """Tests need no quiet cores."""


def test_turns_alternate_and_everyone_begins_sometimes() -> None:
    log: list[str] = []
    fake = Fake(log)
    runners = {name: fake(name, 0.01) for name in "abc"}
    found = time_interleaved(runners, repetitions=6, clock=_no_pause)
    rounds = ["".join(log[6 + start : 9 + start]) for start in range(0, 18, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert found["a"] == Timing(10.0, 10.0, 10.0, 6)


def test_slow_ones_get_at_least_five_turns_and_hopeless_ones_none() -> None:
    fake = Fake([])
    runners = {"ours": fake("ours", 100.0), "slow": fake("slow", 3.0), "never": fake("never", 99.0)}
    found = time_interleaved(runners, repetitions=30, must="ours", clock=_no_pause)
    assert isinstance(found["ours"], Timing)
    assert found["ours"].repetitions == 5
    assert isinstance(found["slow"], Timing)
    assert found["slow"].repetitions == 10
    assert isinstance(found["never"], TooSlow)
    assert "99 s" in found["never"].reason


def test_short_calls_are_timed_many_at_a_time() -> None:
    asked: list[int] = []

    def run(inner: int) -> float:
        asked.append(inner)
        return 1e-5

    time_interleaved({"a": run}, repetitions=3, clock=_no_pause)
    assert asked == [1, 1, 200, 200, 200]


def test_percentiles() -> None:
    found = summarise([0.001 * value for value in (5, 1, 4, 2, 3, 100)])
    assert found == Timing(3.5, 2.0, 5.0, 6)


def test_threads_are_pinned_and_given_back() -> None:
    before = torch.get_num_threads()
    with pinned_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_ceilings_are_measured() -> None:
    ceilings, probes = measure_ceilings("cpu", scale=0.002)
    found = ceilings.to_json()
    for name in ("read_bytes_per_s", "copy_bytes_per_s", "float32_flops_per_s"):
        assert 1e7 < found[name] < 1e15
    assert probes.read.amount == (512 << 20) * 0.002 // 4 * 4
    assert set(probes.matmul) == {"float32", "bfloat16"}
