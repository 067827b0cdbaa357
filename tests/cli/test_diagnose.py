"""``diagnose``: options become settings, tables say what was found, bad input has exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.io.run_dir import RunDir
from jsarag_cli.diagnosing import curve, parse_sweeps

Cli = Callable[..., Any]
CONFIG = "data:\n  dataset: nowhere\ntrain:\n  seed: 1\n  max_steps: 20\n"


def passages(*titles: str, gold: str) -> list[dict[str, Any]]:
    return [
        {"id": title.lower(), "title": title, "rank": rank, "gold": title == gold}
        for rank, title in enumerate(titles, start=1)
    ]


def row(name: str, gold: str, *titles: str, context: str = "") -> dict[str, Any]:
    return {
        "id": name,
        "context": context or f"what about {name}?",
        "gold_passages": [gold.lower()],
        "passages": passages(*titles, gold=gold),
        "posterior_passages": passages(gold, gold=gold),
        "metrics": {},
    }


BEFORE = (
    row("falls", "Clock", "Clock", "River", "Bread"),
    row("rises", "River", "Clock", "Bread", "River"),
    row("stays", "Bread", "Bread", "Clock", "River"),
    row("never", "Tower", "Bread", "Clock", "River"),
)
AFTER = (
    row("falls", "Clock", "River", "Bread", "Clock", context="a [red]long[/] story " * 20),
    row("rises", "River", "River", "Bread", "Clock"),
    row("stays", "Bread", "Bread", "Clock", "River"),
    row("never", "Tower", "Clock", "Bread", "River"),
)


def write_rows(folder: Path, rows: tuple[dict[str, Any], ...]) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"retrieval": {}}', encoding="utf-8")
    lines = "".join(json.dumps(item) + "\n" for item in rows)
    (folder / "predictions.jsonl").write_text(lines, encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a log and evaluations, and neither models nor data."""
    made = RunDir(tmp_path / "run")
    made.claim({"train": {"seed": 1}})
    made.write_config(CONFIG)
    for step in (5, 10, 15, 20):
        made.append_metrics(
            {
                "kind": "train",
                "step": step,
                "acceptance_rate": 0.2 + step / 100,
                "ess": 3.0,
                "distinct_passages": step,
                "stations": {"score": 0.3, "encode": 0.1},
            }
        )
    write_rows(made.eval_path("dev-before"), BEFORE)
    write_rows(made.eval_path("dev"), AFTER)
    return made.path


class TestTheLog:
    def test_people_see_curves_stations_and_moves(self, cli: Cli, run: Path) -> None:
        ended = cli("diagnose", str(run), "--rows", "0")
        assert ended.code == 0, ended.err
        for text in ("acceptance rate", "0.25", "0.4", "▁▃▆█", "score", "75%", "unfinished"):
            assert text in ended.out
        assert "50.0% first" in ended.out
        assert "worse: 1" in ended.out
        assert "better: 1" in ended.out
        assert "not known" in ended.err, "the data are gone: titles nobody retrieved have no name"

    @pytest.mark.parametrize("columns", ["60", "100"])
    def test_ranks_are_never_cut(
        self, cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, columns: str
    ) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        lines = cli("diagnose", str(run), "--rows", "0").out.splitlines()
        falls = next(line for line in lines if "story" in line)
        assert falls.split()[-2:] == ["1", "3"]
        assert falls.lstrip().startswith("…")
        assert len(falls) <= int(columns)
        assert any(line.split()[-2:] == ["before", "after"] for line in lines)

    def test_the_page_is_written_and_escaped(self, cli: Cli, run: Path) -> None:
        cli("diagnose", str(run), "--rows", "0")
        page = (run / "diagnose.html").read_text(encoding="utf-8")
        assert "Acceptance rate" in page
        assert "Questions of dev" in page
        assert "<script" not in page

    def test_json_has_the_stable_keys(self, cli: Cli, run: Path) -> None:
        found = cli("diagnose", str(run), "--rows", "0", "--json").json
        assert set(found) == {
            "run", "step", "finished", "training", "sample", "questions", "notes",
        }  # fmt: skip
        assert found["sample"] is None
        series = found["training"]["series"]
        assert series["acceptance_rate"]["steps"] == [5, 10, 15, 20]
        assert series["distinct_passages"]["values"] == [5, 10, 15, 20]
        assert found["training"]["stations"] == {"encode": 0.1, "score": 0.3}
        asked = found["questions"]
        assert (asked["n"], asked["k"], asked["without_gold"]) == (4, 3, 0)
        assert asked["worse"] == ["falls"]
        assert asked["better"] == ["rises"]
        assert asked["found"]["before"] == {"at_1": 0.5, "at_k": 0.75}
        assert [item["id"] for item in asked["failures"]] == ["falls", "never"]
        assert asked["failures"][0]["before"] == 1
        assert asked["failures"][0]["after"] == 3
        assert asked["failures"][0]["posterior_after"] == 1
        assert asked["failures"][1]["after"] is None

    def test_an_empty_run_says_so(self, cli: Cli, tmp_path: Path) -> None:
        RunDir(tmp_path / "new").claim({"train": {"seed": 1}})
        ended = cli("diagnose", "new", "--rows", "0")
        assert ended.code == 0, ended.err
        assert "Nothing of end-to-end training" in ended.out
        assert "nothing is said about single questions" in ended.err


