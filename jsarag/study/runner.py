"""Runs every arm and seed of a study, one training process at a time, a row for each.

An arm's run is an ordinary ``jsarag train`` in a folder of its own, so what was finished before a
kill is not repeated and what was half finished goes on. Rows are on disk as soon as a run ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsarag.errors import CheckpointError, GuardError
from jsarag.eval.evaluate import METRICS_FILE
from jsarag.io.environment import describe_environment
from jsarag.io.records import read_record, write_record
from jsarag.io.run_dir import RunDir
from jsarag.study.arms import PLACES, Arm, Study
from jsarag.study.process import Ended, run_process
from jsarag.study.rows import add_row
from jsarag.study.tuning import trial_arms, trial_row, tuned
from jsarag.train.kept import read_decision
from jsarag.train.reporting import Reporter

ROWS_FILE = "rows.jsonl"
_RESULT = "result.json"
_METRICS = ("R@1", "R@5", "R@10", "MRR@10", "intervals", "n")
_GENERATION = ("EM", "F1", "BLEU-4", "ROUGE-L", "n")
_PLACES = ("--output-dir", *(f"{key}=" for key in PLACES))


def run_study(
    study: Study,
    folder: Path,
    program: Sequence[str],
    reporter: Reporter,
    copies: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Run what is not finished, in the study's order, seed by seed; what is tuned is tuned first.

    Args:
        study: what to run.
        folder: gets ``<arm>-<seed>/`` for each run and :data:`ROWS_FILE`.
        program: the command whose verbs ``train`` and ``eval`` are called.
        reporter: told what runs.
        copies: further files that get each row.

    Returns:
        A row a run, in the order they ran: arm, seed, settings, seconds, steps, generator forwards,
        peak memory, scores before and after and on the rows held back, what a guard said, command
        and environment. Trials come first and have ``kind`` "trial".

    Raises:
        JsaragError: a run ended with an error (its own, or ArmFailedError); those before it are
            kept.
        CheckpointError: the folder holds another study's runs.
        DataError: settings are to be tuned, and nothing was held back to tune them on.
        PreemptedError, KeyboardInterrupt: a signal came; the run it interrupted is saved.
    """
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        # Also of a stored run: a kill may have come between its two files.
        for path in (folder / ROWS_FILE, *copies):
            add_row(path, row)
        rows.append(row)

    if study.tune:
        trials = [(arm, *trial) for arm in study.arms for trial in trial_arms(study, arm)]
        reporter.stage(f"tune {len(study.arms)} arms", len(trials))
        for arm, trial, tried in trials:
            row = _finished(_Run(study, trial, study.seeds[0], folder), program, reporter)
            keep(trial_row(row, arm, tried))
            reporter.advance(len(rows))
        study = tuned(study, rows)
    done: dict[tuple[str, int], dict[str, Any]] = {}
    reporter.stage(f"compare {len(study.arms)} arms", len(study.arms) * len(study.seeds))
    for seed in study.seeds:
        for arm in study.arms:
            run = _Run(study, _at_equal_seconds(arm, seed, done), seed, folder)
            done[arm.name, seed] = _finished(run, program, reporter)
            keep(done[arm.name, seed])
            reporter.advance(len(done))
    return rows


def _finished(run: _Run, program: Sequence[str], reporter: Reporter) -> dict[str, Any]:
    """A run's row; it is trained unless it was before."""
    row = run.stored_row()
    if row is None:
        reporter.event(f"{run.name}: {run.shown}")
        row = run.train(program)
        if row["stopped"]:
            reporter.event(f"{run.name}: {row['stopped']}", "warning")
    return row


def command_of(study: Study, arm: Arm, seed: int, folder: Path) -> list[str]:
    """Options of ``jsarag train`` for one run."""
    options = ["--dataset", study.dataset]
    if study.recipe is not None:
        options += ["--recipe", study.recipe]
    settings = {**study.common, **arm.settings, "train.seed": str(seed)}
    for key, value in settings.items():
        options += ["--set", f"{key}={value}"]
    return [*options, "--output-dir", str(folder), "--json", "--quiet"]


