"""``jsarag compare`` on the toy world: runs, resumes, sums up, and compares finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jsarag.errors import CheckpointError
from jsarag.eval.compare import read_predictions
from jsarag.study import runner
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
    train = runner._train

    class Killed(Exception):
        pass

    def dying(command: Sequence[str], arm: Any, seed: int) -> dict[str, Any]:
        started.append(f"{arm.name}-{seed}")
        if len(started) == 3:
            raise Killed
        return train(command, arm, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_train", dying)
        assert run_cli(options(world)) == 1
        assert run_cli(options(world, "--json", "--results", str(world / "kept.jsonl"))) == 0
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
    page = (world / "out" / "compare.html").read_text()
    assert "rag − jsa" in page
    assert "<script" not in page


def test_bm25_stands_beside_the_arms(compared: dict[str, Any], world: Path, cli: Any) -> None:
    pytest.importorskip("bm25s")
    found = cli(*options(world, "--json")).json
    metrics = {arm["name"]: arm for arm in found["arms"]}
    # The toy's questions share no word with their notes, its responses share the code.
    assert metrics["bm25"]["metrics"]["prior R@1"] < 0.2
    assert metrics["bm25-with-response"]["metrics"]["prior R@1"] > 0.8
    assert metrics["bm25"]["seconds"] is None


def test_people_get_tables(compared: dict[str, Any], world: Path, cli: Any) -> None:
    ended = cli(*options(world))
    assert ended.code == 0
    assert "frozen" in ended.out
    assert "rag - jsa" in ended.out
    assert "95 % intervals over whole dialogues, 2 seeds" in ended.out


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


def test_a_failing_arm_says_what_it_said(world: Path, cli: Any) -> None:
    folder = str(world / "failing")
    arguments = options(world, "--set", "train.freeze=prior,posterior,passages")
    arguments[arguments.index("--output-dir") + 1] = folder
    ended = cli(*arguments)
    assert ended.code == 1
    assert "arm 'jsa', seed 1" in ended.err
    assert "nothing to train" in ended.err


def test_nothing_to_compare_is_explained(cli: Any) -> None:
    ended = cli("compare")
    assert ended.code == 2
    assert "--arms jsa,rag" in ended.err
