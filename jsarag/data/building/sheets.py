"""Tables of questions as rows: CSV with any usual separator, TSV, XLSX, JSON Lines and JSON lists.

Which column means what belongs to ``columns``.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsarag.data.building.extra import need
from jsarag.data.building.texts import decode, read_bytes
from jsarag.data.rows import read_json, read_lines
from jsarag.errors import DataError

_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: the line it begins on, and its cells by column; empty cells are left out."""

    line: int
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table that was read.

    Attributes:
        path: the file.
        columns: in their order.
        rows: those that are not blank.
        problems: rows that could not be read; they are left out.
        notes: how the file was read, where that was a guess.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[TableRow]
    problems: Sequence[DataError] = ()
    notes: Sequence[str] = ()


def read_table(path: Path) -> Table:
    """The rows of a file, read by its suffix; one without a known suffix is taken as CSV.

    Raises:
        DataError: the file cannot be read, or has no rows.
        BackendUnavailableError: XLSX needs the extra ``documents``.
    """
    suffix = path.suffix.lower()
    made = _READERS.get(suffix, _read_csv)(path)
    if not made.rows:
        first = f" ({made.problems[0]})" if made.problems else ""
        raise DataError(
            f"expected rows with questions and answers, found none{first}; the first row of a "
            "table names its columns",
            path=path,
        )
    return made


def _read_csv(path: Path) -> Table:
    text, encoding = decode(read_bytes(path), path)
    separator = "\t" if path.suffix.lower() in (".tsv", ".tab") else _separator(text)
    csv.field_size_limit(2**28)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    lines: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for cells in reader:
            lines.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"expected a table row ({error}); check its quotes", path=path, line=line
        ) from error
    notes = []
    if encoding != "utf-8":
        notes.append(f"{path.name}: read as {encoding}; save it as UTF-8 if letters are wrong")
    if separator not in (",", "\t"):
        notes.append(f"{path.name}: columns are separated by {_SEPARATOR_NAMES[separator]}")
    return _with_header(path, lines, notes)


def _separator(text: str) -> str:
    """The one that cuts the first row into most cells; a comma where none cuts it."""
    head = next((line for line in text.split("\n") if line.strip()), "")

    def cells(separator: str) -> int:
        try:
            return len(next(csv.reader([head], delimiter=separator), []))
        except csv.Error:
            return 0

    return max(_SEPARATORS, key=lambda separator: (cells(separator), separator == ","))


def _read_xlsx(path: Path) -> Table:
    openpyxl = need("openpyxl", "to read .xlsx")
    read_bytes(path)  # a missing file gets our message
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = [(sheet.title, list(sheet.iter_rows(values_only=True))) for sheet in book]
        book.close()
    # What the reader of a damaged archive ends with.
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"expected an Excel workbook ({error}); open it and save it as .xlsx or .csv", path=path
        ) from error
    filled = [(title, rows) for title, rows in sheets if any(any(row) for row in rows)]
    if not filled:
        raise DataError("expected a sheet with rows, found empty ones", path=path)
    title, rows = filled[0]
    notes = []
    if len(filled) > 1:
        others = ", ".join(f"'{name}'" for name, _ in filled[1:])
        notes.append(f"{path.name}: read the sheet '{title}', not {others}")
    lines = [(number, [_cell(value) for value in row]) for number, row in enumerate(rows, start=1)]
    return _with_header(path, lines, notes)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # Excel keeps whole numbers as floats, and ids would end in ".0".
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _with_header(path: Path, lines: Sequence[tuple[int, list[str]]], notes: list[str]) -> Table:
    filled = [(line, cells) for line, cells in lines if any(cell.strip() for cell in cells)]
    if not filled:
        raise DataError("expected a table with a header, found an empty file", path=path)
    columns = _names(filled[0][1])
    rows: list[TableRow] = []
    problems: list[DataError] = []
    for line, cells in filled[1:]:
        if any(cell.strip() for cell in cells[len(columns) :]):
            problems.append(
                DataError(
                    f"expected {len(columns)} cells as in the header, found {len(cells)}; put "
                    "quotes around cells that hold the separator",
                    path=path,
                    line=line,
                )
            )
            continue
        pairs = zip(columns, cells, strict=False)
        rows.append(TableRow(line, {name: cell.strip() for name, cell in pairs if cell.strip()}))
    return Table(path, columns, rows, problems, notes)


def _names(header: Sequence[str]) -> list[str]:
    """Column names, each different; a column without one gets its number."""
    names: list[str] = []
    cells = list(header)
    while cells and not cells[-1].strip():
        cells.pop()
    for place, cell in enumerate(cells, start=1):
        name = wanted = cell.strip() or f"column {place}"
        count = 1
        while name in names:
            count += 1
            name = f"{wanted} ({count})"
        names.append(name)
    return names


def _read_jsonl(path: Path) -> Table:
    problems: list[DataError] = []
    found: list[tuple[int, Any]] = []
    for number, text in read_lines(path, problems.append):
        if not text.strip():
            continue
        try:
            found.append((number, json.loads(text)))
        except (json.JSONDecodeError, RecursionError) as error:
            problems.append(
                DataError(f"expected one JSON object ({error})", path=path, line=number)
            )
    return _of_objects(path, found, problems)


def _read_json(path: Path) -> Table:
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError("expected a list of objects [{...}, ...]; write one, or CSV", path=path)
    return _of_objects(path, list(enumerate(content, start=1)), [])


def _of_objects(path: Path, found: Sequence[tuple[int, Any]], problems: list[DataError]) -> Table:
    rows: list[TableRow] = []
    columns: dict[str, None] = {}
    for line, value in found:
        if not isinstance(value, dict):
            problems.append(DataError("expected a JSON object {...}", path=path, line=line))
            continue
        kept = {key: cell for key, cell in value.items() if cell not in (None, "", [], {})}
        columns |= dict.fromkeys(value)
        rows.append(TableRow(line, kept))
    return Table(path, list(columns), rows, problems)


_READERS: Mapping[str, Callable[[Path], Table]] = {
    ".xlsx": _read_xlsx,
    ".xlsm": _read_xlsx,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
}
