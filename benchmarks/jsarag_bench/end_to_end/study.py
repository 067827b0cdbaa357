"""Runs a study: the same data, seeds and schedule under several settings, compared pairwise.

    python -m jsarag_bench.end_to_end.study STUDY.yaml --data-root DIR --output runs/studies

A study names arms; each arm is one ``jsarag train`` command per seed, run in a process of its own.
A row per run and a row per comparison (differences of seed-averaged per-example scores, with
bootstrap intervals over whole dialogues) are appended to ``benchmarks/results/``, each with the
machine, the versions, the commit and the command. ``render.py`` turns them into tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jsarag.errors import DataError
from jsarag.eval.compare import read_predictions
from jsarag.eval.significance import differences, group_rows, mean_statistic
from jsarag.io.environment import describe_environment
from jsarag_bench.rows import append_row, results_folder

METRICS = ("R@1", "R@10", "MRR@10")
GENERATION = ("F1",)
FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting of a study.

    settings: dotted key -> value, on top of the recipe and the study's common settings.
    equal_seconds: name of the arm whose training seconds this one gets, or None.
    pace_of: the arm whose seconds per step tell how many steps that is.
    reason: why the arm is there; shown in the table.
    """

    name: str
    settings: Mapping[str, Any]
    reason: str
    equal_seconds: str | None = None
    pace_of: str | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """A named set of arms over one data set."""

    name: str
    dataset: str
    recipe: str | None
    seeds: Sequence[int]
    common: Mapping[str, Any]
    arms: Sequence[Arm]
    against: Sequence[str]


def read_study(path: Path) -> Study:
    """Read a study's YAML.

    Raises:
        DataError: a key is missing or unknown.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        arms = [
            Arm(
                name,
                arm.get("settings", {}),
                arm["reason"],
                arm.get("equal_seconds"),
                arm.get("pace_of"),
            )
            for name, arm in content["arms"].items()
        ]
        return Study(
            name=path.stem,
            dataset=content["dataset"],
            recipe=content.get("recipe"),
            seeds=content["seeds"],
            common=content.get("common", {}),
            arms=arms,
            against=content.get("against", [FROZEN]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"expected a study with dataset, seeds, arms ({error!r})", path=path
        ) from error


def command_of(
    study: Study, arm: Arm, seed: int, folder: Path, data_root: Path | None
) -> list[str]:
    """The ``jsarag train`` command line of one run."""
    inside = data_root / study.dataset if data_root is not None else None
    dataset = str(inside) if inside is not None and inside.is_dir() else study.dataset
    command = ["train", "--dataset", dataset]
    if study.recipe is not None:
        command += ["--recipe", study.recipe]
    settings = {**study.common, **arm.settings, "train.seed": seed}
    for key, value in settings.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        command += ["--set", f"{key}={text}"]
    return [*command, "--output-dir", str(folder), "--json", "--quiet"]


def run_study(study: Study, output: Path, *, data_root: Path | None, results: Path) -> None:
    """Run every arm and seed that is not finished, then compare them."""
    done: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in study.seeds:
        for arm in study.arms:
            folder = output / study.name / f"{arm.name}-{seed}"
            chosen = _at_equal_seconds(study, arm, seed, done)
            command = command_of(study, chosen, seed, folder, data_root)
            finished = folder / "result.json"
            fresh = not finished.is_file()
            if fresh:
                print(f"{study.name}: {arm.name}, seed {seed}", file=sys.stderr, flush=True)
                result = _train(command)
                finished.write_text(json.dumps(result), encoding="utf-8")
            else:
                result = json.loads(finished.read_text(encoding="utf-8"))
            result["warmup_seconds"] = _warmup_seconds(folder)
            done[arm.name, seed] = result
            if fresh:
                append_row(results, _run_row(study, chosen, seed, result, command, data_root))
    for row in _comparisons(study, output):
        append_row(results, row)


def _at_equal_seconds(
    study: Study, arm: Arm, seed: int, done: Mapping[tuple[str, int], Mapping[str, Any]]
) -> Arm:
    """The arm with as many steps as fit into another arm's seconds."""
    if arm.equal_seconds is None or arm.pace_of is None:
        return arm
    budget, pace = done[arm.equal_seconds, seed], done[arm.pace_of, seed]
    per_step = (pace["seconds"] - pace["warmup_seconds"]) / max(pace["steps"], 1)
    steps = max(round((budget["seconds"] - budget["warmup_seconds"]) / per_step), 1)
    return Arm(arm.name, {**arm.settings, "train.max_steps": steps}, arm.reason)


