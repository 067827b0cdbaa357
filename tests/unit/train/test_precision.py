"""A language model's precision: tried where nobody decided, and by what it does to the scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jsarag.train import precision
from jsarag.train.precision import Precision, find_precision
from jsarag.types import Example, Passage, ResponseLogp


class Generator:
    """Scores by the passage's number; in bfloat16 off by ``error`` for every other passage."""

    supports_bf16 = True

    def __init__(self, clock: Clock, *, slower: float, error: float, offset: float = 0.0) -> None:
        self.clock, self.slower, self.error, self.offset = clock, slower, error, offset
        self.bf16, self.size = False, precision.LEAST_PARAMETERS
        self.scored = 0

    def parameters(self) -> Any:
        return iter([torch.empty(self.size, device="meta")])

    def response_logp(self, inputs: Any) -> ResponseLogp:
        self.scored += 1
        self.clock.now += 1.0 if self.bf16 else self.slower
        numbers = torch.tensor([float(item.passages[0].id) for item in inputs])
        if self.bf16:
            numbers += self.offset + self.error * (numbers % 2 * 2 - 1)
        return ResponseLogp(numbers, torch.ones(len(inputs), dtype=torch.int64))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(precision, "perf_counter", clock)
    return clock


ROWS = [Example(id=str(n), answers=("r",), question="q") for n in range(9)]
DATASET: Any = SimpleNamespace(
    splits={"train": ROWS}, kb=[Passage(id=str(n), title="", text="t") for n in (0, 1, 2, 3)]
)
SPREAD = 1.25**0.5  # of 0, 1, 2, 3


def find(generator: Generator, wanted: bool | None = None) -> Precision:
    return find_precision(generator, DATASET, turns=1, wanted=wanted)  # type: ignore[arg-type]


def test_faster_and_nearly_the_same_is_taken(clock: Clock) -> None:
    generator = Generator(clock, slower=1.7, error=0.1)
    found = find(generator)
    assert found.bf16
    assert found.speedup == pytest.approx(1.7)
    assert found.error_nats == pytest.approx(0.1, rel=1e-5)
    assert found.spread_nats == pytest.approx(SPREAD)
    assert not generator.bf16, "left as it was"
    assert "bfloat16 scores 1.70 times as fast" in found.describe()


def test_slower_is_not_taken(clock: Clock) -> None:
    assert not find(Generator(clock, slower=0.9, error=0.0)).bf16


def test_an_error_that_could_change_the_passages_weights_is_not_taken(clock: Clock) -> None:
    assert not find(Generator(clock, slower=3.0, error=0.2)).bf16


def test_what_all_passages_of_a_response_share_is_no_error(clock: Clock) -> None:
    assert find(Generator(clock, slower=3.0, error=0.0, offset=5.0)).bf16


@pytest.mark.parametrize("wanted", [True, False])
def test_the_users_decision_needs_no_trial(clock: Clock, wanted: bool) -> None:
    generator = Generator(clock, slower=3.0, error=9.0)
    assert find(generator, wanted) == Precision(wanted)
    assert generator.scored == 0


def test_small_networks_and_other_kinds_stay_in_float32(clock: Clock) -> None:
    generator = Generator(clock, slower=3.0, error=0.0)
    generator.size -= 1
    assert find(generator) == Precision()
    generator.size += 1
    generator.supports_bf16 = False
    assert find(generator) == find(generator, True) == Precision()
    assert generator.scored == 0
    assert not Precision().describe()
