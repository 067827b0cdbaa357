"""A real training run in a process of its own: Ctrl-C and SIGTERM save, then --resume goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WORDS = ("clock", "river", "bread", "garden", "ladder", "violin", "harbour", "candle")
FLAGS = (
    "--dataset", "data", "--output-dir", "run", "--generator", "query-likelihood",
    "--device", "cpu", "--batch-size", "2", "--k", "2", "--mis-steps", "2",
    "--set", "retriever.max_context_tokens=16", "--set", "retriever.max_passage_tokens=16",
    "--set", "guards.evidence_every=0", "--set", "guards.min_distinct_ratio=0",
    "--set", "train.log_steps=1", "--set", "train.threads=1", "--set", "eval.bootstrap_samples=100",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    passages = [{"id": word, "text": f"the {word} is old"} for word in WORDS]
    rows = [
        {"id": f"q{word}", "question": f"how old is the {word}?", "answers": [f"{word} old"]}
        for word in WORDS
    ]
    files = {"kb.jsonl": passages, "train.jsonl": rows, "dev.jsonl": rows[:2]}
    for name, lines in files.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (data / name).write_text(text, encoding="utf-8")
    return tmp_path


@contextmanager
def jsarag(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``jsarag train`` in ``folder``, in a process group of its own as a shell gives it."""
    environment = {key: text for key, text in os.environ.items() if not key.startswith("JSARAG_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "jsarag_cli", "train", *FLAGS, *arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], start: str) -> None:
    """Read the log up to a line that starts so."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(start):
            return
    raise AssertionError(f"never said {start!r}: {''.join(seen)}")


def step_of(folder: Path) -> int:
    state = (folder / "run" / "checkpoints" / "last").read_text(encoding="utf-8")
    return int(state.strip().rpartition("-")[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "warning: interrupted"), (signal.SIGTERM, 75, "--resume continues")],
)
def test_a_signal_saves_and_resume_goes_on(
    folder: Path, number: signal.Signals, code: int, says: str
) -> None:
    with jsarag(folder, "--max-steps", "100000") as process:
        read_until(process, "train: ")  # a few seconds of training have passed
        process.send_signal(number)
        out, err = process.communicate()
        assert process.returncode == code, err
    assert out == ""
    assert says in err.splitlines()[-1]
    assert "Traceback" not in err
    stopped = step_of(folder)
    assert stopped > 0
    with jsarag(folder, "--max-steps", str(stopped + 2), "--resume", "--json") as process:
        out, err = process.communicate()
        assert process.returncode == 0, err
    assert f"resumed at step {stopped}" in err
    assert json.loads(out)["steps"] == stopped + 2
    assert step_of(folder) == stopped + 2
