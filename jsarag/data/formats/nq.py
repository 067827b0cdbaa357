"""NQ-open with DPR's Wikipedia blocks: short questions, short answers, no gold passages.

Rows come from Google's ``NQ-open.*.jsonl`` or DPR's ``nq-*.qa.csv``; passages from
``psgs_w100.tsv`` (all 21 million, or any part of it in the same form).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jsarag.data.formats.base import (
    Counts,
    FileNeed,
    Format,
    FormatData,
    distinct,
    json_lines,
    need,
    require_no_map,
    wanted,
)
from jsarag.data.tables import table
from jsarag.errors import DataError
from jsarag.types import Example, Passage

_SPLITS = ("train", "dev", "test")
_BLOCKS = "psgs_w100.tsv"


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read questions and passages; where both forms of a split are there, Google's is taken.

    DPR's ``test`` is NQ-open's published dev set; its own dev was cut from train. So the two
    families must not be mixed, which a note says where it happens.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("nq", field_map)
    wanted(splits, _SPLITS, "nq")
    counts = Counts()
    paths = {
        split: need(folder, f"NQ-open.{split}.jsonl", f"nq-{split}.qa.csv") for split in splits
    }
    if len({".qa.csv" in path.name for path in paths.values()}) > 1:
        counts.add("splits of two families (NQ-open.*.jsonl and nq-*.qa.csv), which share rows")
    rows = {split: list(_questions(f"nq-{split}", path, counts)) for split, path in paths.items()}
    return FormatData(list(blocks(need(folder, _BLOCKS))), rows, counts.notes("nq"))


def blocks(path: Path) -> Iterator[Passage]:
    """The passages of a ``psgs_w100.tsv``: id, text, title with a header row.

    Raises:
        DataError: a row has other columns or an empty cell.
    """
    for line, cells in table(path):
        if cells[0] == "id":
            continue
        if len(cells) != 3:
            raise DataError(
                f"expected three columns (id, text, title) separated by tabs, found {len(cells)}",
                path=path,
                line=line,
            )
        identity, text, title = cells
        text = text.strip().removeprefix('"').removesuffix('"')
        if not identity or not text.strip():
            raise DataError(
                "expected an id and a text, found an empty cell; fill it or remove the row",
                path=path,
                line=line,
                field="text" if identity else "id",
            )
        yield Passage(identity, text, title.strip())


def _questions(identity: str, path: Path, counts: Counts) -> Iterator[Example]:
    pairs = _csv_pairs(path) if ".qa.csv" in path.name else _json_pairs(path)
    for number, (question, answers) in enumerate(pairs):
        kept = distinct(answers)
        if not kept or not question.strip():
            counts.add("questions without a text or an answer, left out")
            continue
        name = f"{identity}-{number:05d}"
        yield Example(id=name, answers=kept, question=question.strip(), dialogue_id=name)


def _json_pairs(path: Path) -> Iterator[tuple[str, list[str]]]:
    for row in json_lines(path):
        answers = [answer.text() for answer in row["answer"].items()]
        yield row["question"].text(), answers


def _csv_pairs(path: Path) -> Iterator[tuple[str, list[str]]]:
    for line, cells in table(path):
        if len(cells) != 2:
            raise DataError(
                f"expected two columns (question, answers) separated by a tab, found {len(cells)}",
                path=path,
                line=line,
            )
        yield cells[0], _answer_list(cells[1], path, line)


def _answer_list(text: str, path: Path, line: int) -> list[str]:
    """Answers written as a Python or JSON list literal.

    Raises:
        DataError: it is something else.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(
            f"expected a list of texts such as ['a', 'b'], found {text[:60]!r}; quote each answer",
            path=path,
            line=line,
            field="answers",
        )
    return value


FORMAT = Format(
    name="nq",
    title="NQ-open",
    source="Questions: google-research-datasets/natural-questions (nq_open), CC BY-SA 3.0, or "
    "DPR's nq-*.qa.csv; passages: DPR's psgs_w100.tsv.",
    files=(
        FileNeed("NQ-open.train.jsonl or nq-train.qa.csv", "training questions"),
        FileNeed("NQ-open.dev.jsonl or nq-dev.qa.csv", "dev questions"),
        FileNeed("psgs_w100.tsv or .gz", "Wikipedia in blocks of 100 words"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("psgs_w100.tsv*", "[Nn][Qq]-*train*"),
)
