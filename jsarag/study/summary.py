"""What the runs of a study say: means over seeds, and paired differences with their intervals.

Scores are averaged over seeds example by example first; the bootstrap then resamples whole
dialogues, so an interval tells how much the difference depends on the questions asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from jsarag.eval.compare import read_predictions
from jsarag.eval.significance import FloatArray, differences, group_rows, mean_statistic
from jsarag.study.arms import FROZEN, Study

RETRIEVAL = ("R@1", "R@10", "MRR@10")
GENERATION = ("EM", "F1", "ROUGE-L")
_SAMPLES = 4000
Predictions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """An arm's means over its seeds.

    metrics: such as ``prior R@1`` -> mean over examples and seeds, in [0, 1]. seconds,
    generator_forwards: of training, mean over seeds; peak_bytes: the largest; None where nothing
    was trained.
    """

    name: str
    reason: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, float]
    steps: float | None = None
    seconds: float | None = None
    generator_forwards: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ArmDifference:
    """``arm`` minus ``against`` on the same examples, with a 95 % interval."""

    arm: str
    against: str
    metric: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A study's outcome."""

    arms: Sequence[ArmSummary]
    differences: Sequence[ArmDifference]

    def to_json(self) -> dict[str, Any]:
        """``{"arms": [...], "differences": [...]}``, JSON types."""
        return {
            "arms": [
                {
                    "name": arm.name,
                    "seeds": list(arm.seeds),
                    "metrics": dict(arm.metrics),
                    "steps": arm.steps,
                    "seconds": arm.seconds,
                    "generator_forwards": arm.generator_forwards,
                    "peak_bytes": arm.peak_bytes,
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
    """
    split = study.common.get("eval.split", "dev")
    first = study.arms[0].name
    averaged = {
        FROZEN: _averaged(
            [read_predictions(_evals(folder, first, s) / f"{split}-before") for s in study.seeds]
        )
    }
    averaged |= {name: _averaged([found]) for name, found in references.items()}
    arms = [
        ArmSummary(name, "without training", (), scores.means())
        for name, scores in averaged.items()
    ]
    for arm in study.arms:
        scores = _averaged(
            [read_predictions(_evals(folder, arm.name, s) / split) for s in study.seeds]
        )
        averaged[arm.name] = scores
        own = [row for row in rows if row["arm"] == arm.name]
        arms.append(
            ArmSummary(
                arm.name,
                arm.reason,
                tuple(study.seeds),
                scores.means(),
                steps=fmean(row["steps"] for row in own),
                seconds=fmean(row["seconds"] for row in own),
                generator_forwards=fmean(row["generator_forwards"] for row in own),
                peak_bytes=max(row["peak_bytes"] for row in own),
            )
        )
    found = [
        difference
        for arm in study.arms
        for other in study.against
        if other != arm.name
        for difference in _differences(arm.name, other, averaged[other], averaged[arm.name])
    ]
    return Summary(arms, found)


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
            "differences": {
                item.metric: {"value": item.difference, "low": item.low, "high": item.high}
                for item in summary.differences
                if (item.arm, item.against) == (arm, against)
            },
        }
        for arm, against in pairs
    ]


@dataclass(frozen=True, slots=True)
class _Averaged:
    """Example by example averages over seeds.

    values: metric -> f64 [n] of the examples ``ids`` that have it. dialogues: of all examples.
    """

    values: Mapping[str, Mapping[str, float]]
    dialogues: Mapping[str, str]

    def means(self) -> dict[str, float]:
        return {name: fmean(scores.values()) for name, scores in self.values.items() if scores}


def _evals(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{arm}-{seed}" / "eval"


def _averaged(runs: Sequence[Predictions]) -> _Averaged:
    by_id = [{row["id"]: row["metrics"] for row in run} for run in runs]
    values: dict[str, dict[str, float]] = {}
    for part, names in (("prior", RETRIEVAL), ("posterior", RETRIEVAL), ("generation", GENERATION)):
        for name in names:
            for id in by_id[0]:
                found = [(run.get(id, {}).get(part) or {}).get(name) for run in by_id]
                scores = [score for score in found if score is not None]
                if len(scores) == len(by_id):
                    values.setdefault(f"{part} {name}", {})[id] = fmean(scores)
    return _Averaged(values, {row["id"]: row["dialogue_id"] for row in runs[0]})


def _differences(
    arm: str, against: str, before: _Averaged, after: _Averaged
) -> list[ArmDifference]:
    found = []
    for metric, scores in after.values.items():
        ids = [id for id in scores if id in before.values.get(metric, {})]
        if len(ids) < 2:
            continue

        def column(values: Mapping[str, float], ids: Sequence[str] = ids) -> FloatArray:
            return np.array([values[id] for id in ids])

        difference = differences(
            {metric: mean_statistic(column(before.values[metric]))},
            {metric: mean_statistic(column(scores))},
            group_rows([after.dialogues[id] for id in ids], ids),
            samples=_SAMPLES,
            seed=1,
        )[metric]
        if difference is not None:
            found.append(
                ArmDifference(
                    arm, against, metric, difference.value, difference.low, difference.high
                )
            )
    return found
