"""Parquet beside or in place of JSON Lines: the same rows, columns guessed and said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.check import check_dataset
from jsarag.data.registry import load_dataset
from jsarag.errors import BackendUnavailableError, DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PASSAGES = [{"id": "a", "text": "Otters sleep.", "title": "Otter"}, {"id": "b", "text": "Herons."}]
ROWS = [
    {"id": "1", "question": "who sleeps", "answers": ["otters", "they"], "gold_passages": ["a"]},
    {"id": "2", "question": "who stands", "answers": ["herons"], "gold_passages": None},
]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with nothing but tables of our own column names."""
    write(tmp_path / "kb.parquet", PASSAGES)
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.parquet", ROWS)
    return tmp_path


def test_our_columns_are_read_as_they_are(tables: Path) -> None:
    data = load_dataset(str(tables))
    assert [(p.id, p.title, p.text) for p in data.kb] == [
        ("a", "Otter", "Otters sleep."),
        ("b", "", "Herons."),
    ]
    one, two = data.splits["train"]
    assert (one.id, one.question, one.answers) == ("1", "who sleeps", ("otters", "they"))
    assert (one.gold_passages, two.gold_passages) == (("a",), ())
    assert data.notes == ()
    assert check_dataset(str(tables)).ok


def test_other_columns_are_guessed_and_said(tables: Path) -> None:
    write(tables / "kb.parquet", [{"docid": 7, "contents": "Otters.", "url": "x"}])
    rows = [{"Query": "who", "Response": "otters", "session": "s", "score": 0.5}]
    write(tables / "train.parquet", rows)
    data = load_dataset(str(tables), splits=("train",))
    assert (data.kb[0].id, data.kb[0].text) == ("7", "Otters.")
    (row,) = data.splits["train"]
    assert (row.question, row.answers, row.dialogue_id) == ("who", ("otters",), "s")
    notes = "\n".join(data.notes)
    assert "kb.parquet: read id from 'docid', text from 'contents'; --map" in notes
    assert "question from 'Query', answers from 'Response', dialogue_id from 'session'" in notes
    assert "ignored keys score (1)" in notes


def test_a_map_comes_before_any_guess(tables: Path) -> None:
    write(tables / "train.parquet", [{"query": "no", "asked": "who", "answer": "x"}])
    data = load_dataset(str(tables), splits=("train",), field_map={"question": "asked"})
    assert data.splits["train"][0].question == "who"


def test_histories_and_squads_answers(tables: Path) -> None:
    history = [{"speaker": "user", "text": "who?"}]
    write(tables / "train.parquet", [{"history": history, "response": "otters", "input": "x"}])
    (row,) = load_dataset(str(tables), splits=("train",)).splits["train"]
    assert (row.history[0].text, row.question, row.response) == ("who?", None, "otters")
    answers = {"text": ["otters"], "answer_start": [0]}
    write(tables / "train.parquet", [{"question": "who", "answers": answers}])
    (row,) = load_dataset(str(tables), splits=("train",)).splits["train"]
    assert row.answers == ("otters",)


def test_faulty_rows_are_named_by_number(tables: Path) -> None:
    write(tables / "train.parquet", [ROWS[0], {**ROWS[1], "question": " "}])
    with pytest.raises(DataError, match=r"train\.parquet:2: field 'question'"):
        load_dataset(str(tables))
    assert check_dataset(str(tables)).problem_count == 1


def test_more_rows_than_a_batch(tables: Path) -> None:
    many = [{"id": n, "question": f"q {n}", "answers": ["x"]} for n in range(3000)]
    write(tables / "train.parquet", many)
    rows = load_dataset(str(tables), splits=("train",)).splits["train"]
    assert [row.id for row in rows] == [str(n) for n in range(3000)]


def test_what_is_no_table_is_refused(tables: Path) -> None:
    (tables / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"train\.parquet: expected a Parquet table"):
        load_dataset(str(tables))
    write(tables / "train.parquet", [{"x": 1}])
    with pytest.raises(DataError, match=r"expected columns such as id, question.*found x"):
        load_dataset(str(tables))


def test_json_lines_come_first(tables: Path) -> None:
    (tables / "kb.jsonl").write_text('{"id": "a", "text": "from lines"}', encoding="utf-8")
    assert load_dataset(str(tables)).kb[0].text == "from lines"


def test_without_pyarrow_the_extra_is_named(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendUnavailableError, match=r"jsarag\[parquet\]"):
        load_dataset(str(tables))
