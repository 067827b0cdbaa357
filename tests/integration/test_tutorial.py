"""Every command of docs/tutorial.md, as it stands there, from documents to an answered query."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jsarag_cli.main import run as run_here

pytest.importorskip("semantic_text_splitter")

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PORT = "8000"


def commands() -> list[list[str]]:
    """The commands in the fenced blocks, in order; a backslash continues a line."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "jsarag_cli", *command[1:]],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},  # no table is folded, whatever pytest's terminal is
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """The server, once it is ready; it is stopped in the end."""
    server = subprocess.Popen(
        [sys.executable, "-m", "jsarag_cli", *command[1:], "--port", str(port)],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(600):
            assert server.poll() is None, server.stderr and server.stderr.read()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.communicate(timeout=60)


def post(command: list[str], port: int) -> Any:
    """What ``curl ADDRESS --json BODY`` gets."""
    assert command[:1] == ["curl"]
    assert command[2] == "--json"
    request = urllib.request.Request(
        command[1].replace(PORT, str(port)),
        command[3].encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_it_takes_at_most_six_commands_of_ours() -> None:
    found = commands()
    assert len(found) <= 6
    assert [command[0] for command in found] == [*["jsarag"] * (len(found) - 1), "curl"]
    assert found[0][:3] == ["jsarag", "data", "build"]
    assert found[-2][:2] == ["jsarag", "serve-index"]


def test_build_and_check_say_what_the_tutorial_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quick half, in this process: what is shown of the data is what comes out."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    build, check = commands()[:2]
    shown = " ".join(TUTORIAL.read_text("utf-8").split())
    assert run_here(build[1:]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert " ".join(line.split()) in shown
    assert run_here(check[1:]) == 0
    assert "fernly  fine" in capsys.readouterr().out


@pytest.mark.slow
def test_every_command_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    *first, serve, ask = commands()
    printed = [run(command, tmp_path) for command in first]
    compared = printed[-1]
    arms = {line.split()[0] for line in compared.splitlines() if line.strip()}
    assert {"frozen", "bm25", "jsa"} <= arms
    port = free_port()
    with serving(serve, tmp_path, port):
        (found,) = post(ask, port)["results"]
    assert found[0]["rank"] == 1
    assert any("Returning an order" in passage["title"] for passage in found)