def _train(arguments: Sequence[str]) -> dict[str, Any]:
    # The module and not the script: the study must use the package it was started from.
    command = [sys.executable, "-m", "jsarag_cli", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nexit {found.returncode}\n{found.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(found.stdout)
    return result


def _warmup_seconds(folder: Path) -> float:
    rows = [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return max((row["seconds"] for row in rows if row["kind"] == "warmup"), default=0.0)


def _run_row(
    study: Study,
    arm: Arm,
    seed: int,
    result: Mapping[str, Any],
    command: Sequence[str],
    data_root: Path | None,
) -> dict[str, Any]:
    shown = [
        argument.replace(f"{data_root}{os.sep}", "DIR/") if data_root is not None else argument
        for argument in command
    ]
    return {
        "kind": "run",
        "study": study.name,
        "dataset": study.dataset,
        "arm": arm.name,
        "seed": seed,
        "settings": {**study.common, **arm.settings},
        "seconds": round(result["seconds"], 1),
        "warmup_seconds": round(result["warmup_seconds"], 1),
        "steps": result["steps"],
        "before": _scores(result["before"]),
        "after": _scores(result["after"]),
        "signature": result["after"]["signature"],
        "command": "jsarag " + " ".join(_without_output(shown)),
        "environment": {
            key: value for key, value in describe_environment().items() if key != "command"
        },
    }


def _without_output(command: Sequence[str]) -> list[str]:
    at = list(command).index("--output-dir")
    return [*command[:at], *command[at + 2 :]]


def _scores(result: Mapping[str, Any]) -> dict[str, Any]:
    retrieval = {
        part: None
        if scores is None
        else {name: scores[name] for name in (*METRICS, "R@5", "intervals", "n")}
        for part, scores in result["retrieval"].items()
    }
    generation = result["generation"]
    return {
        "retrieval": retrieval,
        "generation": None
        if generation is None
        else {name: generation[name] for name in ("EM", "F1", "BLEU-4", "ROUGE-L", "n")},
    }


def _comparisons(study: Study, output: Path) -> list[dict[str, Any]]:
    """Every arm against the arms named, on per-example scores averaged over the seeds."""
    split = str(study.common.get("eval.split", "dev"))
    folders = {
        arm.name: [
            output / study.name / f"{arm.name}-{seed}" / "eval" / split for seed in study.seeds
        ]
        for arm in study.arms
    }
    first = study.arms[0].name
    folders[FROZEN] = [
        output / study.name / f"{first}-{seed}" / "eval" / f"{split}-before" for seed in study.seeds
    ]
    scored = {name: _averaged(paths) for name, paths in folders.items()}
    rows = []
    for name in (arm.name for arm in study.arms):
        for other in study.against:
            if other == name:
                continue
            rows.append(
                {
                    "kind": "comparison",
                    "study": study.name,
                    "dataset": study.dataset,
                    "arm": name,
                    "against": other,
                    "seeds": list(study.seeds),
                    "differences": _differences(scored[other], scored[name]),
                }
            )
    return rows


@dataclass(frozen=True, slots=True)
class _Averaged:
    """Per-example scores averaged over seeds: metric -> f64 [n], and the dialogue of each row."""

    values: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]
    dialogues: list[str]
    ids: list[str]


def _averaged(folders: Sequence[Path]) -> _Averaged:
    runs = [read_predictions(folder) for folder in folders]
    kept = [row for row in runs[0] if (row["metrics"].get("prior") or {}).get("R@1") is not None]
    ids = [row["id"] for row in kept]
    values: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    by_id = [{row["id"]: row["metrics"] for row in run} for run in runs]
    for part, names in (("prior", METRICS), ("posterior", METRICS), ("generation", GENERATION)):
        if not all(run[id].get(part) for run in by_id for id in ids):
            continue
        for name in names:
            table = np.array([[run[id][part][name] for id in ids] for run in by_id])
            values[f"{part} {name}"] = table.mean(axis=0)
    return _Averaged(values, [row["dialogue_id"] for row in kept], ids)


def _differences(before: _Averaged, after: _Averaged) -> dict[str, Any]:
    names = [name for name in after.values if name in before.values]
    found = differences(
        {name: mean_statistic(before.values[name]) for name in names},
        {name: mean_statistic(after.values[name]) for name in names},
        group_rows(after.dialogues, after.ids),
        samples=4000,
        seed=1,
    )
    return {name: None if item is None else item._asdict() for name, item in found.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", type=Path, nargs="+", help="study YAML files")
    parser.add_argument("--data-root", type=Path, help="folder that holds the data sets' folders")
    parser.add_argument("--output", type=Path, default=Path("runs/studies"))
    parser.add_argument("--results", type=Path, default=None, help="JSONL file to append rows to")
    arguments = parser.parse_args()
    results = arguments.results or results_folder() / "end_to_end.jsonl"
    for path in arguments.study:
        run_study(
            read_study(path), arguments.output, data_root=arguments.data_root, results=results
        )


if __name__ == "__main__":
    main()
