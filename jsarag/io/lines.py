"""Logs that only grow: one line at a time, whole or not at all.

A crash may cut the last line short; the next one appended takes its place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jsarag.errors import CheckpointError
from jsarag.io.faults import named_faults
from jsarag.io.records import read_text

_FIX = "remove that line; only reports, charts and comparisons of runs read it"


def append_line(path: Path | str, line: str, *, durable: bool = False) -> None:
    """Append one line of UTF-8; folder and file are made where they are missing.

    Args:
        path: the file.
        line: without its end.
        durable: return only once it is on the disk.

    Raises:
        StorageError: the disk is full, the place cannot be written, or a limit is reached.
    """
    target = Path(path)
    with named_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short: do not glue onto it
                    _drop_torn_line(target)
            file.write(line.encode() + b"\n")
            if durable:
                file.flush()
                os.fsync(file.fileno())


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """Every whole row, oldest first; a line that a crash cut short is left out.

    A file that is not there has none.

    Raises:
        CheckpointError: a whole line is no JSON object; names it.
    """
    source = Path(path)
    if not source.is_file():
        return []
    text = read_text(source, fix="restore it from a copy, or remove it")
    # Not splitlines(): texts may hold U+2028 and its like, which JSON leaves as they are.
    lines = text[: text.rfind("\n") + 1].split("\n")
    return [_row(source, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}:{number}: expected JSON ({error}); {_FIX}") from error
    if not isinstance(row, dict):
        raise CheckpointError(f"{path}:{number}: expected a JSON object; {_FIX}")
    return row


def _drop_torn_line(path: Path) -> None:
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)
