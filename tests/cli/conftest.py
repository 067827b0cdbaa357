"""Running the command line in this process, with the library behind it replaced."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jsarag_cli.main import run as run_cli


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """stdout, which must be exactly one JSON object."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """``cli("train", "--json", ...)`` in an empty folder, without ``JSARAG_*`` variables."""
    for name in list(os.environ):
        if name.startswith("JSARAG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        code = run_cli(list(arguments))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``replace("jsarag.train.run", run_training=fake)``: a module of fakes, not imported."""

    def put(name: str, **contents: Any) -> None:
        module = ModuleType(name)
        for key, value in contents.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            monkeypatch.setattr(sys.modules[parent], child, module, raising=False)

    return put


def scores(first: float, *, posterior: bool = True, f1: float | None = 0.5) -> dict[str, Any]:
    """An evaluation's JSON with one number everywhere."""
    names = ("R@1", "R@5", "R@10", "MRR@10")
    one: dict[str, Any] = dict.fromkeys(names, first)
    one["intervals"] = {name: [first - 0.05, first + 0.05] for name in names}
    one |= {"n": 10, "without_gold": 0}
    generation = None
    if f1 is not None:
        generation = {"EM": f1, "F1": f1, "BLEU-4": None, "ROUGE-L": f1, "n": 10}
        generation["intervals"] = {"F1": [f1 - 0.1, f1 + 0.1], "BLEU-4": None}
    return {
        "retrieval": {"prior": one, "posterior": dict(one) if posterior else None},
        "generation": generation,
        "signature": "split dev|k 10",
        "notes": [],
    }


@dataclass
class FakeTraining:
    """Stands for ``run_training``: remembers what it was given, reports, returns or raises."""

    before: Mapping[str, Any] = field(default_factory=lambda: scores(0.25))
    after: Mapping[str, Any] = field(default_factory=lambda: scores(0.75))
    raises: BaseException | None = None
    decision: Any = None
    resolved: Any = None
    resume: bool | None = None

    def __call__(self, resolved: Any, *, resume: bool = False, reporter: Any = None) -> Any:
        self.resolved, self.resume = resolved, resume
        reporter.stage("embed passages", 10)
        reporter.advance(10)
        reporter.stage("train", 4)
        reporter.step({"kind": "train", "step": 1, "loss": 2.5, "acceptance_rate": 0.4})
        reporter.advance(1)
        reporter.event("index rebuilt")
        reporter.event("retrieval collapses", "warning")
        reporter.evaluated(0, self.before)
        if self.raises is not None:
            raise self.raises
        reporter.finished({"seconds": 1.5, "run_dir": "runs/x"})
        return Result(Path("runs/x"), self.before, self.after, 1.5, 4, decision=self.decision)


@dataclass(frozen=True)
class Result:
    """Stands for ``TrainResult``."""

    run_dir: Path
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    seconds: float
    steps: int
    generator_forwards: int = 120
    peak_bytes: int = 1 << 30
    decision: Any = None
    notes: tuple[str, ...] = ()


@pytest.fixture
def training(replace: Callable[..., None]) -> FakeTraining:
    fake = FakeTraining()
    replace("jsarag.train.run", run_training=fake)
    return fake


@pytest.fixture
def make_scores() -> Callable[..., dict[str, Any]]:
    return scores
