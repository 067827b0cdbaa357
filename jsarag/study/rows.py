"""Rows of a comparison on file: one JSON object a line, appended once each, never edited."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsarag.io.atomic import to_json
from jsarag.io.lines import append_line, read_json_lines


def add_row(path: Path, row: Mapping[str, Any]) -> bool:
    """Append a row unless the file has it; it is on disk when the call returns.

    Args:
        path: the file; it and its folder are made where they are missing.
        row: gets today's date where it has none. Dates do not make rows differ.

    Returns:
        Whether it was appended.
    """
    # As it reads when it comes back: tuples as lists, NaN as null.
    plain = json.loads(to_json(row))
    if any(_undated(known) == _undated(plain) for known in read_json_lines(path)):
        return False
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_line(path, to_json({"date": date, **plain}), durable=True)
    return True


def _undated(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "date"}
