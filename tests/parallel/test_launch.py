"""A command in several processes: what they are told, what becomes of signals, how it all ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from jsarag.errors import ConfigError
from jsarag.parallel.launch import exit_code, launch
from jsarag_bench.end_to_end import toy_world


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ((0, 0, 0), 0),
        ((6, 6, 6), 6),
        ((0, 3), 3),
        ((76, -9, 76), 76),  # a killed process, missed by the others
        ((-9, 75), 75),  # the others could still save and say so
        ((0, -9), 76),
    ],
)
def test_what_exit_codes_come_to(codes: Sequence[int], code: int) -> None:
    assert exit_code(codes) == code


def test_no_process_is_no_run() -> None:
    with pytest.raises(ConfigError, match="--processes: expected at least 1, found 0"):
        launch(["true"], 0)


NOTE = """
import os, pathlib, socket
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_LISTENER")
told = [os.environ.get(name, "") for name in names]
if "MASTER_LISTENER" in os.environ:
    listening = socket.socket(fileno=int(told.pop()))
    told.append(str(listening.getsockname() == ("127.0.0.1", int(os.environ["MASTER_PORT"]))))
pathlib.Path("rank" + told[0]).write_text(" ".join(told).strip())
"""


def test_every_process_is_told_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch([sys.executable, "-c", NOTE], 3) == 0
    told = [(tmp_path / f"rank{rank}").read_text(encoding="utf-8") for rank in range(3)]
    assert told == ["0 3 0 3 127.0.0.1 True", "1 3 1 3 127.0.0.1", "2 3 2 3 127.0.0.1"]


COUNT = """
import pathlib, signal, sys, time
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(70 + len(got)))
pathlib.Path(__import__("os").environ["RANK"]).touch()
time.sleep(60)
time.sleep(60)
"""


def test_signals_are_passed_on_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def send() -> None:
        while not all((tmp_path / name).exists() for name in ("0", "1")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    assert launch([sys.executable, "-c", COUNT], 2) == 71
    sender.join()


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """``jsarag train`` on the toy world in ``folder``."""
    settings = {**toy_world.SETTINGS, "eval.generation": False}
    del settings["train.max_steps"]  # a flag's, here
    pairs = [f"--set={key}={value}" for key, value in settings.items()]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("JSARAG_")}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "jsarag_cli", "train", "--dataset", "data"),
            *("--retriever", str(folder / "encoder"), "--output-dir", "run", "--device", "cpu"),
            *("--json", *pairs, *arguments),
        ],
        cwd=folder,
        env=kept | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data", "encoder"):
        (tmp_path / name).mkdir()
    toy_world.write_data(tmp_path / "data")
    toy_world.write_encoder(tmp_path / "encoder")
    return tmp_path


def members(launcher: int) -> dict[int, int]:
    """Process ids of a launcher's processes by rank."""
    found = {}
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text(encoding="ascii")
    for child in map(int, children.split()):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [int(entry[5:]) for entry in environment if entry.startswith(b"RANK=")]
        found |= dict.fromkeys(ranks, child)
    return found


def wait_for_steps(folder: Path, process: subprocess.Popen[str], steps: int) -> None:
    path = folder / "run" / "metrics.jsonl"
    while process.poll() is None:
        if path.is_file() and path.read_text(encoding="utf-8").count('"train_step"') >= steps:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whom", "number", "code", "says"),
    [
        (None, signal.SIGTERM, 75, "stopped by SIGTERM; the state is saved, --resume continues"),
        (None, signal.SIGINT, 130, "warning: interrupted"),
        (1, signal.SIGKILL, 76, "another process is gone"),
        (0, signal.SIGKILL, 76, "another process is gone"),
    ],
    ids=["asked-to-stop", "ctrl-c", "follower-killed", "leader-killed"],
)
def test_a_stopped_job_ends_and_goes_on_with_another_number(
    folder: Path, whom: int | None, number: signal.Signals, code: int, says: str
) -> None:
    with command(folder, "--processes", "3", "--max-steps", "4000", "--save-steps", "2") as job:
        wait_for_steps(folder, job, 5)
        began = time.monotonic()
        os.kill(job.pid if whom is None else members(job.pid)[whom], number)
        out, err = job.communicate(timeout=60)
        assert time.monotonic() - began < 60
    assert (job.returncode, out) == (code, ""), err
    assert says in err
    assert "Traceback" not in err
    saved = int((folder / "run/checkpoints/last").read_text(encoding="utf-8").rpartition("-")[2])
    assert saved >= 4
    more = str(saved + 2)
    with command(folder, "--processes", "2", "--max-steps", more, "--resume") as job:
        out, err = job.communicate(timeout=100)
    assert job.returncode == 0, err
    assert f"resumed at step {saved}" in err
    assert json.loads(out)["steps"] == saved + 2