class _Run:
    """One arm with one seed: its folder, its command, its row."""

    def __init__(self, study: Study, arm: Arm, seed: int, folder: Path) -> None:
        self._study, self._arm, self._seed = study, arm, seed
        self._run_dir = RunDir(folder / f"{arm.name}-{seed}")
        self._options = command_of(study, arm, seed, self._run_dir.path)
        self._public = _public(self._options, study.dataset)
        self.name = f"arm {arm.name}, seed {seed}"
        self.shown = f"jsarag train {' '.join(self._public)}"

    def stored_row(self) -> dict[str, Any] | None:
        """The row, if this run was finished before."""
        path = self._run_dir.path / _RESULT
        if not path.is_file():
            return None
        fix = "restore it from a copy, or remove it to train this arm again"
        stored = read_record(path, fix=fix)
        if not isinstance(stored.get("command"), list) or not isinstance(stored.get("row"), dict):
            raise CheckpointError(f"{path}: expected the 'command' and 'row' of a run; {fix}")
        if stored["command"] != self._public:
            raise CheckpointError(
                f"{path}: expected the run of arm '{self._arm.name}' with these settings, found "
                f"one with others: {' '.join(stored['command'])}; use another --output-dir"
            )
        row: dict[str, Any] = stored["row"]
        return row

    def train(self, program: Sequence[str]) -> dict[str, Any]:
        """Train to the end, and store the row."""
        ended = run_process([*program, "train", *self._options])
        result, stopped = ended.result, None
        if result is None and ended.code == GuardError.exit_code:
            result, stopped = self._what_was_kept(program, ended), ended.said
        if result is None or ended.code not in (0, GuardError.exit_code):
            raise ended.error(self._what(f"train {' '.join(self._options)}"))
        kept = result.get("kept") or {}
        if stopped is None and kept.get("worse"):
            stopped = f"training made it worse, so {kept['reason']}"
        row = self._row(result, stopped)
        write_record(self._run_dir.path / _RESULT, {"command": self._public, "row": row})
        return row

    def _what_was_kept(self, program: Sequence[str], stopped: Ended) -> dict[str, Any]:
        """The result of a run that a guard stopped: such an end is an outcome like any other."""
        split = self._study.config().eval.split
        before = self._run_dir.eval_path(f"{split}-before") / METRICS_FILE
        rows = [row for row in self._run_dir.read_metrics() if "seconds" in row]
        if not before.is_file() or not rows:
            raise stopped.error(self._what("train"))
        options = ["eval", str(self._run_dir.path), "--json", "--quiet"]
        ended = run_process([*program, *options])
        if ended.result is None or ended.code != 0:
            raise ended.error(self._what(" ".join(options)))
        return {
            "before": read_record(before, fix="remove the folder of this run to train it again"),
            "after": ended.result,
            "seconds": max(row["seconds"] for row in rows),
            "steps": max(row.get("step", 0) for row in rows),
            "generator_forwards": max(row.get("generator_forwards", 0) for row in rows),
            "peak_bytes": None,
        }

    def _what(self, command: str) -> str:
        return f"arm '{self._arm.name}', seed {self._seed}: `jsarag {command}`"

    def _row(self, result: Mapping[str, Any], stopped: str | None) -> dict[str, Any]:
        return {
            "kind": "run",
            "study": self._study.name,
            "dataset": Path(self._study.dataset).name,
            "arm": self._arm.name,
            "seed": self._seed,
            "settings": {
                key: value
                for key, value in {**self._study.common, **self._arm.settings}.items()
                if key not in PLACES
            },
            "seconds": round(result["seconds"], 1),
            "warmup_seconds": round(_warmup_seconds(self._run_dir), 1),
            "steps": result["steps"],
            "generator_forwards": result["generator_forwards"],
            "peak_bytes": result["peak_bytes"],
            "before": _scores(result["before"]),
            "after": _scores(result["after"]),
            "held_back": _held_back(self._run_dir),
            "stopped": stopped,
            "signature": result["after"]["signature"],
            "command": self.shown,
            "environment": {
                key: value for key, value in describe_environment().items() if key != "command"
            },
        }


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


def _public(command: Sequence[str], dataset: str) -> list[str]:
    """The command without places of this machine."""
    kept: list[str] = []
    for option, value in zip([*command[0::2]], [*command[1::2]], strict=False):
        if option in _PLACES or value.startswith(_PLACES) or option == "--json":
            continue
        kept += [option, f"DIR/{Path(value).name}" if value == dataset and "/" in value else value]
    return kept


def _warmup_seconds(run_dir: RunDir) -> float:
    rows = run_dir.read_metrics()
    return max((row["seconds"] for row in rows if row["kind"] == "warmup"), default=0.0)


def _held_back(run_dir: RunDir) -> dict[str, Any] | None:
    """What the kept state measures on the rows held back; None where there are none."""
    decision = read_decision(run_dir)
    if decision is None:
        return None
    readings = [
        row
        for row in run_dir.read_metrics()
        if row["kind"] == "watch" and row["step"] == decision["kept"]
    ]
    row = readings[-1]
    return {"measure": row["measure"], "step": row["step"], "value": row["value"]}


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
