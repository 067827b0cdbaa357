"""Intervals and tests that resample whole dialogues, because turns of one dialogue are alike.

Every metric is a :class:`Statistic`: some numbers per row whose *sums* determine the score. A mean
sums (value, 1), corpus BLEU sums its counts, so one resampling serves them all and costs a matrix
product. Percentile bootstrap for intervals, approximate randomisation for p-values; all random
numbers are keyed by (seed, number of groups), so the same rows always give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jsarag import randomness
from jsarag.errors import ShapeError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEVEL = 0.95
# Draws held at once; bounds memory (a draw is 8 bytes) without changing the numbers drawn.
_CHUNK = 1 << 22


class Statistic(NamedTuple):
    """A score that depends on its rows through sums only.

    rows f64 [n, F]: what each row adds. reduce: sums f64 [S, F] -> scores f64 [S].
    """

    rows: FloatArray
    reduce: Callable[[FloatArray], FloatArray]

    @property
    def value(self) -> float:
        """The score of all rows."""
        return float(self.reduce(self.rows.sum(axis=0, keepdims=True))[0])


class Interval(NamedTuple):
    """A two-sided interval of level 95 %."""

    low: float
    high: float


class Difference(NamedTuple):
    """One system minus another on the same rows: value, 95 % interval, two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float


def mean_statistic(values: Sequence[float] | FloatArray) -> Statistic:
    """The mean of one number per row, f64 [n]."""
    column = np.asarray(values, dtype=np.float64)
    return Statistic(np.stack([column, np.ones_like(column)], axis=1), _ratio)


def group_rows(names: Sequence[str], fallback: Sequence[str]) -> IntArray:
    """Number the groups rows belong to: int64 [n], 0 for the first group met.

    Args:
        names: the dialogue of each row; the empty string means none.
        fallback: used where there is none (the row's own id), so that such a row stands alone.
    """
    keys = [(name, "") if name else ("", own) for name, own in zip(names, fallback, strict=True)]
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def intervals(
    statistics: Mapping[str, Statistic], groups: IntArray, *, samples: int, seed: int
) -> dict[str, Interval | None]:
    """Percentile bootstrap intervals of several scores over the same rows.

    Args:
        statistics: by metric name; all over the same n rows.
        groups: int64 [n], the dialogue of each row (:func:`group_rows`).
        samples: resamples.
        seed: of the resampling.

    Returns:
        By metric name; None for all where fewer than two groups leave nothing to resample.
    """
    resampled = _resampled(statistics, groups, samples=samples, seed=seed)
    return {
        name: None if scores is None else _percentiles(scores) for name, scores in resampled.items()
    }


def differences(
    before: Mapping[str, Statistic],
    after: Mapping[str, Statistic],
    groups: IntArray,
    *,
    samples: int,
    seed: int,
) -> dict[str, Difference | None]:
    """Paired comparison of two systems on the same rows, ``after`` minus ``before``.

    The interval resamples dialogues, both systems' rows together. The p-value exchanges the
    systems' results of whole dialogues at random: how often is the difference then at least as
    large as the one observed? ((hits + 1) / (samples + 1), so never 0.)

    Args:
        before: metrics of one system; row i is the same example as in ``after``.
        after: metrics of the other; only names both have are compared.
        groups: int64 [n].
        samples: resamples, and exchanges.
        seed: of both.

    Raises:
        ShapeError: the two systems have different numbers of rows.
    """
    names = [name for name in after if name in before]
    for name in names:
        if before[name].rows.shape != after[name].rows.shape:
            raise ShapeError(
                f"differences['{name}']: expected both systems on the same rows, found "
                f"{before[name].rows.shape[0]} and {after[name].rows.shape[0]} of them; keep only "
                "the examples both were scored on"
            )
    first = {name: before[name] for name in names}
    second = {name: after[name] for name in names}
    low = _resampled(first, groups, samples=samples, seed=seed)
    high = _resampled(second, groups, samples=samples, seed=seed)
    p_values = _exchanged(first, second, groups, samples=samples, seed=seed)
    result: dict[str, Difference | None] = {}
    for name in names:
        scores_a, scores_b = low[name], high[name]
        if scores_a is None or scores_b is None:
            result[name] = None
            continue
        interval = _percentiles(scores_b - scores_a)
        value = second[name].value - first[name].value
        result[name] = Difference(value, interval.low, interval.high, p_values[name])
    return result


