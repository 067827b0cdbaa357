"""Logs that only grow: one line at a time, whole or not at all.

A crash may cut the last line short; the next one appended takes its place.
"""

from __future__ import annotations

import os
from pathlib import Path


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


def _drop_torn_line(path: Path) -> None:
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)
