"""``eval --show-failures``: which questions fail, in which order, and how they are shown."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from jsarag_cli.failures import failures_of, print_failures


def row(id: str, gold: list[str], found: list[str], f1: float | None = 0.5) -> dict[str, Any]:
    return {
        "id": id,
        "context": f"user: hello\nuser: where is {id}",
        "answers": ["in the shed"],
        "prediction": None if f1 is None else "on the roof",
        "gold_passages": gold,
        "passages": [{"id": name, "title": "", "text": f"text of {name}"} for name in found],
        "metrics": {"prior": None, "generation": None if f1 is None else {"F1": f1}},
    }


ROWS = [
    row("fine", ["a"], ["a", "b"]),
    row("second", ["b"], ["a", "b"]),
    row("fourth", ["d"], ["a", "b", "c", "d"]),
    row("lost", ["z"], ["a", "b"]),
    row("said wrong", [], ["a"], f1=0.0),
    row("said half", [], ["a"], f1=0.5),
    row("not asked", [], ["a"], f1=None),
]


def test_failures_are_what_is_not_first_the_furthest_off_first() -> None:
    found = failures_of(ROWS)
    assert [(item["id"], item["rank"]) for item in found] == [
        ("lost", None),
        ("said wrong", None),
        ("fourth", 4),
        ("second", 2),
    ]
    assert [hit["id"] for hit in found[2]["passages"]] == ["a", "b", "c"]


def shown(most: int) -> str:
    console = Console(file=io.StringIO(), width=60)
    print_failures(failures_of(ROWS), most, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_people_see_what_was_asked_wanted_found_and_said() -> None:
    text = shown(1)
    for line in (
        "4 failures",
        "user: hello / user: where is lost",
        "gold    z, not retrieved",
        "found 1 a  text of a",
        "wanted  in the shed",
        "said    on the roof  (F1 0.50)",
        "and 3 more; --most 4 shows all",
    ):
        assert line in text.splitlines()
    assert "more" not in shown(4)
