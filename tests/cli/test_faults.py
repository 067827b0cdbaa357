"""The system's refusals and damaged runs end with 4, the path and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.io.checkpoint import save_checkpoint
from jsarag.io.run_dir import RunDir

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "Permission denied; change its permissions"),
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EMFILE, "Too many open files; raise the limit on open files"),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_ours(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def open_run(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "/some/where")

    monkeypatch.setattr("jsarag.runs.open_run", open_run)
    ended = cli("eval", "run")
    assert ended.code == 4
    assert f"/some/where: {says}" in ended.err
    assert "Traceback" not in ended.err
    assert "fault of jsarag" not in ended.err


def make_run(folder: Path) -> RunDir:
    run = RunDir(folder)
    run.claim({"train": {"seed": 1}})
    run.write_config("train:\n  seed: 1\n")
    save_checkpoint(run, 2, modules={}, optimizer={}, state={"progress": {"step": 2}}, keep=1)
    return run


# File, what is in it, and what is said of it.
DAMAGE = [
    ("run.json", b"[]", "expected a JSON object, found a list"),
    ("run.json", b"\xff", "expected UTF-8"),
    ("run.json", b"{}", "expected run format 2, found None"),
    ("config.resolved.yaml", b"train:\n", "expected a last line"),
    ("config.resolved.yaml", None, "the file is missing"),
    ("checkpoints/last", b"\xff\xfe", "expected UTF-8"),
    ("checkpoints/last", b"step-7", "names step-7, which is not there"),
    ("checkpoints/step-2/state.json", b"[1]", "expected a JSON object, found a list"),
    ("checkpoints/step-2/state.json", b"{}", "expected checkpoint format 2, found None"),
    ("checkpoints/step-2/state.json", b'{"format_version": 2}', "expected a 'checksum'"),
    ("checkpoints/step-2/state.json", None, "the file is missing"),
    ("checkpoints/step-2/optimizer.safetensors", b"", "expected"),
    ("checkpoints/step-2/COMPLETE", None, "the file is missing"),
    ("watch.json", b"null", "expected a JSON object, found null"),
    ("watch.json", b"{}", "expected the step 'kept'"),
]


@pytest.mark.parametrize(("name", "content", "says"), DAMAGE)
def test_a_damaged_run_ends_with_4_and_names_the_file(
    cli: Cli, tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    run = make_run(tmp_path / "run")
    path = run.path / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    ended = cli("eval", "run")
    assert ended.code == 4, ended.err
    assert f"run/{name}: {says}" in ended.err
    assert "Traceback" not in ended.err


def test_a_state_without_a_key_is_named(cli: Cli, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    ended = cli("eval", "run")
    assert ended.code == 4
    assert "state.json: expected 'state.progress.generation', found none" in ended.err
