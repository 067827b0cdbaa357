"""A run folder knows whose it is, and its logs survive crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jsarag.errors import CheckpointError
from jsarag.io.environment import describe_environment
from jsarag.io.run_dir import RunDir, config_fingerprint

CONFIG = {"train": {"seed": 1, "betas": (0.9, 0.95), "max_steps": 10}, "data": {"map": {}}}


def test_claim_is_new_once_and_then_resumes(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "one")
    assert run.claim(CONFIG) is False
    run.append_metrics({"step": 0})
    assert RunDir(run.path).claim(CONFIG) is True
    identity = run.identity()
    assert identity["fingerprint"] == config_fingerprint(CONFIG)
    assert identity["config"]["train"]["seed"] == 1


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "one")
    run.claim(CONFIG)
    run.append_metrics({"step": 0})
    other = {**CONFIG, "train": {"seed": 2, "betas": (0.9, 0.95), "max_steps": 10}}
    with pytest.raises(CheckpointError, match=r"train\.seed: 1 there, 2 here") as caught:
        RunDir(run.path).claim(other)
    assert "betas" not in str(caught.value)
    longer = {**CONFIG, "train": {**CONFIG["train"], "max_steps": 20}}
    with pytest.raises(CheckpointError, match="max_steps"):
        RunDir(run.path).claim(longer)
    assert RunDir(run.path).claim(longer, ignore={"train.max_steps"}) is True


def test_a_setting_that_is_newer_than_the_run_and_unset_is_no_difference(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "one")
    run.claim(CONFIG)
    run.append_metrics({"step": 0})
    newer = {**CONFIG, "data": {"map": {}, "dev_fraction": None}}
    assert RunDir(run.path).claim(newer) is True
    cut = {**CONFIG, "data": {"map": {}, "dev_fraction": 0.2}}
    with pytest.raises(CheckpointError, match=r"data\.dev_fraction: 'unset' there, 0\.2 here"):
        RunDir(run.path).claim(cut)


def test_a_run_that_never_began_makes_way(tmp_path: Path) -> None:
    """A typing error in --data-dir must not bind the folder to the settings it was made with."""
    run = RunDir(tmp_path / "one")
    run.claim(CONFIG)
    run.write_config("train: {}")
    run.write_env()
    run.log_event("started")
    other = {**CONFIG, "train": {**CONFIG["train"], "seed": 2}}
    assert RunDir(run.path).claim(other) is False
    assert run.identity()["config"]["train"]["seed"] == 2
    (run.path / "index").mkdir()
    with pytest.raises(CheckpointError, match=r"train\.seed: 2 there, 1 here"):
        RunDir(run.path).claim(CONFIG)


def test_tools_that_take_it_for_a_model_are_told_what_to_do(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = RunDir(tmp_path / "one")
    run.claim(CONFIG)
    with pytest.raises(ValueError, match="jsarag export RUN DEST --to sentence-transformers"):
        transformers.AutoConfig.from_pretrained(run.path)


@pytest.mark.slow
def test_sentence_transformers_shows_it(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    run = RunDir(tmp_path / "one")
    run.claim(CONFIG)
    with pytest.raises(ValueError, match="jsarag export RUN DEST --to sentence-transformers"):
        library.SentenceTransformer(str(run.path))


def test_foreign_folders_are_refused_and_untouched(tmp_path: Path) -> None:
    foreign = tmp_path / "home"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match=r"letter\.txt"):
        RunDir(foreign).claim(CONFIG)
    assert [entry.name for entry in foreign.iterdir()] == ["letter.txt"]
    with pytest.raises(CheckpointError, match="found a file"):
        RunDir(foreign / "letter.txt").claim(CONFIG)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert RunDir(empty).claim(CONFIG) is False


def test_identity_of_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run\.json"):
        RunDir(tmp_path).identity()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json"):
        RunDir(tmp_path).identity()
    (tmp_path / "run.json").write_text('{"format_version": 99}')
    with pytest.raises(CheckpointError, match="format 2, found 99"):
        RunDir(tmp_path).identity()


def test_a_second_process_may_not_write_the_same_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "one")
    run.claim(CONFIG)
    code = (
        "import json, sys\n"
        "from jsarag.errors import CheckpointError\n"
        "from jsarag.io.run_dir import RunDir\n"
        "try:\n"
        "    RunDir(sys.argv[1]).claim(json.loads(sys.argv[2]))\n"
        "except CheckpointError as error:\n"
        "    sys.exit(7 if 'another process' in str(error) else 1)\n"
    )
    arguments = [sys.executable, "-c", code, str(run.path), json.dumps(CONFIG)]
    assert subprocess.run(arguments, check=False).returncode == 7


def test_layout() -> None:
    run = RunDir("runs/one")
    assert run.checkpoint_path(40) == Path("runs/one/checkpoints/step-40")
    assert run.last_path == Path("runs/one/checkpoints/last")
    assert run.index_path(2) == Path("runs/one/index/gen-2")
    assert run.eval_path("dev") == Path("runs/one/eval/dev")
    assert run.config_path.name == "config.resolved.yaml"
    assert run.plots_path.name == "plots"
    assert run.report_path.name == "report.html"
    assert not run.path.exists()


def test_metrics_are_on_file_at_once_and_rewind(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_metrics() == []
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": step / 2})
        assert len(run.metrics_path.read_text().splitlines()) == step
    assert run.rewind_metrics(step=2) == 1
    assert [row["step"] for row in run.read_metrics()] == [1, 2]


def test_a_line_cut_by_a_crash_is_dropped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_metrics({"step": 1})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.read_metrics() == [{"step": 1}]
    run.append_metrics({"step": 3})
    assert run.read_metrics() == [{"step": 1}, {"step": 3}]


def test_events_take_one_line_each(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log_event("first\nstill first")
    run.log_event("second")
    lines = run.events_path.read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(" first still first")
    assert lines[1].split(" ", 1)[0].endswith("+00:00")


def test_environment_record(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_env()
    record = json.loads(run.env_path.read_text())
    assert record["packages"]["torch"]
    assert record["usable_cores"] >= 1
    assert record.keys() == describe_environment().keys()
    run.write_config("a: 1\n")
    assert run.config_path.read_text().startswith("a: 1\n# checksum: xxh3_128:")


@pytest.mark.parametrize("damage", ["cut", "flip", "seal", "longer", "missing", "bytes"])
def test_a_damaged_configuration_is_not_opened(tmp_path: Path, damage: str) -> None:
    run = RunDir(tmp_path)
    run.claim(CONFIG)
    run.write_config("train:\n  seed: 17\n  max_steps: 100\n")
    assert run.check_config() == run.config_path
    text = run.config_path.read_text()
    changed = {
        "cut": text[: len(text) * 2 // 3].encode(),
        "flip": text.replace("17", "16").encode(),
        "seal": text[:-2].encode(),
        "longer": (text + "eval:\n  k: 3\n").encode(),
        "bytes": text.encode() + b"\xff",
    }
    if damage == "missing":
        run.config_path.unlink()
    else:
        run.config_path.write_bytes(changed[damage])
    with pytest.raises(CheckpointError, match=r"config\.resolved\.yaml: .*write it again"):
        run.check_config()


def test_a_configuration_of_the_first_format_has_no_checksum(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.run_path.write_text('{"format_version": 1, "config": {}}')
    run.config_path.write_text("train:\n  seed: 17\n")
    assert run.check_config() == run.config_path


def test_a_changed_identity_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.claim(CONFIG)
    text = run.run_path.read_text()
    run.run_path.write_text(text.replace('"created": "2', '"created": "3'))
    with pytest.raises(CheckpointError, match=r"run\.json: expected content with the checksum"):
        run.identity()
