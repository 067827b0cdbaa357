"""Tables of questions: files of all kinds, columns guessed and corrected, turns, repeats, ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.building.questions import Questions, read_questions
from jsarag.errors import DataError
from jsarag.types import Turn


def read(path: Path, **field_map: str) -> Questions:
    return read_questions(path, field_map)


def pairs(found: Questions) -> list[tuple[str | None, tuple[str, ...]]]:
    return [(row.example.question, row.example.answers) for row in found.rows]


WANTED = [("how long?", ("30 days", "a month")), ("who pays?", ("we do",))]


def write(path: Path) -> Path:
    """The same two questions in the kind of file that the name says."""
    if path.suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for row in (("Question", "Answer", "Answer 2"), ("how long?", "30 days", "a month")):
            book.active.append(row)
        book.active.append(("who pays?", "we do", None))
        book.save(path)
    elif path.suffix in (".json", ".jsonl"):
        rows = [
            {"question": "how long?", "answers": ["30 days", "a month"]},
            {"question": "who pays?", "answers": "we do"},
        ]
        one_a_line = "".join(f"{json.dumps(row)}\n" for row in rows)
        path.write_text(json.dumps(rows) if path.suffix == ".json" else one_a_line)
    else:
        mark = "\t" if path.suffix == ".tsv" else ";" if path.stem == "semicolons" else ","
        rows = ["Question,Answer,Answer 2", "how long?,30 days,a month", "who pays?,we do,"]
        path.write_text("".join(f"{row.replace(',', mark)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "name", ["a.csv", "semicolons.csv", "a.tsv", "a.xlsx", "a.jsonl", "a.json"]
)
def test_every_kind_of_table_gives_the_same(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path / name))
    assert pairs(found) == WANTED
    assert found.columns.first("question") in ("Question", "question")


def test_columns_in_other_words_are_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Nr;Frage;Antwort;Quelle;Kommentar\n7;wie lange?;30 Tage;a.md;alt\n")
    found = read(path)
    assert found.columns.roles == {
        "question": ("Frage",),
        "answer": ("Antwort",),
        "id": ("Nr",),
        "source": ("Quelle",),
    }
    assert found.columns.unused == ("Kommentar",)
    (row,) = found.rows
    assert (row.example.id, row.sources) == ("7", ("a.md",))


def test_a_map_comes_before_guesses(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,question,answer,short\n1,q,long answer,short answer\n")
    assert pairs(read(path, answer="short")) == [("q", ("short answer",))]
    assert pairs(read(path, answer="short|answer")) == [("q", ("short answer", "long answer"))]
    assert read(path, id="").rows[0].example.id.startswith("q-")


@pytest.mark.parametrize(
    ("content", "field_map", "says"),
    [
        ("x,y\n1,2\n", {}, r"no column for the question and the answer.*'x', 'y'.*--map quest"),
        ("question,b\n1,2\n", {}, r"--map answer=COLUMN"),
        ("question,answer\n1,2\n", {"answer": "answr"}, r"did you mean 'answer'"),
        ("question,answer\n1,2\n", {"answr": "answer"}, r"expected one of question, answer"),
        ("question,answer\n", {}, "expected rows with questions and answers, found none"),
        ("", {}, "found an empty file"),
        ("question,answer\nq,\n", {}, r"a\.csv:2: field 'answer': empty"),
        ("question,answer\nq,a,b\n", {}, r"a\.csv:2: expected 2 cells"),
    ],
)
def test_tables_that_cannot_be_used(
    tmp_path: Path, content: str, field_map: dict[str, str], says: str
) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=says):
        read_questions(tmp_path / "a.csv", field_map)


def test_a_damaged_workbook_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(DataError, match="expected an Excel workbook"):
        read(tmp_path / "a.xlsx")


def test_rows_without_an_answer_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nq1,a1\nq2,\n,a3\n")
    found = read(tmp_path / "a.csv")
    assert pairs(found) == [("q1", ("a1",))]
    assert [problem.line for problem in found.left_out] == [3, 4]


def test_a_conversation_becomes_histories(tmp_path: Path) -> None:
    rows = "conversation,question,answer\nc,hi,hello\nc,socks?,no\nd,shoes?,yes\n"
    (tmp_path / "a.csv").write_text(rows)
    found = read(tmp_path / "a.csv")
    first, second, third = (row.example for row in found.rows)
    assert (first.question, third.question) == ("hi", "shoes?")
    assert second.history == (
        Turn("user", "hi"),
        Turn("assistant", "hello"),
        Turn("user", "socks?"),
    )
    assert first.dialogue_id == second.dialogue_id != third.dialogue_id
    assert "1 row later in a conversation" in found.notes[0]


def test_a_repeated_question_adds_its_answers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nHow?,so\nhow?,or so\n")
    found = read(tmp_path / "a.csv")
    assert pairs(found) == [("How?", ("so", "or so"))]
    assert "asked before" in found.notes[0]


def test_ids_are_made_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nq1,a\nq2,b\n")
    (tmp_path / "b.csv").write_text("question,answer\nq0,x\nq2,other\n")
    first, second = read(tmp_path / "a.csv"), read(tmp_path / "b.csv")
    assert first.rows[1].example.id == second.rows[1].example.id
    (tmp_path / "c.csv").write_text("id,question,answer\n1,q1,a\n1,q2,b\n")
    repeated = read(tmp_path / "c.csv")
    assert "holds '1' in lines 2 and 3, so it was not used" in repeated.notes[0]
    assert len({row.example.id for row in repeated.rows}) == 2


def test_other_letters_are_read_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("question,answer\nq,Größe\n".encode("cp1252"))
    found = read(tmp_path / "a.csv")
    assert found.rows[0].example.answers == ("Größe",)
    assert "read as cp1252" in found.notes[0]


def test_the_shape_of_squad_is_read(tmp_path: Path) -> None:
    row: dict[str, Any] = {"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert pairs(read(tmp_path / "a.jsonl")) == [("q", ("a", "b"))]
