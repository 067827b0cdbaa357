"""Intervals resample dialogues, differences are paired, and both can be checked in closed form."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from jsarag import randomness
from jsarag.errors import ShapeError
from jsarag.eval.generation import bleu_counts, bleu_reducer
from jsarag.eval.significance import (
    Statistic,
    differences,
    group_rows,
    intervals,
    mean_statistic,
    repeated_difference,
)


def alone(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def test_groups_follow_dialogues_and_rows_without_one_stand_alone() -> None:
    groups = group_rows(["d1", "", "d2", "d1", ""], ["a", "b", "c", "d", "d1"])
    assert groups.tolist() == [0, 1, 2, 0, 3]


def test_interval_of_a_mean_has_the_normal_width() -> None:
    values = randomness.generator(1, "values").normal(3.0, 2.0, size=400)
    found = intervals({"x": mean_statistic(values)}, alone(400), samples=4000, seed=1)["x"]
    assert found is not None
    half = 1.96 * values.std() / 20.0
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_rows_of_one_dialogue_move_together() -> None:
    # 40 dialogues of ten equal rows hold the evidence of 40 rows, not of 400.
    values = randomness.generator(2, "values").normal(size=40)
    groups = np.repeat(np.arange(40), 10)
    rows = mean_statistic(np.repeat(values, 10))
    clustered = intervals({"x": rows}, groups, samples=2000, seed=1)["x"]
    single = intervals({"x": mean_statistic(values)}, alone(40), samples=2000, seed=1)["x"]
    naive = intervals({"x": rows}, alone(400), samples=2000, seed=1)["x"]
    assert clustered is not None
    assert single is not None
    assert naive is not None
    assert clustered == pytest.approx(single, abs=1e-12)  # the same resamples of the same means
    assert clustered.high - clustered.low > 2.5 * (naive.high - naive.low)


def test_deterministic_and_keyed_by_the_seed() -> None:
    rows = {"x": mean_statistic(np.arange(30.0))}
    first = intervals(rows, alone(30), samples=500, seed=1)
    assert intervals(rows, alone(30), samples=500, seed=1) == first
    assert intervals(rows, alone(30), samples=500, seed=2) != first


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"x": mean_statistic(np.arange(30.0) ** 2)}
    whole = intervals(rows, alone(30), samples=500, seed=1)
    paired = differences(
        rows, {"x": mean_statistic(np.arange(30.0))}, alone(30), samples=500, seed=1
    )
    monkeypatch.setattr("jsarag.eval.significance._CHUNK", 90)
    assert intervals(rows, alone(30), samples=500, seed=1) == whole
    again = differences(
        rows, {"x": mean_statistic(np.arange(30.0))}, alone(30), samples=500, seed=1
    )
    assert again == paired


def test_one_dialogue_or_none_has_no_interval() -> None:
    assert intervals({"x": mean_statistic([1.0, 2.0])}, np.zeros(2, int), samples=100, seed=1) == {
        "x": None
    }
    assert intervals({"x": mean_statistic([])}, alone(0), samples=100, seed=1) == {"x": None}


def test_difference_is_paired() -> None:
    # Rows differ wildly, the systems by exactly 0.1: pairing must see nothing but the 0.1.
    hard = randomness.generator(3, "hard").normal(0.0, 50.0, size=60)
    before, after = {"x": mean_statistic(hard)}, {"x": mean_statistic(hard + 0.1)}
    found = differences(before, after, alone(60), samples=1000, seed=1)["x"]
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert found.p_value < 0.01
    back = differences(after, before, alone(60), samples=1000, seed=1)["x"]
    assert back is not None
    assert back.value == pytest.approx(-0.1)


def test_p_value_matches_full_enumeration() -> None:
    gain = np.array([0.9, 0.4, -0.2, 0.3, 0.6, -0.1, 0.2])
    before = {"x": mean_statistic(np.zeros(7))}
    after = {"x": mean_statistic(gain)}
    signs = np.array(list(itertools.product([1, -1], repeat=7)))
    exact = float((np.abs(signs @ gain) >= abs(gain.sum()) - 1e-12).mean())
    found = differences(before, after, alone(7), samples=20000, seed=1)["x"]
    assert found is not None
    assert found.p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20000) ** 0.5)


def test_equal_systems_differ_by_nothing() -> None:
    rows = {"x": mean_statistic(np.arange(20.0))}
    found = differences(rows, rows, alone(20), samples=200, seed=1)["x"]
    assert found == (0.0, 0.0, 0.0, 1.0)


def test_scores_that_are_no_means_are_resampled_too() -> None:
    predictions = ["a b c d e", "a b x d e", "q", "a b c d"] * 8
    answers = [["a b c d e"], ["a b c d e"], ["z z"], ["a b c d f"]] * 8
    rows = bleu_counts(predictions, answers)
    score = Statistic(rows, bleu_reducer(4))
    found = intervals({"BLEU": score}, alone(32), samples=800, seed=1)["BLEU"]
    assert found is not None
    stream = randomness.generator(5, "slow")
    slow = [
        score.reduce(rows[stream.integers(0, 32, 32)].sum(0, keepdims=True))[0] for _ in range(800)
    ]
    assert found.low == pytest.approx(np.quantile(slow, 0.025), abs=3.0)
    assert found.high == pytest.approx(np.quantile(slow, 0.975), abs=3.0)
    assert found.low < score.value < found.high


def test_different_rows_are_refused() -> None:
    with pytest.raises(ShapeError, match="same rows"):
        differences(
            {"x": mean_statistic([1.0])},
            {"x": mean_statistic([1.0, 2.0])},
            alone(2),
            samples=9,
            seed=1,
        )
    with pytest.raises(ShapeError, match="group"):
        intervals({"x": mean_statistic([1.0])}, alone(2), samples=9, seed=1)


def test_two_thousand_samples_of_a_thousand_rows_are_quick() -> None:
    values = randomness.generator(1, "values").random((7, 1000))
    statistics = {str(row): mean_statistic(column) for row, column in enumerate(values)}
    started = time.perf_counter()
    intervals(statistics, alone(1000), samples=2000, seed=1)
    assert time.perf_counter() - started < 5.0  # about 0.1 s on an idle core


def test_repetitions_widen_an_interval_by_what_they_vary() -> None:
    # Runs that all questions agree on: only the luck of a run is left, variance 1 over 16 runs.
    luck = randomness.generator(1, "luck").normal(size=16)
    start = [mean_statistic(np.zeros(50))]
    runs = [mean_statistic(np.full(50, value)) for value in luck]
    value, interval = repeated_difference(start, runs, alone(50), samples=20_000, seed=1)
    assert value == pytest.approx(luck.mean())
    assert interval is not None
    half = 1.96 * luck.std() / 4.0
    assert interval.low == pytest.approx(value - half, abs=0.1 * half)
    assert interval.high == pytest.approx(value + half, abs=0.1 * half)
    # Runs whose luck both systems share differ by nothing.
    same = repeated_difference(runs, runs, alone(50), samples=1000, seed=1)
    assert same == (0.0, (0.0, 0.0))


def test_one_repetition_gives_the_plain_interval() -> None:
    values = randomness.generator(1, "values").normal(size=(2, 60))
    before, after = (mean_statistic(row) for row in values)
    plain = differences({"x": before}, {"x": after}, alone(60), samples=500, seed=3)["x"]
    assert plain is not None
    value, interval = repeated_difference([before], [after], alone(60), samples=500, seed=3)
    assert (value, interval) == (plain.value, (plain.low, plain.high))
    assert repeated_difference([before], [after], np.zeros(60, np.int64), samples=9, seed=3) == (
        plain.value,
        None,
    )
    with pytest.raises(ShapeError, match="found 2 and 3"):
        repeated_difference([before] * 2, [after] * 3, alone(60), samples=9, seed=3)
