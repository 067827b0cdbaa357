"""What the runs of a study say: means over seeds, and paired differences with their intervals.

The bootstrap resamples whole dialogues and seeds, the same of both arms, so an interval tells how
much a difference depends on the questions asked and on the luck of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from jsarag.eval.compare import read_predictions
from jsarag.eval.generation import bleu_reducer
from jsarag.eval.significance import (
    FloatArray,
    Statistic,
    group_rows,
    mean_statistic,
    repeated_difference,
)
from jsarag.study.arms import FROZEN, Arm, Study
from jsarag.study.tuning import TRIAL, best_trials
from jsarag.train.watch import Measure

RETRIEVAL = ("R@1", "R@10", "MRR@10")
GENERATION = ("EM", "F1", "ROUGE-L")
BLEU = "generation BLEU-4"
_SAMPLES = 4000
Predictions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """An arm's means over its seeds.

    metrics: such as ``prior R@1`` -> mean over examples and seeds, in [0, 1], BLEU in [0, 100].
    seconds, generator_forwards: of training, mean over seeds; peak_bytes: the largest; None where
    nothing was trained. stopped: seed -> why its run ended early, or kept its start.
    """

    name: str
    reason: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, float]
    steps: float | None = None
    seconds: float | None = None
    generator_forwards: float | None = None
    peak_bytes: int | None = None
    stopped: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmDifference:
    """``arm`` minus ``against`` on the same examples, with a 95 % interval; units as the metric."""

    arm: str
    against: str
    metric: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings an arm was tried with: what the rows held back said, and whether it was the best."""

    arm: str
    tried: Mapping[str, str]
    measure: Measure
    value: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """A study's outcome."""

    arms: Sequence[ArmSummary]
    differences: Sequence[ArmDifference]
    trials: Sequence[Trial] = ()

    def to_json(self) -> dict[str, Any]:
        """``{"arms": [...], "differences": [...], "trials": [...]}``, JSON types."""
        return {
            "trials": [asdict(trial) for trial in self.trials],
            "arms": [
                {
                    "name": arm.name,
                    "seeds": list(arm.seeds),
                    "metrics": dict(arm.metrics),
                    "steps": arm.steps,
                    "seconds": arm.seconds,
                    "generator_forwards": arm.generator_forwards,
                    "peak_bytes": arm.peak_bytes,
                    "stopped": {str(seed): reason for seed, reason in arm.stopped.items()},
                }
                for arm in self.arms
            ],
            "differences": [
                {
                    "arm": item.arm,
                    "against": item.against,
                    "metric": item.metric,
                    "difference": item.difference,
                    "low": item.low,
                    "high": item.high,
                }
                for item in self.differences
            ],
        }


def summarise(
    study: Study,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    references: Mapping[str, Predictions],
) -> Summary:
    """Read the runs' predictions and put them side by side.

    Args:
        study: whose order and comparisons are kept.
        rows: of :func:`~jsarag.study.runner.run_study`.
        folder: of its runs.
        references: further rows of predictions, which no seed changes.

    Raises:
        DataError: predictions of a run are missing or damaged.
    """
    split = study.config().eval.split
    first = study.arms[0].name
    scored = {FROZEN: _scored(_predictions(study, folder, first, f"{split}-before"))}
    scored |= {name: _scored([found]) for name, found in references.items()}
    arms = [
        ArmSummary(name, "without training", (), scores.means()) for name, scores in scored.items()
    ]
    for arm in study.arms:
        scored[arm.name] = _scored(_predictions(study, folder, arm.name, split))
        arms.append(_summary(study, arm, rows, scored[arm.name]))
    found = [
        difference
        for arm in study.arms
        for other in study.against
        if other != arm.name
        for difference in _differences(arm.name, other, scored[other], scored[arm.name])
    ]
    return Summary(arms, found, _trials(rows))


def _trials(rows: Sequence[Mapping[str, Any]]) -> list[Trial]:
    best = best_trials(rows)
    return [
        Trial(
            row["arm"],
            row["tried"],
            row["held_back"]["measure"],
            row["held_back"]["value"],
            row is best[row["arm"]],
        )
        for row in rows
        if row["kind"] == TRIAL
    ]


def in_points(metric: str, value: float) -> float:
    """A metric or a difference in points of 100; BLEU comes in them."""
    return value if metric == BLEU else 100 * value


