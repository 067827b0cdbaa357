"""A run on a folder without a dev split, with nothing said of steps and passage limits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jsarag import Run
from jsarag.config.load import load_run_config
from jsarag.errors import DataError
from jsarag.io.run_dir import RunDir
from jsarag_bench.end_to_end.toy_world import SETTINGS


def test_what_the_data_decided_is_kept_with_the_run(
    toy_folder: Path, toy_encoder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(toy_folder, folder)
    (folder / "dev.jsonl").unlink()
    given = {
        **SETTINGS,
        "retriever.model": toy_encoder,
        "data.dev_fraction": 0.25,
        "train.batch_size": 64,
        "objective.mis_steps": 2,
        "eval.generation": False,
    }
    for key in ("train.max_steps", "retriever.max_passage_tokens"):
        del given[key]
    run = Run.train(folder, settings=given, output_dir=tmp_path / "run")
    assert run.result is not None
    assert run.result.steps == 20
    text = RunDir(run.path).config_path.read_text(encoding="utf-8")
    assert "  max_steps: 20  # 54 rows\n" in text
    assert "  max_passage_tokens: 11  # 24 passages\n" in text
    events = RunDir(run.path).events_path.read_text(encoding="utf-8")
    assert "54 train and 18 dev rows" in events
    assert "20 steps, 23.7 passes over 54 rows" in events
    # The same command goes on with the same run, and evaluation cuts the same dev split.
    again = Run.train(folder, settings=given, output_dir=tmp_path / "run")
    assert again.result is not None
    assert again.result.after == run.result.after
    assert run.evaluate().retrieval["prior"] == run.result.after["retrieval"]["prior"]
    # Read back from its folder, the run's settings are settings like any other.
    config = load_run_config(RunDir(run.path).config_path).config
    assert (config.train.max_steps, config.retriever.max_passage_tokens) == (20, 11)


def test_data_that_cannot_be_read_leave_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected kb\.jsonl"):
        Run.train(tmp_path / "empty", output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
