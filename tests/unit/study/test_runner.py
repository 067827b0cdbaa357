"""Runs in processes of their own: finished ones are kept, errors and signals reach the caller.

A small script stands for ``jsarag``; ``tests/cli/test_compare.py`` trains.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jsarag.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GuardError,
    MemoryForecastError,
    PreemptedError,
)
from jsarag.io.lines import read_json_lines
from jsarag.study.arms import Arm, Study
from jsarag.study.process import ArmFailedError, run_process
from jsarag.study.runner import ROWS_FILE, command_of, run_study
from jsarag.train.reporting import SilentReporter

FAKE = """
import json, os, pathlib, signal, sys
HELD_BACK = {"1e-5": 0.2, "2e-5": 0.6, "4e-5": 0.6}
verb, *options = sys.argv[1:]
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as file:
    file.write(" ".join([verb, *options]) + "\\n")
scores = {"retrieval": {"prior": None, "posterior": None}, "generation": None, "signature": "s"}
if verb == "eval":
    print(json.dumps(scores))
    sys.exit(0)
folder = pathlib.Path(options[options.index("--output-dir") + 1])
script = here / folder.name
if script.is_file():
    exec(script.read_text())
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.jsonl").write_text(json.dumps({"kind": "warmup", "seconds": 1.0}) + "\\n")
rate = [option.partition("=")[2] for option in options if option.startswith("train.learning_rate=")]
if rate:
    row = {"kind": "watch", "step": 5, "measure": "gold", "value": HELD_BACK[rate[-1]]}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\\n")
    (folder / "watch.json").write_text(json.dumps({"kept": 5}))
