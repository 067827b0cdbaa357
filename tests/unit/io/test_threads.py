"""Threads: a container's quota counts, the user's own settings win, waiting threads go to sleep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jsarag.io import threads


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


@pytest.mark.parametrize(
    ("content", "cores"),
    [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8), ("", 8)],
)
def test_a_quota_counts_where_it_is_less(cgroup: Path, content: str, cores: int) -> None:
    (cgroup / "cpu.max").write_text(content, encoding="ascii")
    assert threads.usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", 8)])
def test_the_older_cgroups_count_too(cgroup: Path, quota: str, cores: int) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n", encoding="ascii")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n", encoding="ascii")
    assert threads.usable_cores() == cores


def test_without_cgroups_the_affinity_counts(cgroup: Path) -> None:
    assert threads.usable_cores() == 8


def test_what_the_user_set_is_obeyed(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_chosen", set())
    (cgroup / "cpu.max").write_text("200000 100000", encoding="ascii")
    mine = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "active"}
    environment = dict(mine)
    threads.set_thread_defaults(environment)
    assert environment == mine
    assert threads.threads_each(environment, 2) == "7"
    threads.set_thread_defaults(environment := {})
    assert environment.keys() == {"OMP_NUM_THREADS", "GOMP_SPINCOUNT"}
    assert environment["OMP_NUM_THREADS"] == "2"
    # Set here, so processes of one run share it out.
    assert threads.threads_each(environment, 2) == "1"
    assert threads.threads_each({}, 16) == "1"


def test_the_command_sets_it_before_torch_reads_it() -> None:
    program = (
        "import os, sys\n"
        "from jsarag_cli.main import run\n"
        "code = run(['--version'])\n"
        "assert 'torch' not in sys.modules\n"
        "print(code, os.environ['GOMP_SPINCOUNT'])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "0 10000"
