"""Runs every arm and seed of a study, one training process at a time, a row for each.

An arm's run is an ordinary ``jsarag train`` in a folder of its own, so what was finished before a
kill is not repeated and what was half finished goes on. Rows are on disk as soon as a run ends.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsarag.errors import CheckpointError, JsaragError
from jsarag.io.atomic import to_json, write_text
from jsarag.io.environment import describe_environment
from jsarag.io.lines import append_line
from jsarag.study.arms import Arm, Study
from jsarag.train.reporting import Reporter

ROWS_FILE = "rows.jsonl"
_RESULT = "result.json"
_METRICS = ("R@1", "R@5", "R@10", "MRR@10", "intervals", "n")
_GENERATION = ("EM", "F1", "BLEU-4", "ROUGE-L", "n")
# Settings that only say where things lie.
_PLACES = ("--output-dir", "index.cache_dir=")


class ArmFailedError(JsaragError):
    """A run of an arm ended with an error; carries what it said."""


def run_study(
    study: Study, folder: Path, train: Sequence[str], reporter: Reporter
) -> list[dict[str, Any]]:
    """Run what is not finished, in the study's order, seed by seed.

    Args:
        study: what to run.
        folder: gets ``<arm>-<seed>/`` for each run and :data:`ROWS_FILE`.
        train: the command that trains, up to its first option.
        reporter: told what runs.

    Returns:
        A row a run, in the order they ran: arm, seed, settings, seconds, steps, generator forwards,
        peak memory, scores before and after, command and environment.

    Raises:
        ArmFailedError: a run ended with an error; those before it are kept.
        CheckpointError: the folder holds another study's runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done: dict[tuple[str, int], dict[str, Any]] = {}
    reporter.stage(f"compare {len(study.arms)} arms", len(study.arms) * len(study.seeds))
    for seed in study.seeds:
        for arm in study.arms:
            chosen = _at_equal_seconds(arm, seed, done)
            command = command_of(study, chosen, seed, folder / f"{arm.name}-{seed}")
            done[arm.name, seed] = _row(study, chosen, seed, command, folder, train, reporter)
            reporter.advance(len(done))
    return list(done.values())


def command_of(study: Study, arm: Arm, seed: int, folder: Path) -> list[str]:
    """Options of ``jsarag train`` for one run."""
    options = ["--dataset", study.dataset]
    if study.recipe is not None:
        options += ["--recipe", study.recipe]
    settings = {**study.common, **arm.settings, "train.seed": str(seed)}
    for key, value in settings.items():
        options += ["--set", f"{key}={value}"]
    return [*options, "--output-dir", str(folder), "--json", "--quiet"]


def _row(
    study: Study,
    arm: Arm,
    seed: int,
    command: Sequence[str],
    folder: Path,
    train: Sequence[str],
    reporter: Reporter,
) -> dict[str, Any]:
    """The row of a run that was finished before, or that is run now."""
    finished = folder / f"{arm.name}-{seed}" / _RESULT
    if finished.is_file():
        stored: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        if stored["command"] != _public(command, study.dataset):
            raise CheckpointError(
                f"{finished}: expected the run of arm '{arm.name}' with these settings, found one "
                f"with others: {' '.join(stored['command'])}; use another --output-dir"
            )
        row: dict[str, Any] = stored["row"]
        return row
    reporter.event(f"arm {arm.name}, seed {seed}: jsarag train {' '.join(command)}")
    result = _train([*train, *command], arm, seed)
    row = _run_row(study, arm, seed, result, command, folder)
    append_line(folder / ROWS_FILE, to_json(row), durable=True)
    write_text(finished, to_json({"command": _public(command, study.dataset), "row": row}))
    return row


def _train(command: Sequence[str], arm: Arm, seed: int) -> dict[str, Any]:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    # 6: a guard kept the start; that is an outcome, with a result like any other.
    if found.returncode not in (0, 6) or not found.stdout.strip():
        raise ArmFailedError(
            f"arm '{arm.name}', seed {seed}: `{' '.join(command)}` ended with exit code "
            f"{found.returncode}: {found.stderr[-2000:].strip()}"
        )
    result: dict[str, Any] = json.loads(found.stdout)
    return result


def _at_equal_seconds(
    arm: Arm, seed: int, done: Mapping[tuple[str, int], Mapping[str, Any]]
) -> Arm:
    """The arm with as many steps as fit into another arm's seconds."""
    if arm.equal_seconds is None or arm.pace_of is None:
        return arm
    budget, pace = done[arm.equal_seconds, seed], done[arm.pace_of, seed]
    per_step = (pace["seconds"] - pace["warmup_seconds"]) / max(pace["steps"], 1)
    steps = max(round((budget["seconds"] - budget["warmup_seconds"]) / per_step), 1)
    return replace(arm, settings={**arm.settings, "train.max_steps": str(steps)})


def _run_row(
    study: Study,
    arm: Arm,
    seed: int,
    result: Mapping[str, Any],
    command: Sequence[str],
    folder: Path,
) -> dict[str, Any]:
    name = Path(study.dataset).name
    metrics = folder / f"{arm.name}-{seed}" / "metrics.jsonl"
    return {
        "kind": "run",
        "study": study.name,
        "dataset": name,
        "arm": arm.name,
        "seed": seed,
        "settings": {**study.common, **arm.settings},
        "seconds": round(result["seconds"], 1),
        "warmup_seconds": round(_warmup_seconds(metrics), 1),
        "steps": result["steps"],
        "generator_forwards": result["generator_forwards"],
        "peak_bytes": result["peak_bytes"],
        "before": _scores(result["before"]),
        "after": _scores(result["after"]),
        "signature": result["after"]["signature"],
        "command": "jsarag train " + " ".join(_public(command, study.dataset)),
        "environment": {
            key: value for key, value in describe_environment().items() if key != "command"
        },
    }


def _public(command: Sequence[str], dataset: str) -> list[str]:
    """The command without places of this machine."""
    kept: list[str] = []
    for option, value in zip([*command[0::2]], [*command[1::2]], strict=False):
        if option in _PLACES or value.startswith(_PLACES) or option == "--json":
            continue
        kept += [option, f"DIR/{Path(value).name}" if value == dataset and "/" in value else value]
    return kept


def _warmup_seconds(metrics: Path) -> float:
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return max((row["seconds"] for row in rows if row["kind"] == "warmup"), default=0.0)


def _scores(result: Mapping[str, Any]) -> dict[str, Any]:
    retrieval = {
        part: None if scores is None else {name: scores[name] for name in _METRICS}
        for part, scores in result["retrieval"].items()
    }
    generation = result["generation"]
    return {
        "retrieval": retrieval,
        "generation": None
        if generation is None
        else {name: generation[name] for name in _GENERATION},
    }
