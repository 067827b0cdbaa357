"""End-to-end study rows as Markdown: scores per arm, and differences with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsarag.study.arms import FROZEN, read_study
from jsarag.study.tuning import best_trials
from jsarag_bench import end_to_end
from jsarag_bench.kernel_tables import short_commit
from jsarag_bench.markdown import table

Row = Mapping[str, Any]

_STUDIES = Path(end_to_end.__file__).parent / "studies"
_SCORES: tuple[tuple[str, str, str], ...] = (
    ("prior R@1", "prior", "R@1"),
    ("R@10", "prior", "R@10"),
    ("MRR@10", "prior", "MRR@10"),
    ("posterior R@1", "posterior", "R@1"),
)
_DIFFERENCES = ("prior R@1", "prior R@10", "prior MRR@10", "posterior R@1", "generation F1")


def study_names(rows: Iterable[Row]) -> list[str]:
    """Studies that have rows."""
    return sorted({row["study"] for row in rows})


def study_tables(name: str, rows: Iterable[Row]) -> str:
    """Both tables of one study; the newest row of each (arm, seed) and of each comparison."""
    runs: dict[tuple[str, int], Row] = {}
    comparisons: dict[tuple[str, str], Row] = {}
    trials: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row["study"] != name:
            continue
        if row["kind"] == "run":
            runs[row["arm"], row["seed"]] = row
        elif row["kind"] == "comparison":
            comparisons[row["arm"], row["against"]] = row
        elif row["kind"] == "trial":
            trials[row["arm"], _tried(row)] = row
    if not runs:
        return (
            f"No rows yet: `jsarag compare --study "
            f"benchmarks/jsarag_bench/end_to_end/studies/{name}.yaml` measures them."
        )
    parts = [_about(list(runs.values())), _scores(name, runs)]
    if comparisons:
        over_seeds = all("seeds" in row.get("resampled", ()) for row in comparisons.values())
        resampled = "whole dialogues and seeds" if over_seeds else "whole dialogues"
        parts += [
            "Differences in points, averaged over seeds per example, with 95 % intervals over "
            f"{resampled}; bold where the interval leaves 0 out.",
            _differences(name, list(comparisons.values())),
        ]
    if trials:
        parts += [
            "Settings tried for every arm, on training rows that were held back; the best, in "
            "bold, is what the arm is compared with.",
            _trials(trials),
        ]
    return "\n\n".join(parts)


def _tried(row: Row) -> str:
    return ", ".join(f"{key}={value}" for key, value in row["tried"].items())


def _trials(rows: Mapping[tuple[str, str], Row]) -> str:
    columns = list(dict.fromkeys(tried for _, tried in rows))
    best = best_trials(rows.values())
    lines = []
    for arm, chosen in best.items():
        cells = []
        for tried in columns:
            row = rows.get((arm, tried))
            text = "-" if row is None else f"{row['held_back']['value']:.3f}"
            cells.append(f"**{text}**" if row is chosen else text)
        lines.append((arm, *cells))
    return table(("arm", *columns), lines, right=range(1, 1 + len(columns)))


def _scores(name: str, runs: Mapping[tuple[str, int], Row]) -> str:
    reasons = _reasons(name)
    arms = [arm for arm in reasons if any(arm == key[0] for key in runs)]
    arms += sorted({arm for arm, _ in runs} - set(arms))
    # Before training every arm is the same: the first one's scores stand for all.
    first = _of_arm(runs, arms[0])
    lines = [
        (
            FROZEN,
            "before training",
            _seeds(first),
            *_score_cells(first, "before"),
            "0",
            "0",
        )
    ]
    for arm in arms:
        found = _of_arm(runs, arm)
        lines.append(
            (
                arm,
                reasons.get(arm, "-"),
                _seeds(found),
                *_score_cells(found, "after"),
                _mean_text(found, lambda row: row["steps"], "{:,.0f}"),
                _mean_text(found, lambda row: row["seconds"], "{:,.0f}"),
            )
        )
    heads = ("arm", "reason", "seeds", *(head for head, _, _ in _SCORES), "F1", "steps", "seconds")
    return table(heads, lines, right=range(3, len(heads)))


def _score_cells(rows: Sequence[Row], when: str) -> list[str]:
    cells = [_mean_text(rows, partial(_score, when, part, metric)) for _, part, metric in _SCORES]
    return [*cells, _mean_text(rows, lambda row: (row[when]["generation"] or {}).get("F1"))]


def _score(when: str, part: str, metric: str, row: Row) -> float | None:
    found = (row[when]["retrieval"].get(part) or {}).get(metric)
    return None if found is None else float(found)


def _differences(name: str, rows: Sequence[Row]) -> str:
    order = {arm: place for place, arm in enumerate(_reasons(name))}
    shown = [
        metric
        for metric in _DIFFERENCES
        if any(row["differences"].get(metric) is not None for row in rows)
    ]
    lines = [
        (row["arm"], row["against"], *(_difference(row["differences"].get(m)) for m in shown))
        for row in sorted(
            rows, key=lambda row: (order.get(row["arm"], len(order)), row["arm"], row["against"])
        )
    ]
    return table(("arm", "against", *shown), lines, right=range(2, 2 + len(shown)))


def _difference(found: Row | None) -> str:
    if found is None:
        return "-"
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _about(rows: Sequence[Row]) -> str:
    """The passport: machine, versions, commits, dates, one command."""
    environments = [row["environment"] for row in rows]
    machines = sorted(
        {
            item["cuda_device"] or f"{item['cpu']}, {item['usable_cores']} cores"
            for item in environments
        }
    )
    commits = sorted({short_commit(item["commit"]) for item in environments})
    dates = sorted({str(row["date"])[:10] for row in rows})
    return (
        f"Data {rows[0]['dataset']}; {'; '.join(machines)}; commit {', '.join(commits)}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}. Scores are means over seeds, in "
        f"points. For example `{rows[0]['command']}`."
    )


def _reasons(name: str) -> dict[str, str]:
    """Arm -> why it is there, in the study's order; empty where its file is gone."""
    path = _STUDIES / f"{name}.yaml"
    if not path.is_file():
        return {}
    return {arm.name: arm.reason for arm in read_study(path).arms}


def _of_arm(runs: Mapping[tuple[str, int], Row], arm: str) -> list[Row]:
    return [row for (name, _), row in sorted(runs.items()) if name == arm]


def _seeds(rows: Sequence[Row]) -> str:
    return ", ".join(str(row["seed"]) for row in rows)


def _mean_text(
    rows: Sequence[Row], value: Callable[[Row], float | None], form: str | None = None
) -> str:
    """The mean where every row has a value; points unless ``form`` says otherwise."""
    values = [value(row) for row in rows]
    known = [item for item in values if item is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = statistics.fmean(known)
    return f"{100 * mean:.1f}" if form is None else form.format(mean)
