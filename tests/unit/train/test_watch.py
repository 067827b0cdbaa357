"""Which rows are held back, when one looks, and what is kept: rules on numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jsarag.train.watch import (
    HELD_BACK,
    Measure,
    Reading,
    choose_measure,
    decide,
    has_collapsed,
    hold_back,
    looks,
)
from jsarag.types import Example


def rows(count: int, *, dialogues: int = 0) -> list[Example]:
    return [
        Example(
            id=str(n),
            question="q",
            answers=("a",),
            gold_passages=("p",),
            dialogue_id=f"d{n % dialogues}" if dialogues else "",
        )
        for n in range(count)
    ]


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``split(rows, wanted)``: the ids that train, and those held back."""
    monkeypatch.setattr("jsarag.train.watch.replace", lambda old, **new: SimpleNamespace(**new))

    def cut(train: list[Example], wanted: int | None, seed: int = 1) -> tuple[set[str], set[str]]:
        found = hold_back(SimpleNamespace(splits={"train": train}), wanted, seed)  # type: ignore[arg-type]
        return tuple(  # type: ignore[return-value]
            {example.id for example in found.splits.get(name, ())} for name in ("train", HELD_BACK)
        )

    return cut


def test_a_tenth_is_held_back_and_no_more_than_64(split: Any) -> None:
    for count, expected in ((2000, 64), (300, 30), (80, 8), (79, 0), (10, 0)):
        train, held = split(rows(count), None)
        assert len(held) == expected
        assert len(train) == count - expected
        assert not train & held


def test_the_user_decides_otherwise(split: Any) -> None:
    assert split(rows(300), 0)[1] == set()
    assert len(split(rows(20), 5)[1]) == 5
    assert len(split(rows(20), 99)[1]) == 19, "something must be left to train on"


def test_whole_dialogues_are_held_back(split: Any) -> None:
    train, held = split(rows(400, dialogues=50), None)
    assert len(held) == 40
    assert not {int(n) % 50 for n in train} & {int(n) % 50 for n in held}
    # One that is larger than what is wanted still moves whole, and one dialogue stays to train on.
    assert split(rows(100, dialogues=1), None)[1] == set()


def test_the_choice_is_the_seeds(split: Any) -> None:
    assert split(rows(300), None)[1] == split(rows(300), None)[1]
    assert split(rows(300), None)[1] != split(rows(300), None, seed=2)[1]


@pytest.mark.parametrize("steps", [1, 3, 8, 60, 100, 2000])
def test_a_collapse_can_be_seen_within_twenty_steps(steps: int) -> None:
    found = looks(steps)
    assert min(found) <= min(20, steps)
    assert max(found) == steps
    assert len(found) <= 12


def test_labels_are_used_where_all_rows_have_them_and_nobody_forbids_it() -> None:
    assert choose_measure("auto", rows(3)) == "gold"
    assert choose_measure("likelihood", rows(3)) == "likelihood"
    unlabelled = Example(id="x", question="q", answers=("a",))
    assert choose_measure("auto", [*rows(3), unlabelled]) == "likelihood"


NOISE = np.random.default_rng(1).normal(size=40)


def reading(step: int, mean: float, *, noise: float = 0.1, measure: Measure = "gold") -> Reading:
    values = mean + noise * np.roll(NOISE - NOISE.mean(), step)
    return Reading(step, measure, tuple(values.tolist()))


def test_the_best_state_is_kept_and_a_tie_goes_to_the_later() -> None:
    readings = [reading(0, 0.3), reading(10, 0.6), reading(20, 0.7), reading(30, 0.65)]
    found = decide(readings, seed=1)
    assert (found.kept, found.worse) == (20, False)
    assert "0.300 at the start, 0.700 at step 20" in found.reason
    flat = [reading(0, 0.5), *(Reading(step, "gold", (0.5,) * 40) for step in (10, 20))]
    assert decide(flat, seed=1).kept == 20


def test_a_little_worse_within_the_noise_is_not_thrown_away() -> None:
    found = decide([reading(0, 0.5), reading(10, 0.499)], seed=1)
    assert (found.kept, found.worse) == (10, False)


def test_worse_than_the_start_keeps_the_start() -> None:
    found = decide([reading(0, 0.5), reading(10, 0.2), reading(20, 0.0)], seed=1)
    assert (found.kept, found.worse) == (0, True)
    assert "the start is kept" in found.reason
    # Beyond one standard error the start is the safer choice; a failure is beyond the interval.
    small = decide([reading(0, 0.5), reading(10, 0.475, noise=0.07)], seed=1)
    assert (small.kept, small.worse) == (0, False)


def test_nothing_trained_is_no_failure() -> None:
    assert decide([reading(0, 0.5)], seed=1).worse is False


def test_a_collapse_is_the_loss_of_most_of_what_was_found() -> None:
    assert has_collapsed([reading(0, 0.6), reading(7, 0.1)], seed=1)
    assert not has_collapsed([reading(0, 0.6), reading(7, 0.5)], seed=1)
    assert not has_collapsed([reading(0, 0.6), reading(7, 0.1), reading(14, 0.6)], seed=1)
    nats = [reading(0, -80.0, noise=1.0, measure="likelihood")]
    assert has_collapsed([*nats, reading(7, -90.0, noise=1.0, measure="likelihood")], seed=1)
    assert not has_collapsed([*nats, reading(7, -79.0, noise=1.0, measure="likelihood")], seed=1)


def test_a_reading_survives_the_log() -> None:
    found = reading(7, 0.5)
    assert Reading.of_row(found.to_row()) == found
