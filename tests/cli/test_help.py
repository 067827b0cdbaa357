"""``--help`` is quick, complete and imports nothing heavy; usage errors say what to do."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

VERBS = (
    "train",
    "eval",
    "compare",
    "diagnose",
    "ask",
    "export",
    "index",
    "index build",
    "index import",
    "index insert",
    "index update",
    "index delete",
    "index export",
    "index rebuild",
    "index info",
    "index verify",
    "serve-index",
    "bench",
    "bench kernels",
    "bench train-step",
    "data",
    "data build",
    "data check",
    "demo",
    "doctor",
)
HEAVY = ("torch", "transformers", "numpy", "pydantic", "yaml", "fastapi", "matplotlib")
BUDGET_S = 0.3

PROBE = """
import sys
from jsarag_cli.main import run
codes = [run([*verb.split(), "--help"]) for verb in {verbs!r}] + [run(["--version"])]
heavy = [name for name in {heavy!r} if name in sys.modules]
print(codes, heavy, file=sys.stderr)
"""
SMALLEST_APP = """
import typer
app = typer.Typer(rich_markup_mode="markdown")
@app.command()
def main(name: str = typer.Option("world", help="Whom to greet.")) -> None:
    "Greets."
app()
"""


def test_help_imports_nothing_heavy() -> None:
    code = PROBE.format(verbs=("", *VERBS), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == f"{[0] * (len(VERBS) + 2)} []"


@pytest.mark.parametrize("verb", ["", "train", "index build"])
def test_help_answers_at_once(verb: str) -> None:
    ours = [sys.executable, "-m", "jsarag_cli", *verb.split(), "--help"]
    smallest = [sys.executable, "-c", SMALLEST_APP, "--help"]
    best, floor = float("inf"), float("inf")
    for _ in range(5):
        best = min(best, processor_seconds(ours))
        # The machine may be slow or busy, so a help of one option, in the same framework and taken
        # by turns with ours, scales the limit.
        floor = min(floor, processor_seconds(smallest))
        if best < max(BUDGET_S, 2 * floor):
            return
    assert best < max(BUDGET_S, 2 * floor)


def processor_seconds(command: list[str]) -> float:
    """What one waits for it, unless others keep the machine busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_fits_the_terminal(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, verb: str, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ended = cli(*verb.split(), "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert "Usage: jsarag" in ended.out
    assert max(map(len, ended.out.splitlines())) <= int(columns)
    assert "…" not in ended.out, "an option's name is cut off"


def test_every_verb_is_listed(cli: Callable[..., Any]) -> None:
    text = cli("--help").out
    for verb in {verb.split()[0] for verb in VERBS}:
        assert f" {verb} " in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "train"),
        (["train", "--mis-step", "3"], "--mis-steps"),
        (["eval"], "run"),
        (["ask", "folder"], "question"),
        (["index", "build", "--kb", "x"], "--output"),
        (["bench", "--repetitions", "many"], "repetitions"),
    ],
)
def test_a_usage_error_ends_with_2_on_stderr(
    cli: Callable[..., Any], arguments: list[str], says: str
) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert says in ended.err


def test_no_arguments_show_the_help(cli: Callable[..., Any]) -> None:
    ended = cli()
    assert "Usage: jsarag" in ended.out + ended.err


def test_version(cli: Callable[..., Any]) -> None:
    from jsarag import __version__

    assert cli("--version").out == f"{__version__}\n"


def test_the_schema_is_one_json_object(cli: Callable[..., Any]) -> None:
    schema = json.loads(cli("train", "--schema").out)
    assert {"data", "objective", "train"} <= schema["properties"].keys()
