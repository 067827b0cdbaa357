"""MS MARCO QA v2.1: search queries, passages of the result pages, answers written by people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jsarag.data.formats.base import (
    Counts,
    FileNeed,
    Format,
    FormatData,
    Node,
    PassagePool,
    distinct,
    find,
    json_document,
    json_lines,
    need,
    require_no_map,
    wanted,
)
from jsarag.types import Example

_SPLITS = ("train", "dev")
_NO_ANSWER = "No Answer Present."


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read ``{train,dev}_v2.1.json`` (one object of columns) or row-wise ``.jsonl``.

    The knowledge base holds the distinct passages of all files present; gold are those selected.
    Queries without an answer are left out.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("msmarco", field_map)
    wanted(splits, _SPLITS, "msmarco")
    for split in splits:
        need(folder, *_names(split))
    pool, counts = PassagePool("msmarco"), Counts()
    rows: dict[str, list[Example]] = {}
    for split in _SPLITS:
        path = find(folder, *_names(split))
        if path is not None:
            rows[split] = list(_rows(path, pool, counts))
    return FormatData(
        pool.passages, {split: rows[split] for split in splits}, counts.notes("msmarco")
    )


def _names(split: str) -> tuple[str, ...]:
    return (f"{split}_v2.1.json", f"{split}_v2.1.jsonl")


def _rows(path: Path, pool: PassagePool, counts: Counts) -> Iterator[Example]:
    for row in json_lines(path) if ".jsonl" in path.name else _columns(path):
        gold = []
        for passage in row["passages"].items():
            text = passage["passage_text"].text().strip()
            if not text:
                continue
            identity = pool.add("", text)
            if passage["is_selected"].number() == 1:
                gold.append(identity)
        answers = distinct([*_texts(row, "answers"), *_texts(row, "wellFormedAnswers")])
        query, identity = row["query"].text().strip(), row["query_id"].identity()
        if not query or not answers or answers == (_NO_ANSWER,):
            counts.add("queries without an answer, left out")
            continue
        yield Example(
            id=identity,
            answers=answers,
            question=query,
            gold_passages=distinct(gold),
            dialogue_id=identity,
        )


def _columns(path: Path) -> Iterator[Node]:
    """The rows of a column-oriented object, in the order of the query column."""
    root = json_document(path)
    columns = dict(root.pairs())
    for key, _ in root["query"].pairs():
        values = {
            name: column.value[key]
            for name, column in columns.items()
            if isinstance(column.value, dict) and key in column.value
        }
        yield Node(values, path, f"row '{key}'")


def _texts(row: Node, name: str) -> list[str]:
    node = row.get(name)
    # "[]", a text, is how the file writes an empty list of well-formed answers.
    if node is None or node.value == "[]":
        return []
    return [item.text() for item in node.items()]


FORMAT = Format(
    name="msmarco",
    title="MS MARCO QA v2.1",
    source="Published by Microsoft for non-commercial research.",
    files=(
        FileNeed("train_v2.1.json or .gz", "training queries with passages"),
        FileNeed("dev_v2.1.json or .gz", "dev queries with passages"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("train_v2.1.json*", "dev_v2.1.json*"),
)
