"""Tables: their rows one at a time, each with its line, and our own rows written as one.

A cell of ``answers``, ``gold_passages``, ``exclude_passages``, ``history`` or ``meta`` may hold
JSON; one that does not start with a bracket is a single answer or id.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsarag.data import parquet
from jsarag.data.rows import OnProblem, ReadStats, Row, open_bytes, raise_problem, read_rows
from jsarag.errors import DataError

_LISTS = ("history", "answers", "gold_passages", "exclude_passages", "meta")
# The largest cell: csv refuses 128 KiB by default, and some evidence texts are longer.
_CELL = 2**28


def table(
    path: Path, *, delimiter: str = "\t", quoting: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every row that is not blank; the line is the row's last one.

    Args:
        path: the file, plain or ``.gz``, UTF-8 with or without byte-order mark.
        delimiter: between cells.
        quoting: whether double quotes hold a cell together.

    Raises:
        DataError: the file cannot be read or its quoting is broken.
    """
    csv.field_size_limit(_CELL)
    with open_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        rows = csv.reader(
            text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
        )
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                text.detach()
                return
            except csv.Error as error:
                raise DataError(
                    f"expected a table row ({error}); check its quotes",
                    path=path,
                    line=rows.line_num,
                ) from error
            except UnicodeDecodeError as error:
                raise DataError(
                    f"expected UTF-8 ({error.reason}); convert the file (iconv -f latin1 -t utf-8)",
                    path=path,
                    line=rows.line_num + 1,
                ) from error
            if any(cell.strip() for cell in cells):
                yield rows.line_num, cells


def read_any_rows(
    path: Path,
    fields: tuple[str, ...],
    *,
    field_map: Mapping[str, str],
    stats: ReadStats,
    on_problem: OnProblem = raise_problem,
) -> Iterator[Row]:
    """The rows of a file of ours: of a table where its name says so, else of JSON Lines.

    Args:
        path, fields, field_map, stats, on_problem: as for ``rows.read_rows``.

    Raises:
        DataError: the file cannot be read, or a table's header has none of our columns.
    """
    if path.suffix == parquet.SUFFIX:
        return parquet.read_parquet(
            path, fields, field_map=field_map, stats=stats, on_problem=on_problem
        )
    delimiter = {".csv": ",", ".tsv": "\t"}.get(Path(path.name.removesuffix(".gz")).suffix)
    if delimiter is None:
        return read_rows(path, fields, field_map=field_map, stats=stats, on_problem=on_problem)
    names = {name: field_map.get(name, name) for name in fields}
    return _rows(path, delimiter, names, stats, on_problem)


def _rows(
    path: Path, delimiter: str, names: Mapping[str, str], stats: ReadStats, on_problem: OnProblem
) -> Iterator[Row]:
    lists = {names[name] for name in _LISTS if name in names}
    lines = table(path, delimiter=delimiter)
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
        try:
            values = _values(columns, cells, lists, path, line)
        except DataError as problem:
            on_problem(problem)
            continue
        stats.rows += 1
        stats.ignored_keys.update(set(columns) - set(names.values()))
        yield Row(values, names, path, line)


def _values(
    columns: Sequence[str], cells: Sequence[str], lists: set[str], path: Path, line: int
) -> dict[str, Any]:
    """A row's cells by column, without the empty ones."""
    if len(cells) != len(columns):
        raise DataError(
            f"expected {len(columns)} cells as in the header, found {len(cells)}; put quotes "
            "around cells that hold the separator",
            path=path,
            line=line,
        )
    return {
        column: _value(cell, column in lists, path, line, column)
        for column, cell in zip(columns, cells, strict=True)
        if cell.strip()
    }


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
