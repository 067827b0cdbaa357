"""A run folder as the report reads it: whatever is there, finished or not.

Reads the folder only: no model, index or data set. A part that is missing is None or empty, a part
that is damaged is missing and noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jsarag.errors import DataError, JsaragError
from jsarag.eval.compare import Comparison, compare_predictions, read_predictions
from jsarag.eval.evaluate import METRICS_FILE, PREDICTIONS_FILE
from jsarag.io.records import read_record
from jsarag.io.run_dir import RunDir

_BEFORE = "-before"
_STEPS = ("warmup", "train", "concat")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of ``events.log``; ``level`` is 'warning', 'truncated' or 'info'."""

    time: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One evaluation: the JSON of ``metrics.json`` and, where stored, every row."""

    metrics: Mapping[str, Any]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    step: int | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything the report shows.

    Attributes:
        name: the folder's name.
        config: the resolved configuration, {} where there is none.
        config_text: the same as it was written, with the source of each value.
        environment: ``env.json``.
        rows: ``metrics.jsonl``.
        events: ``events.log``.
        split: what ``before`` and ``after`` were scored on.
        before, after: evaluations; ``after`` is the latest there is, see ``finished``.
        comparison: paired differences where both have rows.
        finished: whether the run got to its end.
        problems: what could not be read.
    """

    name: str
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    rows: list[dict[str, Any]]
    events: list[Event]
    split: str
    before: EvalRecord | None
    after: EvalRecord | None
    comparison: Comparison | None
    finished: bool
    problems: tuple[str, ...] = ()

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting by its dotted key."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    def rows_of(self, kind: str) -> list[dict[str, Any]]:
        """The rows of one kind, in order."""
        return [row for row in self.rows if row.get("kind") == kind]

    @property
    def step(self) -> int:
        """The last step any row speaks of."""
        return max(
            (int(row["step"]) for row in self.rows if row.get("step") is not None), default=0
        )

    @property
    def seconds(self) -> float | None:
        """Training time so far, None where unknown."""
        known = [row["seconds"] for row in self.rows if row.get("seconds") is not None]
        return float(max(known)) if known else None


def read_run(run_dir: RunDir, *, samples: int = 2000) -> RunRecord:
    """Read a run folder.

    Args:
        run_dir: the folder; it must exist, nothing in it must.
        samples: resamples for the paired intervals.

    Raises:
        DataError: there is no such folder.
    """
    if not run_dir.path.is_dir():
        raise DataError(
            "expected a run folder, found none; give the folder that `jsarag train` wrote",
            path=run_dir.path,
        )
    problems: list[str] = []
    text = _read_text(run_dir.config_path)
    config = _parsed_config(run_dir, text, problems)
    rows = _metric_rows(run_dir, problems)
    split = _split(run_dir, config)
    before, after = _evaluations(run_dir, rows, split, problems)
    return RunRecord(
        name=run_dir.path.resolve().name,
        config=config,
        config_text=text,
        environment=_json_object(run_dir.env_path, problems),
        rows=rows,
        events=[_event(line) for line in _read_text(run_dir.events_path).split("\n") if line],
        split=split,
        before=before,
        after=after,
        comparison=_comparison(before, after, config, samples),
        finished=_finished(rows),
        problems=tuple(problems),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _parsed_config(run_dir: RunDir, text: str, problems: list[str]) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problems.append(f"{run_dir.config_path.name} is no YAML ({error})")
        config = None
    if isinstance(config, dict):
        return config
    stored = _json_object(run_dir.run_path, problems).get("config")
    return stored if isinstance(stored, dict) else {}


def _metric_rows(run_dir: RunDir, problems: list[str]) -> list[dict[str, Any]]:
    try:
        return run_dir.read_metrics()
    except JsaragError as error:
        problems.append(f"{run_dir.metrics_path.name} is damaged ({error})")
        return []


def _json_object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return read_record(path, fix="the report leaves it out")
    except JsaragError as error:
        problems.append(f"{path.name} is damaged ({error})")
        return {}


def _finished(rows: list[dict[str, Any]]) -> bool:
    """Whether the last thing done was finishing; a run may be continued after that."""
    kinds = [row.get("kind") for row in rows]
    last = max((place for place, kind in enumerate(kinds) if kind in _STEPS), default=-1)
    return "summary" in kinds[last + 1 :]


def _event(line: str) -> Event:
    time, _, text = line.partition(" ")
    for level in ("warning", "truncated"):
        if text.startswith(f"{level}: "):
            return Event(time, level, text.removeprefix(f"{level}: "))
    return Event(time, "info", text)


def _split(run_dir: RunDir, config: Mapping[str, Any]) -> str:
    """The configured split if it was evaluated, else one that was."""
    named = config.get("eval")
    wanted = named.get("split") if isinstance(named, Mapping) else None
    folder = run_dir.eval_path("x").parent
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    splits = list(dict.fromkeys(name.removesuffix(_BEFORE) for name in found))
    if wanted in splits or not splits:
        return str(wanted or "dev")
    return splits[0]


def _evaluations(
    run_dir: RunDir, rows: list[dict[str, Any]], split: str, problems: list[str]
) -> tuple[EvalRecord | None, EvalRecord | None]:
    """Before and after: from their folders, or from the log where a folder is missing."""
    logged = [row for row in rows if row.get("kind") == "eval" and row.get("split", split) == split]
    first = next((row for row in logged if not row.get("step")), None)
    last = next((row for row in reversed(logged) if row.get("step")), None)
    before = _stored(run_dir.eval_path(f"{split}{_BEFORE}"), first, problems)
    after = _stored(run_dir.eval_path(split), last, problems)
    return before, after


def _stored(
    folder: Path, logged: Mapping[str, Any] | None, problems: list[str]
) -> EvalRecord | None:
    step = None if logged is None else int(logged.get("step") or 0)
    metrics = _json_object(folder / METRICS_FILE, problems)
    if not metrics:
        return None if logged is None else EvalRecord(logged, [], step)
    predictions: list[dict[str, Any]] = []
    if (folder / PREDICTIONS_FILE).is_file():
        try:
            predictions = read_predictions(folder)
        except DataError as error:
            problems.append(str(error))
    return EvalRecord(metrics, predictions, step)


def _comparison(
    before: EvalRecord | None, after: EvalRecord | None, config: Mapping[str, Any], samples: int
) -> Comparison | None:
    if before is None or after is None or not (before.predictions and after.predictions):
        return None
    train = config.get("train")
    seed = train.get("seed") if isinstance(train, Mapping) else None
    return compare_predictions(
        before.predictions, after.predictions, samples=samples, seed=int(seed or 1)
    )
