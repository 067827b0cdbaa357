"""The passages beside the vectors: one JSON line each, and where each line starts.

Knows rows and lines; ids are looked up by ``data.KnowledgeBase``, which reads the same file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jsarag.errors import CheckpointError, DataError
from jsarag.index.generations import current_folder
from jsarag.index.interfaces import KnowledgeBaseLike
from jsarag.index.manifest import Manifest
from jsarag.index.shards import FIX
from jsarag.io.atomic import to_json
from jsarag.io.checked import CheckedFile
from jsarag.io.digests import FileRecord
from jsarag.io.faults import named_faults
from jsarag.types import Passage

PASSAGES = "passages.jsonl"
OFFSETS = "passages.offsets"


def write_store(folder: Path, kb: KnowledgeBaseLike) -> dict[str, FileRecord]:
    """Write ``passages.jsonl`` and its int64 [N + 1] offsets; returns both files' records."""
    offsets = np.zeros(len(kb) + 1, dtype="<i8")
    with (folder / PASSAGES).open("wb") as file:
        for row in range(len(kb)):
            line = to_json(_row_of(kb[row])).encode() + b"\n"
            file.write(line)
            offsets[row + 1] = offsets[row] + len(line)
    (folder / OFFSETS).write_bytes(offsets.tobytes())
    return {name: FileRecord.of(folder / name) for name in (PASSAGES, OFFSETS)}


class PassageStore:
    """The passages of an index folder, read from disk row by row and compared as they are read.

    Args:
        folder: a complete index folder.
        check: compare the store with its checksums now, and what is read later with what was found.

    Raises:
        CheckpointError: the manifest cannot be read, or the store is not what it says.
        DataError: the store's files do not fit together.
    """

    def __init__(self, folder: Path | str, *, check: bool = True) -> None:
        folder = current_folder(Path(folder))
        self.path = folder / PASSAGES
        manifest = Manifest.read(folder)
        self.digest = str(manifest.encoder.get("kb_digest", ""))
        if check and OFFSETS in manifest.files:
            problem = manifest.files[OFFSETS].problem(folder / OFFSETS)
            if problem is not None:
                raise CheckpointError(f"{problem}; {FIX}")
        self._text = CheckedFile(
            self.path, manifest.files.get(PASSAGES) if check else None, fix=FIX
        )
        self._offsets = read_offsets(folder)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        """The passage of a row.

        Raises:
            IndexError: no such row.
            CheckpointError: the file was changed since it was opened.
            DataError: its line is damaged.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"passage row {row}: expected 0 to {len(self) - 1}")
        line = self._text.read(int(self._offsets[row]), int(self._offsets[row + 1]))
        try:
            return passage_of(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the passage is damaged ({error!r}); {FIX}",
                path=self.path,
                line=row + 1,
            ) from error


def read_offsets(folder: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each line of the store starts and the last one ends, int64 [N + 1].

    Raises:
        DataError: the offsets do not describe the file beside them.
    """
    try:
        with named_faults(folder / OFFSETS):
            raw = (folder / OFFSETS).read_bytes()
            size = (folder / PASSAGES).stat().st_size
    except FileNotFoundError as error:
        raise DataError(f"the passage store is incomplete; {FIX}", path=error.filename) from error
    offsets = np.frombuffer(raw[: len(raw) // 8 * 8], dtype="<i8")
    rising = offsets.size > 0 and offsets[0] == 0 and bool((np.diff(offsets) > 0).all())
    if not rising or offsets[-1] != size:
        raise DataError(
            f"expected rising line offsets that end at {size}; {FIX}",
            path=folder / OFFSETS,
        )
    return offsets.astype(np.int64)


def passage_of(row: dict[str, Any]) -> Passage:
    """The passage of one parsed line."""
    return Passage(str(row["id"]), str(row["text"]), str(row.get("title", "")), row.get("meta", {}))


def _row_of(passage: Passage) -> dict[str, Any]:
    row: dict[str, Any] = {"id": passage.id, "text": passage.text}
    if passage.title:
        row["title"] = passage.title
    if passage.meta:
        row["meta"] = passage.meta
    return row