def comparison_rows(study: Study, summary: Summary) -> list[dict[str, Any]]:
    """The differences as rows to keep, one a pair of arms."""
    pairs = dict.fromkeys((item.arm, item.against) for item in summary.differences)
    return [
        {
            "kind": "comparison",
            "study": study.name,
            "dataset": Path(study.dataset).name,
            "arm": arm,
            "against": against,
            "seeds": list(study.seeds),
            "resampled": ["dialogues", "seeds"],
            "differences": {
                item.metric: {"value": item.difference, "low": item.low, "high": item.high}
                for item in summary.differences
                if (item.arm, item.against) == (arm, against)
            },
        }
        for arm, against in pairs
    ]


@dataclass(frozen=True, slots=True)
class _Scored:
    """An arm's scores, example by example.

    values: metric -> id -> what the example adds in each seed: f64 [S, 1] a score, or [S, 10]
    BLEU's counts; only examples that every seed scored. dialogues: id -> dialogue.
    """

    values: Mapping[str, Mapping[str, FloatArray]]
    dialogues: Mapping[str, str]

    def means(self) -> dict[str, float]:
        """Metric -> its value over all examples that have it, mean over seeds."""
        return {
            name: fmean(item.value for item in self.statistics(name, list(rows)))
            for name, rows in self.values.items()
        }

    def statistics(self, metric: str, ids: Sequence[str]) -> list[Statistic]:
        """A metric over these examples, in this order: one statistic a seed."""
        rows = np.stack([self.values[metric][id] for id in ids], axis=1)  # [S, n, F]
        if metric == BLEU:
            return [Statistic(counts, bleu_reducer(4)) for counts in rows]
        return [mean_statistic(scores[:, 0]) for scores in rows]


def _predictions(study: Study, folder: Path, arm: str, name: str) -> list[Predictions]:
    """An evaluation's rows, one list a seed."""
    return [read_predictions(folder / f"{arm}-{seed}" / "eval" / name) for seed in study.seeds]


def _summary(
    study: Study, arm: Arm, rows: Sequence[Mapping[str, Any]], scores: _Scored
) -> ArmSummary:
    own = [row for row in rows if row["arm"] == arm.name and row["kind"] != TRIAL]
    peaks = [row["peak_bytes"] for row in own if row["peak_bytes"]]
    return ArmSummary(
        arm.name,
        arm.reason,
        tuple(study.seeds),
        scores.means(),
        steps=fmean(row["steps"] for row in own),
        seconds=fmean(row["seconds"] for row in own),
        generator_forwards=fmean(row["generator_forwards"] for row in own),
        peak_bytes=max(peaks, default=None),
        stopped={row["seed"]: row["stopped"] for row in own if row.get("stopped")},
    )


def _scored(runs: Sequence[Predictions]) -> _Scored:
    by_id = [{row["id"]: row["metrics"] for row in run} for run in runs]

    def column(part: str, name: str) -> dict[str, FloatArray]:
        found = {}
        for id in by_id[0]:
            scores = [(run.get(id, {}).get(part) or {}).get(name) for run in by_id]
            if all(score is not None for score in scores):
                found[id] = np.asarray(scores, dtype=np.float64).reshape(len(runs), -1)
        return found

    parts = {"prior": RETRIEVAL, "posterior": RETRIEVAL, "generation": GENERATION}
    values = {
        f"{part} {name}": column(part, name) for part, names in parts.items() for name in names
    }
    # BLEU is no mean of its rows' scores: it is made of their counts.
    values[BLEU] = column("generation", "bleu_counts")
    return _Scored(
        {name: found for name, found in values.items() if found},
        {row["id"]: row["dialogue_id"] for row in runs[0]},
    )


def _differences(arm: str, against: str, before: _Scored, after: _Scored) -> list[ArmDifference]:
    found = []
    for metric, scores in after.values.items():
        ids = [id for id in scores if id in before.values.get(metric, {})]
        if not ids:
            continue
        value, interval = repeated_difference(
            before.statistics(metric, ids),
            after.statistics(metric, ids),
            group_rows([after.dialogues[id] for id in ids], ids),
            samples=_SAMPLES,
            seed=1,
        )
        if interval is not None:
            found.append(ArmDifference(arm, against, metric, value, interval.low, interval.high))
    return found
