"""What reaches a tracker, under which names, and what happens when there is none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from jsarag.errors import BackendUnavailableError
from jsarag.io.run_dir import RunDir
from jsarag.train.reporting import SilentReporter
from jsarag.train.tracking import numbers, track

ROW = {
    "kind": "warmup",
    "step": 0,
    "warmup_step": 3,
    "loss": 2.5,
    "stations": {"loss": 0.5},
    "strict": True,
    "note": "text",
}
SCORES = {
    "retrieval": {"prior": {"R@1": 0.5, "intervals": {"R@1": [0.4, 0.6]}}, "posterior": None},
    "generation": {"F1": 0.25, "BLEU-4": None},
    "signature": "s",
}


class Listener(SilentReporter):
    """Remembers events and steps."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.steps: list[Mapping[str, Any]] = []

    def step(self, record: Mapping[str, Any]) -> None:
        self.steps.append(record)

    def event(self, text: str, level: str = "info") -> None:
        self.events.append((text, level))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.claim({"train": {"seed": 1}})
    return run


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    made = ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


class Wandb:
    """A stand-in for the package and for the run that ``init`` returns."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.finished = False

    def init(self, **options: Any) -> Wandb:
        print("a tracker talks")
        self.options = options
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        assert step_metric is None or name.endswith("*")

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished = True


def test_numbers_are_named_by_their_path() -> None:
    assert numbers(ROW, "warmup") == {
        "warmup/step": 0.0,
        "warmup/warmup_step": 3.0,
        "warmup/loss": 2.5,
        "warmup/stations/loss": 0.5,
    }


def test_wandb_gets_rows_and_scores_offline_and_nothing_on_stdout(
    run_dir: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    fake, listener = Wandb(), Listener()
    module(monkeypatch, "wandb", init=fake.init)
    reporter = track(listener, ["wandb"], run_dir, {"seed": 1}, step=0)
    reporter.step(ROW)
    reporter.evaluated(7, SCORES)
    reporter.close()
    assert fake.options["mode"] == "offline"
    assert fake.options["config"] == {"seed": 1}
    assert fake.rows[0]["warmup/loss"] == 2.5
    assert fake.rows[0]["warmup/step"] == 3
    assert fake.rows[1] == {
        "eval/retrieval/prior/R@1": 0.5,
        "eval/generation/F1": 0.25,
        "eval/step": 7,
    }
    assert fake.finished
    assert listener.steps == [ROW]
    assert capsys.readouterr().out == ""
    first = fake.options["id"]
    track(listener, ["wandb"], run_dir, {}, step=5)
    assert fake.options["id"] == first


def test_tensorboard_writes_into_the_run_and_hides_what_a_resumed_run_repeats(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def writer(folder: str, purge_step: int | None) -> Any:
        scalars: list[tuple[str, float, int]] = []
        made.append(SimpleNamespace(folder=folder, purge_step=purge_step, scalars=scalars))
        return SimpleNamespace(
            add_scalar=lambda name, value, step: scalars.append((name, value, step)),
            close=lambda: scalars.append(("closed", 0.0, 0)),
        )

    module(monkeypatch, "torch.utils.tensorboard", SummaryWriter=writer)
    for step in (0, 40):
        reporter = track(Listener(), ["tensorboard"], run_dir, {}, step=step)
        reporter.step({"kind": "train", "step": step + 1, "train_step": step + 1, "loss": 1.0})
        reporter.close()
    assert [one.purge_step for one in made] == [None, 41]
    assert Path(made[0].folder).parent == run_dir.path
    assert ("train/loss", 1.0, 41) in made[1].scalars
    assert made[1].scalars[-1][0] == "closed"


def test_trackio_continues_by_name(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    module(
        monkeypatch,
        "trackio",
        init=lambda **options: calls.append(options),
        log=calls.append,
        finish=lambda: calls.append("finished"),
    )
    reporter = track(Listener(), ["trackio"], run_dir, {}, step=0)
    reporter.step(ROW)
    reporter.close()
    assert calls[0]["resume"] == "allow"
    assert calls[0]["name"].startswith("run-")
    assert calls[1]["warmup/loss"] == 2.5
    assert calls[2] == "finished"


def test_a_failing_tracker_is_dropped_with_a_warning(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, listener = Wandb(), Listener()

    def full(row: dict[str, Any]) -> None:
        fake.rows.append(row)
        raise OSError("disk full")

    fake.log = full  # type: ignore[method-assign]
    module(monkeypatch, "wandb", init=fake.init)
    reporter = track(listener, ["wandb"], run_dir, {}, step=0)
    reporter.step(ROW)
    reporter.step(ROW)
    reporter.close()
    assert len(fake.rows) == 1
    assert listener.events == [("wandb failed (disk full); training goes on without it", "warning")]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_an_absent_package_names_the_extra(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    package = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendUnavailableError, match=rf"'{name}' is asked.*jsarag\[track\]"):
        track(Listener(), [name], run_dir, {}, step=0)


def test_only_rank_0_tracks(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setitem(sys.modules, "wandb", None)
    track(Listener(), ["wandb"], run_dir, {}, step=0).step(ROW)
