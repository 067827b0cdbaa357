"""``jsarag compare`` on the toy world: runs, resumes, sums up, and compares finished runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jsarag.errors import CheckpointError
from jsarag.eval.compare import read_predictions
from jsarag.study import runner
from jsarag.study.process import Ended
from jsarag_bench.end_to_end import toy_world
from jsarag_cli.main import run as run_cli

STEPS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    for name, write in (("data", toy_world.write_data), ("encoder", toy_world.write_encoder)):
        (folder / name).mkdir()
        write(folder / name)
    return folder


def options(world: Path, *more: str) -> list[str]:
    settings = {**toy_world.SETTINGS, "retriever.model": world / "encoder", "eval.max_examples": 8}
    settings = {key: value for key, value in settings.items() if key != "train.max_steps"}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [
        *("compare", "--dataset", str(world / "data"), "--arms", "jsa,rag", "--seeds", "2"),
        *("--budget", f"steps={STEPS}", "--output-dir", str(world / "out"), "--quiet"),
        *sets,
        *more,
    ]


@pytest.fixture(scope="module")
def compared(world: Path) -> dict[str, Any]:
    """The whole comparison, killed once after its second run."""
    started: list[str] = []
    start = runner.run_process

    class Killed(Exception):
        pass

    def dying(command: Sequence[str]) -> Ended:
        started.append(Path(command[command.index("--output-dir") + 1]).name)
        if len(started) == 3:
            raise Killed
        return start(command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_process", dying)
        kept = ("--results", str(world / "kept.jsonl"))
        assert run_cli(options(world, *kept)) == 1
        assert len((world / "kept.jsonl").read_text().splitlines()) == 2, "a row as a run ends"
        assert run_cli(options(world, "--json", *kept)) == 0
    assert started == ["jsa-1", "rag-1", "jsa-2", "jsa-2", "rag-2"], (
        "finished runs are not repeated"
    )
    rows = (world / "out" / runner.ROWS_FILE).read_text().splitlines()
    return {"rows": [json.loads(row) for row in rows]}


def test_a_row_is_kept_for_every_run(compared: dict[str, Any], world: Path) -> None:
    rows = compared["rows"]
    assert [(row["arm"], row["seed"]) for row in rows] == [
        ("jsa", 1),
        ("rag", 1),
        ("jsa", 2),
        ("rag", 2),
    ]
    for row in rows:
        assert row["steps"] == STEPS
        assert row["generator_forwards"] > 0
        assert row["peak_bytes"] > 0
        assert str(world) not in row["command"].replace(str(world / "encoder"), "")
    kept = [json.loads(line) for line in (world / "kept.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in kept] == ["run"] * 4 + ["comparison"] * 3


def test_differences_are_those_of_scores_averaged_over_seeds(
    compared: dict[str, Any], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run_cli(options(world, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    names = [arm["name"] for arm in found["arms"]]
    assert names[0] == "frozen"
    assert names[-2:] == ["jsa", "rag"]

    def scores(arm: str, seed: int) -> np.ndarray:
        rows = read_predictions(world / "out" / f"{arm}-{seed}" / "eval" / "dev")
        return np.array([row["metrics"]["prior"]["MRR@10"] for row in rows])

    jsa, rag = ((scores(arm, 1) + scores(arm, 2)) / 2 for arm in ("jsa", "rag"))
    metrics = {arm["name"]: arm["metrics"] for arm in found["arms"]}
    assert metrics["jsa"]["prior MRR@10"] == pytest.approx(jsa.mean())
    (item,) = (
        item
        for item in found["differences"]
        if (item["arm"], item["against"], item["metric"]) == ("rag", "jsa", "prior MRR@10")
    )
    assert item["difference"] == pytest.approx((rag - jsa).mean())
    assert item["low"] <= item["difference"] <= item["high"]
    assert {"prior R@1", "prior R@10", "generation F1"} <= set(metrics["jsa"])
    page = (world / "out" / "compare.html").read_text()
    assert "rag − jsa" in page
    assert "<script" not in page


def test_bm25_stands_beside_the_arms(compared: dict[str, Any], world: Path, cli: Any) -> None:
    pytest.importorskip("bm25s")
    found = cli(*options(world, "--json")).json
    metrics = {arm["name"]: arm for arm in found["arms"]}
    # The toy's questions share no word with their notes, its responses share the code.
    assert metrics["bm25"]["metrics"]["prior R@1"] < 0.2
    assert metrics["bm25-with-response"]["metrics"]["posterior R@1"] > 0.8
    assert metrics["bm25"]["seconds"] is None
    found = cli(*options(world, "--against", "bm25", "--json")).json
    assert {item["against"] for item in found["differences"]} == {"bm25"}


def test_bm25_that_is_asked_for_must_be_there(
    compared: dict[str, Any], world: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jsarag.index.bm25.has_bm25", lambda: False)
    ended = cli(*options(world, "--against", "bm25"))
    assert ended.code == 4
    assert "pip install 'jsarag[eval]'" in ended.err
    ended = cli(*options(world, "--json"))
    assert "bm25" not in {arm["name"] for arm in ended.json["arms"]}


def test_people_get_tables(compared: dict[str, Any], world: Path, cli: Any) -> None:
    ended = cli(*options(world))
    assert ended.code == 0
    assert "frozen" in ended.out
    assert "rag - jsa" in ended.out
    assert "95 % intervals over whole dialogues and 2 seeds" in ended.out


def test_another_comparison_in_the_folder_is_refused(
    compared: dict[str, Any], world: Path, cli: Any
) -> None:
    ended = cli(*options(world, "--set", "objective.k=3"))
    assert ended.code == CheckpointError.exit_code
    assert "use another --output-dir" in ended.err


def test_finished_runs_are_compared_with_the_first(
    compared: dict[str, Any], world: Path, cli: Any
) -> None:
    runs = [str(world / "out" / name) for name in ("jsa-1", "rag-1")]
    found = cli("compare", *runs, "--json").json
    (comparison,) = found["comparisons"]
    assert comparison["rows"] > 0
    assert "R@1" in comparison["retrieval"]["prior"]
    ended = cli("compare", *runs)
    assert ended.code == 0
    assert "prior R@1" in ended.out
    assert cli("compare", runs[0]).code == 2
    missing = cli("compare", runs[0], str(world / "nowhere"))
    assert missing.code == 4
    assert "nowhere" in missing.err


def test_runs_that_cannot_be_compared_are_refused(
    compared: dict[str, Any], world: Path, cli: Any, tmp_path: Path
) -> None:
    import shutil

    first = str(world / "out" / "jsa-1")
    other = tmp_path / "other"
    shutil.copytree(world / "out" / "rag-1", other)
    predictions = other / "eval" / "dev" / "predictions.jsonl"
    rows = read_predictions(predictions.parent)
    predictions.write_text(
        "".join(json.dumps({**row, "id": "x" + row["id"]}) + "\n" for row in rows)
    )
    ended = cli("compare", first, str(other))
    assert ended.code == 3
    assert "on the same data and split" in ended.err
    predictions.unlink()
    ended = cli("compare", first, str(other))
    assert ended.code == 3
    assert "jsarag eval" in ended.err


def test_a_failing_arm_says_what_it_said(world: Path, cli: Any) -> None:
    folder = str(world / "failing")
    arguments = options(world, "--set", "train.freeze=prior,posterior,passages")
    arguments[arguments.index("--output-dir") + 1] = folder
    ended = cli(*arguments)
    assert ended.code == 2, "the code of the run that failed"
    assert "arm 'jsa', seed 1" in ended.err
    assert "nothing to train" in ended.err


def test_nothing_to_compare_is_explained(cli: Any) -> None:
    ended = cli("compare")
    assert ended.code == 2
    assert "--arms jsa,rag" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--arms", "jsa,nothing"), "expected one of contrastive"),
        (("--arms", "jsa,jsa"), "found it twice"),
        (("--arms", "jsa", "--arm", "jsa: objective.k=3"), "found it twice"),
        (("--arms", "jsa", "--arm", "frozen: objective.k=3"), "reserved"),
        (("--arms", "jsa", "--arm", "a: objective.kk=3"), "objective.k"),
        (("--arms", "jsa", "--budget", "hours=3"), "steps=N, seconds=N, generator-forwards=N"),
        (("--arms", "jsa", "--seeds", "none"), "--seeds"),
        (("--arms", "jsa", "--against", "rag"), "found no such arm"),
        ((), "found none"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(
    arguments: tuple[str, ...], said: str, cli: Any, tmp_path: Path
) -> None:
    ended = cli("compare", "--dataset", "demo", "--output-dir", "out", *arguments)
    assert ended.code == 2
    assert said in " ".join(ended.err.split())
    assert not (tmp_path / "out").exists()


STUDY = """
dataset: data
seeds: [1, 2]
common: {objective.k: 4}
arms: {jsa: {reason: the default}}
"""


def test_flags_go_before_a_studys_file(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jsarag.errors import PreemptedError
    from jsarag.study.arms import Study

    (tmp_path / "s.yaml").write_text(STUDY)
    (tmp_path / "data").mkdir()
    seen: list[Study] = []

    def stop(study: Study, *rest: Any) -> None:
        seen.append(study)
        raise PreemptedError("seen enough")

    monkeypatch.setattr("jsarag.study.runner.run_study", stop)
    start = ("compare", "--study", "s.yaml", "--data-root", ".")
    flags = ("--seeds", "3", "--budget", "seconds=9", "--set", "objective.k=2", "--batch-size", "4")
    assert cli(*start).code == 75
    assert cli(*start, *flags, "--arm", "more: train.seed=7", "--against", "more").code == 75
    plain, flagged = seen
    assert plain.dataset == str(tmp_path / "data")
    assert (plain.seeds, plain.common) == ([1, 2], {"objective.k": "4"})
    assert flagged.seeds == [1, 2, 3]
    assert [arm.name for arm in flagged.arms] == ["jsa", "more"]
    assert flagged.against == ["more"]
    assert flagged.common["objective.k"] == "2"
    assert flagged.common["train.batch_size"] == "4"
    assert flagged.common["train.max_seconds"] == "9"


def test_flags_that_would_be_ignored_are_refused(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    for arguments, name in (
        (("--study", "s.yaml", "--arms", "rag"), "--arms"),
        (("--study", "s.yaml", "--dataset", "demo"), "--dataset"),
        (("--dataset", "demo", "--arms", "jsa", "--data-root", "."), "--data-root"),
        (("a", "b", "--seeds", "3"), "--seeds"),
        (("a", "b", "--set", "objective.k=3"), "settings"),
    ):
        ended = cli("compare", *arguments)
        assert ended.code == 2
        assert f"expected no {name}" in ended.err


@pytest.mark.slow
def test_a_killed_comparison_goes_on_inside_the_run_it_was_in(world: Path, tmp_path: Path) -> None:
    steps = 200
    arguments = options(world)
    arguments[arguments.index("--output-dir") + 1] = str(tmp_path / "out")
    arguments[arguments.index("--arms") + 1] = "rag"
    arguments[arguments.index("--seeds") + 1] = "1"
    arguments[arguments.index("--budget") + 1] = f"steps={steps}"
    command = [sys.executable, "-m", "jsarag_cli", *arguments, "--set", "train.save_steps=10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    checkpoints = tmp_path / "out" / "rag-1" / "checkpoints"
    until = time.monotonic() + 60
    while not (checkpoints / "last").exists() and time.monotonic() < until:
        time.sleep(0.02)
    # The worst kill there is: nothing is handed on, nothing is saved.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / runner.ROWS_FILE).exists()
    subprocess.run(command, env=environment, check=True, timeout=100, stdout=subprocess.DEVNULL)
    (row,) = map(json.loads, (tmp_path / "out" / runner.ROWS_FILE).read_text().splitlines())
    assert row["steps"] == steps
    assert "resumed at step" in (tmp_path / "out" / "rag-1" / "events.log").read_text()