def repeated_difference(
    before: Sequence[Statistic],
    after: Sequence[Statistic],
    groups: IntArray,
    *,
    samples: int,
    seed: int,
) -> tuple[float, Interval | None]:
    """Two systems that were trained several times, each time scored on the same rows.

    Dialogues and repetitions are both resampled, the same ones for both systems: repetition i of
    one is paired with repetition i of the other. A system with one repetition (the frozen start,
    BM25) is the same in all. With S repetitions their part of the variance comes out (S - 1) / S as
    large as it is, and with one not at all.

    Args:
        before: one system's metric, a repetition each.
        after: the other's; as many, unless one of the two has one only.
        groups: int64 [n], the dialogue of each row.
        samples: resamples.
        seed: of the resampling.

    Returns:
        ``after`` minus ``before``, means over repetitions, and the 95 % interval; None where fewer
        than two groups leave nothing to resample.

    Raises:
        ShapeError: numbers of repetitions that cannot be paired.
    """
    if len({len(before), len(after)} - {1}) > 1:
        raise ShapeError(
            f"repeated_difference: expected as many repetitions of both systems, or one of one, "
            f"found {len(before)} and {len(after)}"
        )
    count = max(len(before), len(after))
    value = float(
        np.mean([item.value for item in after]) - np.mean([item.value for item in before])
    )
    scores = [
        _resampled(
            {str(i): item for i, item in enumerate(system)}, groups, samples=samples, seed=seed
        )
        for system in (before, after)
    ]
    columns = [[column for column in found.values() if column is not None] for found in scores]
    if not all(columns):
        return value, None
    difference = np.stack(columns[1], axis=1) - np.stack(columns[0], axis=1)  # [samples, S or 1]
    if difference.shape[1] == 1:
        return value, _percentiles(difference[:, 0])
    drawn = randomness.generator(seed, "bootstrap over repetitions", count).integers(
        0, count, size=(samples, count)
    )
    return value, _percentiles(np.take_along_axis(difference, drawn, axis=1).mean(axis=1))


def _resampled(
    statistics: Mapping[str, Statistic], groups: IntArray, *, samples: int, seed: int
) -> dict[str, FloatArray | None]:
    """Scores f64 [samples] of resampled groups, all metrics from the same resamples."""
    count = _group_count(statistics, groups)
    if count < 2:
        return dict.fromkeys(statistics)
    totals = {name: _group_sums(item.rows, groups, count) for name, item in statistics.items()}
    parts: dict[str, list[FloatArray]] = {name: [] for name in statistics}
    for weights in _resamples(count, samples, seed):
        for name, item in statistics.items():
            parts[name].append(item.reduce(weights @ totals[name]))
    return {name: np.concatenate(scores) for name, scores in parts.items()}


def _resamples(count: int, samples: int, seed: int) -> Iterator[FloatArray]:
    """How often each group is drawn, f64 [chunk, count], until ``samples`` rows were given."""
    stream = randomness.generator(seed, "bootstrap", count)
    step = max(1, _CHUNK // count)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        drawn = stream.integers(0, count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(float)


def _exchanged(
    first: Mapping[str, Statistic],
    second: Mapping[str, Statistic],
    groups: IntArray,
    *,
    samples: int,
    seed: int,
) -> dict[str, float]:
    count = _group_count(first, groups)
    if count < 2:
        return {}
    sums_a = {name: _group_sums(item.rows, groups, count) for name, item in first.items()}
    sums_b = {name: _group_sums(item.rows, groups, count) for name, item in second.items()}
    hits = dict.fromkeys(first, 0)
    stream = randomness.generator(seed, "randomisation", count)
    step = max(1, _CHUNK // count)
    for start in range(0, samples, step):
        swap = stream.integers(0, 2, size=(min(step, samples - start), count)).astype(float)
        for name in first:
            total_a, total_b = sums_a[name].sum(axis=0), sums_b[name].sum(axis=0)
            moved = swap @ (sums_b[name] - sums_a[name])
            reduce = second[name].reduce
            chance = np.abs(reduce(total_b - moved) - reduce(total_a + moved))
            observed = abs(second[name].value - first[name].value)
            # Sums in another order differ in the last bits; equal differences must count as hits.
            hits[name] += int((chance >= observed - 1e-12 * max(1.0, observed)).sum())
    return {name: (hit + 1) / (samples + 1) for name, hit in hits.items()}


def _group_count(statistics: Mapping[str, Statistic], groups: IntArray) -> int:
    for name, item in statistics.items():
        if item.rows.shape[0] != len(groups):
            raise ShapeError(
                f"statistics['{name}']: expected one row per group number ({len(groups)}), found "
                f"{item.rows.shape[0]}"
            )
    return int(groups.max()) + 1 if len(groups) else 0


def _group_sums(rows: FloatArray, groups: IntArray, count: int) -> FloatArray:
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, groups, rows)
    return sums


def _percentiles(scores: FloatArray) -> Interval:
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(scores, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def _ratio(sums: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])