class TestFailures:
    def test_they_show_ranks_before_and_after(self, cli: Cli, run: Path) -> None:
        ended = cli("diagnose", str(run), "--failures")
        assert ended.code == 0, ended.err
        lines = [line.rstrip() for line in ended.out.splitlines()]
        assert "gold   Clock  rank 1 before, 3 after" in lines
        assert "gold   tower  rank beyond 3 before, beyond 3 after" in lines
        assert "before   1 Clock" in lines
        assert "after    1 River" in lines
        assert "what about rises?" not in ended.out
        assert not (run / "diagnose.html").exists()

    @pytest.mark.parametrize("columns", ["40", "100"])
    def test_lines_fit_the_terminal(
        self, cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, columns: str
    ) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        text = cli("diagnose", str(run), "--failures").out
        assert max(map(len, text.splitlines())) <= int(columns)
        assert "[red]long[/] story" in text, "a question is text, not markup"

    def test_their_number_is_the_users(self, cli: Cli, run: Path) -> None:
        text = cli("diagnose", str(run), "--failures", "--most", "1").out
        assert "what about never?" not in text
        assert "and 1 more" in text

    def test_a_run_that_was_not_evaluated_ends_with_3(self, cli: Cli, tmp_path: Path) -> None:
        RunDir(tmp_path / "new").claim({"train": {"seed": 1}})
        ended = cli("diagnose", "new", "--failures")
        assert ended.code == 3
        assert "jsarag eval" in ended.err

    def test_rows_without_gold_end_with_3(self, cli: Cli, tmp_path: Path) -> None:
        made = RunDir(tmp_path / "new")
        made.claim({"train": {"seed": 1}})
        blind = tuple({**item, "gold_passages": []} for item in AFTER)
        write_rows(made.eval_path("dev"), blind)
        ended = cli("diagnose", "new", "--failures")
        assert ended.code == 3
        assert "gold_passages" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--sweep", "layers=1,2"], 2, "mis-steps"),
        (["--sweep", "k=0,2"], 2, "from 1"),
        (["--sweep", "mis-steps="], 2, "--sweep mis-steps=1,2,4"),
        (["--checkpoint", "best"], 2, "untrained"),
        (["--rows", "some"], 2, "--rows"),
        (["--rows", "-1"], 2, "--rows"),
    ],
)
def test_bad_options_end_with_2(
    cli: Cli, run: Path, arguments: list[str], code: int, says: str
) -> None:
    ended = cli("diagnose", str(run), *arguments)
    assert ended.code == code
    assert says in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("extra", [(), ("--failures",), ("--rows", "0")])
def test_no_run_ends_with_4(cli: Cli, tmp_path: Path, extra: tuple[str, ...]) -> None:
    ended = cli("diagnose", str(tmp_path), *extra)
    assert ended.code == 4
    assert "run.json" in ended.err


def test_a_run_without_a_checkpoint_ends_with_4(cli: Cli, run: Path) -> None:
    ended = cli("diagnose", str(run), "--quiet")
    assert ended.code == 4
    assert "checkpoint" in ended.err


def test_sweeps_are_numbers_in_order() -> None:
    assert parse_sweeps(["mis_steps=8, 1,8", "k=4"]) == {"mis_steps": (1, 8), "k": (4,)}
    assert parse_sweeps([]) == {}


def test_a_curve_fits_and_keeps_its_ends() -> None:
    assert curve([0, 1, 2, 7]) == "▁▂▃█"
    assert curve([5.0]) == "▁"
    long = curve([float(value) for value in range(1000)])
    assert len(long) <= 24
    assert (long[0], long[-1]) == ("▁", "█")
