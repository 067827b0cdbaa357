"""Runs on the toy world end with their best state, and with none that is worse than the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag import randomness
from jsarag.errors import GuardError
from jsarag.eval.evaluate import METRICS_FILE
from jsarag.io.run_dir import RunDir
from jsarag.runs import open_run
from jsarag.train.evaluation import evaluate_run
from jsarag.train.kept import read_decision
from jsarag.train.run import TrainResult
from jsarag_bench.end_to_end import toy_world
from jsarag_cli.main import run as run_cli

WATCHED = {"train.held_back": 16, "eval.generation": False}
# A retriever that is thrown about: seen on this world to lose everything within a few steps.
WILD = {**WATCHED, "train.learning_rate": 3.0, "train.warmup_steps": 0, "train.clip_norm": 100}


@pytest.fixture(scope="module")
def easy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world with questions in the notes' own words: there is something to lose."""
    folder = tmp_path_factory.mktemp("easy")
    toy_world.write_data(folder)
    for name in ("train", "dev"):
        path = folder / f"{name}.jsonl"
        path.write_text(path.read_text(encoding="utf-8").replace("alias", "thing"), "utf-8")
    return folder


@pytest.fixture
def train_easy(easy_folder: Path, toy_encoder: Path, tmp_path: Path) -> Callable[..., TrainResult]:
    def run(settings: dict[str, Any]) -> TrainResult:
        return toy_world.train(easy_folder, toy_encoder, tmp_path / "easy", settings)

    return run


def score(result: TrainResult, when: str = "after") -> float:
    return float(getattr(result, when)["retrieval"]["prior"]["MRR@10"])


def watched(result: TrainResult) -> list[dict[str, Any]]:
    rows = RunDir(result.run_dir).read_metrics()
    return [row for row in rows if row["kind"] == "watch"]


def test_a_good_run_keeps_its_best_state(train_toy: Callable[..., TrainResult]) -> None:
    result = train_toy("good", WATCHED)
    rows = watched(result)
    assert result.decision is not None
    best = max(rows[1:], key=lambda row: (row["value"], row["step"]))
    assert result.decision.kept == best["step"]
    assert not result.decision.worse
    assert {row["measure"] for row in rows} == {"gold"}
    assert score(result) > score(result, "before") + 0.2


@pytest.mark.parametrize("measure", ["auto", "likelihood"])
def test_a_run_that_collapses_ends_with_the_start(
    train_easy: Callable[..., TrainResult], measure: str
) -> None:
    result = train_easy({**WILD, "train.watch": measure, "train.max_steps": 24})
    assert result.decision is not None
    assert result.decision.kept == 0
    assert result.decision.worse
    assert score(result) == score(result, "before")
    rows = watched(result)
    assert rows[-1]["step"] <= 20, "seen within twenty steps"
    # Whoever opens the run gets the start, too.
    opened = open_run(result.run_dir)
    found = evaluate_run(opened).to_json()["retrieval"]["prior"]["MRR@10"]
    assert found == pytest.approx(score(result, "before"))
    report = (result.run_dir / "report.html").read_text(encoding="utf-8")
    assert "Held-back training rows" in report


def test_the_last_state_is_kept_on_request(train_easy: Callable[..., TrainResult]) -> None:
    result = train_easy({**WILD, "train.keep": "last", "train.max_steps": 24})
    assert score(result) < score(result, "before")
    # Asked for or not, it is worse, and the command line ends with 6.
    decision = result.decision
    assert decision is not None
    assert decision.worse
    assert decision.kept == watched(result)[-1]["step"]
    assert "as train.keep says" in decision.reason
    assert read_decision(RunDir(result.run_dir)) is not None
    found = evaluate_run(open_run(result.run_dir)).to_json()["retrieval"]["prior"]["MRR@10"]
    assert found == pytest.approx(score(result))


def test_a_continued_run_decides_alike(train_toy: Callable[..., TrainResult]) -> None:
    settings = {**WATCHED, "train.schedule": "constant"}
    whole = train_toy("whole", {**settings, "train.max_steps": 24})
    train_toy("part", {**settings, "train.max_steps": 12})
    again = train_toy("part", {**settings, "train.max_steps": 24})
    steps = {row["step"]: row["values"] for row in watched(whole)}
    shared = [row for row in watched(again) if row["step"] in steps and row["step"] <= 12]
    assert [row["values"] for row in shared] == [steps[row["step"]] for row in shared]
    decision = read_decision(RunDir(again.run_dir))
    assert decision is not None
    assert decision["last"] == 24


def test_a_run_with_another_limit_is_measured_to_its_end(
    train_toy: Callable[..., TrainResult],
) -> None:
    limit = {"train.max_generator_forwards": 1200, "train.max_steps": 100_000}
    result = train_toy("limited", {**WATCHED, **limit})
    steps = [row["step"] for row in watched(result)]
    assert 1200 <= result.generator_forwards < 1200 + 16 * 50
    assert len(steps) > 5
    assert steps[-1] == result.steps


def test_a_run_that_a_guard_stopped_serves_what_it_kept(
    train_easy: Callable[..., TrainResult], tmp_path: Path
) -> None:
    guarded = {"guards.collapse_window": 2, "guards.min_distinct_ratio": 0.9}
    with pytest.raises(GuardError):
        train_easy({**WILD, **guarded, "train.max_steps": 24})
    opened = open_run(tmp_path / "easy")
    assert opened.step == 0


def test_the_command_line_ends_with_6_and_a_way_out(
    easy_folder: Path, toy_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        **toy_world.SETTINGS,
        **WILD,
        "train.max_steps": 10,
        "retriever.model": toy_encoder,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    folder = tmp_path / "run"
    command = ["train", "--dataset", str(easy_folder), "--output-dir", str(folder), "--quiet"]
    capsys.readouterr()
    assert run_cli([*command, "--json", *sets]) == GuardError.exit_code
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["kept"]["worse"]
    assert "the start is kept" in captured.err
    assert "--learning-rate" in captured.err
    assert run_cli(["doctor", str(folder), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["run"]["findings"]
    (kept,) = (item for item in findings if item["topic"] == "kept state")
    assert kept["level"] == "warning"
    assert (folder / "eval" / "dev" / METRICS_FILE).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
@pytest.mark.parametrize("fault", ["shuffled answers", "learning rate x 100"])
def test_no_run_leaves_a_worse_retriever(
    easy_folder: Path, toy_encoder: Path, tmp_path: Path, fault: str, seed: int
) -> None:
    """Forty runs that must fail: no R@1's interval may lie below its start's."""
    settings: dict[str, Any] = {**WATCHED, "train.seed": seed}
    data = easy_folder
    if fault == "shuffled answers":
        data = tmp_path / "shuffled"
        shutil.copytree(easy_folder, data)
        path = data / "train.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        order = randomness.permutation(seed, "shuffled answers", 0, len(rows)).tolist()
        for row, answers in zip(rows, [rows[place]["answers"] for place in order], strict=True):
            row["answers"] = answers
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        settings["train.learning_rate"] = 100 * toy_world.SETTINGS["train.learning_rate"]
    result = toy_world.train(data, toy_encoder, tmp_path / "run", settings)
    before, after = (
        found["retrieval"]["prior"]["intervals"]["R@1"] for found in (result.before, result.after)
    )
    assert after[1] >= before[0], result.decision
