"""Tables with csv quoting, one row at a time with its line; no format by itself."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Iterator
from pathlib import Path

from jsarag.data.rows import open_bytes
from jsarag.errors import DataError

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


def answer_list(text: str, path: Path, line: int) -> list[str]:
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
