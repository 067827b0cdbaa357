"""``--report-to``: a run's rows for TensorBoard, Weights & Biases or Trackio, when asked.

The packages are optional and imported only here. TensorBoard and Trackio write files; W&B stays
offline unless WANDB_MODE or WANDB_API_KEY says otherwise, so nothing logs in by surprise.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any, Protocol

from jsarag.errors import BackendUnavailableError
from jsarag.io.run_dir import RunDir
from jsarag.train.reporting import Level, Reporter

_PROJECT = "jsarag"
_KINDS = ("warmup", "train", "concat", "eval")


class Tracker(Protocol):
    """Where numbers go."""

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one row, named ``kind/...``."""

    def close(self) -> None:
        """The run is over."""


class TrackingReporter:
    """Forwards everything to a reporter, and rows and scores to the trackers.

    A tracker that fails is dropped with a warning: training goes on.
    """

    def __init__(self, reporter: Reporter, trackers: Mapping[str, Tracker]) -> None:
        self._reporter, self._trackers = reporter, dict(trackers)

    def stage(self, name: str, total: int | None) -> None:
        """Forwarded."""
        self._reporter.stage(name, total)

    def advance(self, done: int) -> None:
        """Forwarded."""
        self._reporter.advance(done)

    def step(self, record: Mapping[str, Any]) -> None:
        """Forwarded; the row's numbers are tracked at its stage's own step."""
        self._reporter.step(record)
        kind = str(record["kind"])
        step = int(record.get(f"{kind}_step", record["step"]))
        self._log(kind, step, numbers(record, kind))

    def evaluated(self, step: int, result: Mapping[str, Any]) -> None:
        """Forwarded; scores are tracked under ``eval/``."""
        self._reporter.evaluated(step, result)
        scores = {part: result.get(part) for part in ("retrieval", "generation")}
        self._log("eval", step, numbers(scores, "eval"))

    def event(self, text: str, level: Level = "info") -> None:
        """Forwarded."""
        self._reporter.event(text, level)

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Forwarded."""
        self._reporter.finished(summary)

    def close(self) -> None:
        """End every tracker's run."""
        for name in list(self._trackers):
            self._guarded(name, lambda tracker: tracker.close())

    def _log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name in list(self._trackers):
            self._guarded(name, lambda tracker: tracker.log(kind, step, values))

    def _guarded(self, name: str, act: Callable[[Tracker], None]) -> None:
        try:
            with _quiet_stdout():
                act(self._trackers[name])
        except (OSError, RuntimeError, ValueError) as error:
            del self._trackers[name]
            self._reporter.event(f"{name} failed ({error}); training goes on without it", "warning")


def numbers(record: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Every number of a nested record under a path of its keys; lists and texts are left out."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}/{key}"] = float(value)
    return found


def track(
    reporter: Reporter,
    names: Sequence[str],
    run_dir: RunDir,
    config: Mapping[str, Any],
    *,
    step: int,
) -> TrackingReporter:
    """A reporter that also tells the named trackers; none outside rank 0.

    Args:
        reporter: who is told anyway.
        names: of ``output.report_to``.
        run_dir: a claimed run folder; trackers write below it where they let one choose.
        config: the resolved configuration, JSON types.
        step: where the run continues; later rows of an earlier attempt are hidden.

    Raises:
        BackendUnavailableError: a tracker's package is not installed.
    """
    chosen = names if os.environ.get("RANK", "0") == "0" else ()
    with _quiet_stdout():
        trackers = {name: _TRACKERS[name](run_dir, config, step) for name in chosen}
    return TrackingReporter(reporter, trackers)


class _TensorBoard:
    def __init__(self, run_dir: RunDir, config: Mapping[str, Any], step: int) -> None:
        module = _import("torch.utils.tensorboard", "tensorboard")
        folder = run_dir.path / "tensorboard"
        self._writer = module.SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run_dir: RunDir, config: Mapping[str, Any], step: int) -> None:
        module = _import("wandb", "wandb")
        online = "WANDB_API_KEY" in os.environ
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run_dir.path.name,
            id=_identity(run_dir),
            resume="allow",
            dir=str(run_dir.path),
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "online" if online else "offline"),
        )
        for kind in _KINDS:  # each stage counts for itself
            self._run.define_metric(f"{kind}/step")
            self._run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, f"{kind}/step": step})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, run_dir: RunDir, config: Mapping[str, Any], step: int) -> None:
        self._module = _import("trackio", "trackio")
        self._module.init(
            project=_PROJECT,
            name=f"{run_dir.path.name}-{_identity(run_dir)[:8]}",
            config=dict(config),
            resume="allow",
        )

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._module.log({**values, f"{kind}/step": step})

    def close(self) -> None:
        self._module.finish()


_TRACKERS: dict[str, Callable[[RunDir, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}


def _identity(run_dir: RunDir) -> str:
    """The same for every continuation of a run, different for every other run."""
    identity = run_dir.identity()
    text = f"{identity['fingerprint']} {identity['created']}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _quiet_stdout() -> AbstractContextManager[Any]:
    # stdout is a verb's result; Trackio prints there.
    return redirect_stdout(sys.stderr)


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendUnavailableError(
            f"output.report_to: '{package}' is asked for and not installed ({error}). Run "
            "`pip install 'jsarag[track]'`, or drop it from --report-to"
        ) from error
