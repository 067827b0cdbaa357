"""Batches are a pure function of their number; each row comes once an epoch."""

from __future__ import annotations

from collections import Counter

import pytest

from jsarag.data.batching import BatchPlan, BatchSchedule
from jsarag.errors import ConfigError, DataError


def plans(schedule: BatchSchedule, count: int) -> list[BatchPlan]:
    return [schedule.at(step) for step in range(count)]


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (10, 5), (7, 7), (3, 8), (1, 4), (100, 1)])
def test_every_row_comes_once_an_epoch(n: int, batch: int) -> None:
    epochs = 4
    steps = -(-epochs * n // batch)
    stream = [
        pair
        for plan in plans(BatchSchedule(n, batch, 1), steps)
        for pair in zip(plan.indices, plan.visits, strict=True)
    ]
    for epoch in range(epochs):
        part = stream[epoch * n : (epoch + 1) * n]
        assert sorted(index for index, _ in part) == list(range(n))
        assert {visit for _, visit in part} == {epoch}


def test_visits_count_how_often_a_row_was_seen_before() -> None:
    seen: Counter[int] = Counter()
    for plan in plans(BatchSchedule(5, 3, 2), 12):
        for index, visit in zip(plan.indices, plan.visits, strict=True):
            assert visit == seen[index]
            seen[index] += 1


def test_a_batch_needs_nothing_but_its_number() -> None:
    in_order = plans(BatchSchedule(11, 4, 3), 30)
    for step in (29, 0, 17, 3, 17):
        assert BatchSchedule(11, 4, 3).at(step) == in_order[step]
    again = BatchSchedule(11, 4, 3)
    assert [again.at(step) for step in reversed(range(30))] == in_order[::-1]


def test_the_order_changes_with_seed_and_epoch() -> None:
    first, second = BatchSchedule(50, 50, 1), BatchSchedule(50, 50, 2)
    assert first.at(0).indices != second.at(0).indices
    assert first.at(0).indices != first.at(1).indices
    assert first.at(0).indices != list(range(50))


def test_plans_are_plain_numbers() -> None:
    plan = BatchSchedule(5, 2, 1).at(0)
    assert all(type(value) is int for value in (*plan.indices, *plan.visits))
    assert len(plan.indices) == len(plan.visits) == 2


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="at least one training row"):
        BatchSchedule(0, 4, 1)
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        BatchSchedule(4, 0, 1)
    with pytest.raises(ValueError, match="0 or more"):
        BatchSchedule(4, 2, 1).at(-1)