steps = [option for option in options if option.startswith("train.max_steps=")]
print(json.dumps({
    "before": scores, "after": scores, "seconds": 11.0, "generator_forwards": 7,
    "steps": int(steps[-1].partition("=")[2]), "peak_bytes": 5, "kept": None,
}))
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """Stands for jsarag; a file beside it called as a run is what this run does first."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE)
    return [sys.executable, str(folder / "fake.py")]


def calls(program: list[str]) -> list[str]:
    """Verb and run folder of what was started."""
    found = []
    for line in (Path(program[1]).parent / "calls").read_text().splitlines():
        verb, *options = line.split()
        place = options.index("--output-dir") + 1 if "--output-dir" in options else 0
        found.append(f"{verb} {Path(options[place]).name}")
    return found


def does(program: list[str], run: str, script: str) -> None:
    (Path(program[1]).parent / run).write_text(script)


def study(*arms: Arm, seeds: tuple[int, ...] = (1,)) -> Study:
    return Study("s", "demo", None, seeds, arms, common={"train.max_steps": "10"})


A, B = Arm("a"), Arm("b", {"objective.k": "3"})


def test_what_is_finished_is_not_repeated(program: list[str], tmp_path: Path) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy.jsonl"
    rows = run_study(study(A, B), out, program, SilentReporter(), [copy])
    assert [(row["arm"], row["seed"], row["steps"]) for row in rows] == [("a", 1, 10), ("b", 1, 10)]
    # The second seed later, and one row lost between its two files.
    (out / ROWS_FILE).write_text("")
    again = run_study(study(A, B, seeds=(1, 2)), out, program, SilentReporter(), [copy])
    assert again[:2] == rows
    assert calls(program) == ["train a-1", "train b-1", "train a-2", "train b-2"]
    for path in (out / ROWS_FILE, copy):
        kept = [(row["arm"], row["seed"]) for row in read_json_lines(path)]
        assert kept == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    with pytest.raises(CheckpointError, match="use another --output-dir"):
        run_study(study(A, Arm("b")), out, program, SilentReporter())


def test_an_arm_gets_the_steps_that_fit_into_anothers_seconds(
    program: list[str], tmp_path: Path
) -> None:
    # 1 of its 11 seconds is warm-up: ten steps in ten seconds, and b takes half as long a step.
    does(program, "b-1", "options += ['--set', 'train.max_steps=20']")
    equal = Arm("c", {"objective.k": "3"}, equal_seconds="a", pace_of="b")
    rows = run_study(study(A, B, equal), tmp_path / "out", program, SilentReporter())
    assert [row["steps"] for row in rows] == [10, 20, 20]
    assert rows[2]["settings"]["train.max_steps"] == "20"


def test_every_arm_is_tuned_alike_before_it_is_compared(program: list[str], tmp_path: Path) -> None:
    rates = {"train.learning_rate": ["1e-5", "2e-5", "4e-5"]}
    tuned = replace(study(A, B, seeds=(1, 2)), tune=rates)
    out = tmp_path / "out"
    does(program, "a@2e-5-1", "HELD_BACK['2e-5'] = 0.1")
    rows = run_study(tuned, out, program, SilentReporter())
    trials = [row for row in rows if row["kind"] == "trial"]
    assert [(row["arm"], row["seed"], row["held_back"]["value"]) for row in trials] == [
        ("a", 1, 0.2), ("a", 1, 0.1), ("a", 1, 0.6), ("b", 1, 0.2), ("b", 1, 0.6), ("b", 1, 0.6),
    ]  # fmt: skip
    runs = [row for row in rows if row["kind"] == "run"]
    # The largest of an arm's own; of equal ones the first. Its settings beyond those stay.
    assert [(row["arm"], row["seed"], row["settings"]["train.learning_rate"]) for row in runs] == [
        ("a", 1, "4e-5"), ("b", 1, "2e-5"), ("a", 2, "4e-5"), ("b", 2, "2e-5"),
    ]  # fmt: skip
    assert runs[1]["settings"]["objective.k"] == "3"
    assert "eval.generation" not in runs[0]["settings"]
    assert len(calls(program)) == 10
    assert run_study(tuned, out, program, SilentReporter()) == rows
    assert len(calls(program)) == 10, "finished trials are not repeated"
    assert read_json_lines(out / ROWS_FILE) == [
        {"date": row["date"], **kept}
        for row, kept in zip(read_json_lines(out / ROWS_FILE), rows, strict=True)
    ]


def test_tuning_needs_rows_that_were_held_back(program: list[str], tmp_path: Path) -> None:
    tuned = replace(study(A), tune={"objective.k": ["2", "4"]})
    with pytest.raises(DataError, match=r"arm 'a': --tune .* set train\.held_back"):
        run_study(tuned, tmp_path / "out", program, SilentReporter())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, ArmFailedError),
        (2, ConfigError),
        (3, DataError),
        (4, CheckpointError),
        (5, MemoryForecastError),
        (6, GuardError),
        (-9, ArmFailedError),
    ],
)
def test_a_runs_error_is_the_studys(
    program: list[str], tmp_path: Path, code: int, kind: type[Exception]
) -> None:
    script = "os.kill(os.getpid(), 9)" if code == -9 else f"sys.exit({code})"
    does(program, "b-1", f"print('this is why', file=sys.stderr, flush=True); {script}")
    with pytest.raises(kind, match=f"arm 'b', seed 1: .*exit code {code}: this is why") as caught:
        run_study(study(A, B), tmp_path / "out", program, SilentReporter())
    assert type(caught.value) is kind
    assert [row["arm"] for row in read_json_lines(tmp_path / "out" / ROWS_FILE)] == ["a"]


GUARDED = """
before = folder / "eval" / "dev-before"
before.mkdir(parents=True)
(before / "metrics.json").write_text(json.dumps(scores))
rows = [
    {"kind": "train", "step": n, "seconds": 2.0 * n, "generator_forwards": 9 * n} for n in (1, 2)
]
(folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
print("error: step 2: retrieval has collapsed", file=sys.stderr)
sys.exit(6)
"""


def test_a_run_that_a_guard_stops_is_an_outcome(program: list[str], tmp_path: Path) -> None:
    does(program, "a-1", GUARDED)
    first, second = run_study(study(A, B), tmp_path / "out", program, SilentReporter())
    assert first["stopped"] == "error: step 2: retrieval has collapsed"
    assert (first["steps"], first["seconds"], first["generator_forwards"]) == (2, 4.0, 18)
    assert second["stopped"] is None
    assert calls(program) == ["train a-1", "eval a-1", "train b-1"]


def test_a_run_that_keeps_its_start_is_an_outcome(program: list[str], tmp_path: Path) -> None:
    kept = {"kept": 0, "worse": True, "reason": "the start was kept"}
    script = Path(program[1])
    text = script.read_text().replace('"kept": None', f'"kept": {kept!r}')
    script.write_text(f"{text}\nsys.exit(6)\n")
    (row,) = run_study(study(A), tmp_path / "out", program, SilentReporter())
    assert row["stopped"] == "training made it worse, so the start was kept"
    assert calls(program) == ["train a-1"]


SAVES = """
import time
def save(number, frame):
    (here / "saved").write_text(str(number))
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.{signal})
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("name", "kind"), [("SIGTERM", PreemptedError), ("SIGINT", KeyboardInterrupt)]
)
def test_a_signal_lets_the_run_save_and_a_second_start_goes_on(
    program: list[str], tmp_path: Path, name: str, kind: type[BaseException]
) -> None:
    does(program, "b-1", SAVES.replace("{signal}", name))
    with pytest.raises(kind):
        run_study(study(A, B), tmp_path / "out", program, SilentReporter())
    folder = Path(program[1]).parent
    assert (folder / "saved").read_text() == str(int(signal.SIGTERM))
    assert [row["arm"] for row in read_json_lines(tmp_path / "out" / ROWS_FILE)] == ["a"]
    (folder / "b-1").unlink()
    rows = run_study(study(A, B), tmp_path / "out", program, SilentReporter())
    assert [row["arm"] for row in rows] == ["a", "b"]
    assert calls(program) == ["train a-1", "train b-1", "train b-1"]


def test_ctrl_c_that_reached_only_the_run_stops_the_study() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, "-c", "raise SystemExit(130)"])


def test_rows_and_commands_hold_no_place_of_this_machine(
    program: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "notes"
    data.mkdir()
    common = {"train.max_steps": "1", "index.cache_dir": str(tmp_path / "cache")}
    placed = Study("s", str(data), "demo", (1,), (A,), common=common)
    command = command_of(placed, A, 1, tmp_path / "out" / "a-1")
    assert command[:4] == ["--dataset", str(data), "--recipe", "demo"]
    assert "train.seed=1" in command
    (row,) = run_study(placed, tmp_path / "out", program, SilentReporter())
    assert row["command"] == (
        "jsarag train --dataset DIR/notes --recipe demo --set train.max_steps=1 --set train.seed=1"
    )
    assert row["dataset"] == "notes"
    assert row["settings"] == {"train.max_steps": "1"}
