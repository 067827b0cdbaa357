"""Tables of our fields: ``kb.csv`` and one table a split, with a header row (or ``.tsv``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsarag.data.examples import examples_of
from jsarag.data.formats.base import FileNeed, Format, FormatData, need, wanted
from jsarag.data.formats.tsv import table
from jsarag.data.knowledge_base import KnowledgeBase, passages_of
from jsarag.data.rows import EXAMPLE_FIELDS, PASSAGE_FIELDS, ReadStats, Row, map_for
from jsarag.errors import DataError

_SPLITS = ("train", "dev", "test")
_LISTS = ("history", "answers", "gold_passages", "exclude_passages", "meta")


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read comma- or tab-separated tables; ``--map`` renames their columns.

    A cell of ``answers``, ``gold_passages``, ``exclude_passages``, ``history`` or ``meta`` may hold
    JSON; one that does not start with a bracket is a single answer or id.

    Raises:
        DataError: a file is missing or a row is faulty; names file, line, field and fix.
    """
    wanted(splits, _SPLITS, "csv")
    stats = ReadStats()
    path = need(folder, "kb.csv", "kb.tsv")
    rows = _rows(path, PASSAGE_FIELDS, map_for("kb", field_map), stats)
    kb = KnowledgeBase(passages_of(rows), source=str(path))
    notes = list(stats.notes(path.name))
    found = {}
    for split in splits:
        path, stats = need(folder, f"{split}.csv", f"{split}.tsv"), ReadStats()
        rows = _rows(path, EXAMPLE_FIELDS, map_for("examples", field_map), stats)
        found[split] = examples_of(rows, kb, stats)
        notes += stats.notes(path.name)
    return FormatData(kb.passages, found, tuple(notes))


def _rows(
    path: Path, fields: Sequence[str], field_map: Mapping[str, str], stats: ReadStats
) -> Iterator[Row]:
    names = {name: field_map.get(name, name) for name in fields}
    lists = {names[name] for name in _LISTS if name in names}
    lines = table(path, delimiter="\t" if ".tsv" in path.name else ",")
    header_line, header = next(lines, (1, []))
    columns = [column.strip() for column in header]
    if not set(columns) & set(names.values()):
        raise DataError(
            f"expected a header with our columns ({', '.join(names.values())}), found "
            f"{', '.join(columns) or 'nothing'}; name the columns in the first row, or rename: "
            "--map question=COLUMN",
            path=path,
            line=header_line,
        )
    for line, cells in lines:
        if len(cells) != len(columns):
            raise DataError(
                f"expected {len(columns)} cells as in the header, found {len(cells)}; put quotes "
                "around cells that hold the separator",
                path=path,
                line=line,
            )
        stats.rows += 1
        stats.ignored_keys.update(set(columns) - set(names.values()))
        values = {
            column: _value(cell, column in lists, path, line, column)
            for column, cell in zip(columns, cells, strict=True)
            if cell.strip()
        }
        yield Row(values, names, path, line)


def _value(cell: str, is_list: bool, path: Path, line: int, column: str) -> Any:
    if not is_list:
        return cell
    if not cell.lstrip().startswith(("[", "{")):
        return [cell]
    try:
        return json.loads(cell)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f'expected JSON such as ["a", "b"], found {cell[:40]!r} ({error}); in a CSV cell, '
            "double its quotes",
            path=path,
            line=line,
            field=column,
        ) from error


FORMAT = Format(
    name="csv",
    title="CSV",
    source="Your own tables.",
    files=(
        FileNeed("kb.csv or kb.tsv", "columns id, text, title"),
        FileNeed("train.csv or train.tsv", "columns id, question, answers, gold_passages"),
        FileNeed("dev.csv or dev.tsv", "the same columns"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("kb.[ct]sv*",),
)
