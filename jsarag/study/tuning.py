"""Settings tuned alike for every arm, on training rows that none of them trains on.

Every arm is tried with every combination, once, with the study's first seed. What counts is the
measure that keeps a run from ending worse (``train/watch.py``): the state a trial keeps, on its
held-back rows. The split that arms are compared on is not looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jsarag.errors import DataError
from jsarag.study.arms import Arm, Study

TRIAL = "trial"


def trial_arms(study: Study, arm: Arm) -> list[tuple[Arm, dict[str, str]]]:
    """An arm's trials: each as an arm of its own, and the settings it tries."""
    found = []
    for values in itertools.product(*study.tune.values()):
        tried = dict(zip(study.tune, values, strict=True))
        # Decoding says nothing about the rows held back.
        settings = {**arm.settings, **tried, "eval.generation": "false"}
        found.append((Arm(f"{arm.name}@{','.join(values)}", settings), tried))
    return found


def trial_row(row: Mapping[str, Any], arm: Arm, tried: Mapping[str, str]) -> dict[str, Any]:
    """A trial's row of a run, told apart from the runs that are compared.

    Raises:
        DataError: nothing was held back from its training.
    """
    if row["held_back"] is None:
        raise DataError(
            f"arm '{arm.name}': --tune compares settings on rows held back from training, and this "
            "data set is too small to hold any back; set train.held_back to a number of rows, or "
            "choose the settings yourself"
        )
    return {**row, "kind": TRIAL, "arm": arm.name, "tried": dict(tried)}


def best_trials(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Arm -> its trial with the largest measure; of equal ones the first."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["kind"] != TRIAL:
            continue
        known = best.get(row["arm"])
        if known is None or row["held_back"]["value"] > known["held_back"]["value"]:
            best[row["arm"]] = row
    return best


def tuned(study: Study, trials: Sequence[Mapping[str, Any]]) -> Study:
    """The study, each arm with the settings of its best trial."""
    best = best_trials(trials)
    arms = [
        replace(arm, settings={**arm.settings, **best[arm.name]["tried"]})
        if arm.name in best
        else arm
        for arm in study.arms
    ]
    return replace(study, arms=arms)
