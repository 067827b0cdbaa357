"""Logs that only grow: one line at a time, whole or not at all.

A crash may cut the last line short; the next one appended takes its place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def append_line(path: Path | str, line: str, *, durable: bool = False) -> None:
    """Append one line of UTF-8; folder and file are made where they are missing.

    Args:
        path: the file.
        line: without its end.
        durable: return only once it is on the disk.
    """
    target = Path(path)
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
    """
    source = Path(path)
    if not source.is_file():
        return []
    text = source.read_text(encoding="utf-8")
    # Not splitlines(): texts may hold U+2028 and its like, which JSON leaves as they are.
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line.strip()]


def _drop_torn_line(path: Path) -> None:
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)
