"""A file read in pieces for as long as a process lives, each compared with what it held at first.

Nothing is mapped: a file that is cut short under a mapping kills the process that reads there.
"""

from __future__ import annotations

import os
import weakref
from array import array
from pathlib import Path
from typing import Final

import xxhash

from jsarag.errors import CheckpointError
from jsarag.io.digests import FileRecord, pieces
from jsarag.io.faults import named_faults

# One page of text or so is read at a time; its block is read along and hashed in some 10 µs.
_BLOCK_BYTES: Final = 1 << 16


class CheckedFile:
    """Random reads of a file that must not change; safe to use from several threads.

    Args:
        path: the file. A rename over it does not disturb: the file that was opened is read on.
        record: what it must be, compared on opening, when the checksum of every block is kept (8
            bytes per 64 KiB). None checks nothing but lengths.
        fix: what to do about damage, as the end of a sentence.

    Raises:
        CheckpointError: it is missing, or not what ``record`` says.
    """

    def __init__(self, path: Path, record: FileRecord | None, *, fix: str) -> None:
        self.path, self._fix = path, fix
        if not path.is_file():
            raise CheckpointError(f"{path}: the file is missing; {fix}")
        with named_faults(path):
            # A bare descriptor, closed with the object: pread has no position to share.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._size = os.fstat(self._descriptor).st_size
        self._blocks = None if record is None else self._check(record)

    def __len__(self) -> int:
        """Bytes, when it was opened."""
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` to before ``stop``.

        Raises:
            CheckpointError: the file was cut short or changed since it was opened.
        """
        first = start // _BLOCK_BYTES * _BLOCK_BYTES if self._blocks is not None else start
        last = -(-stop // _BLOCK_BYTES) * _BLOCK_BYTES if self._blocks is not None else stop
        wanted = min(last, self._size) - first
        with named_faults(self.path):
            content = os.pread(self._descriptor, wanted, first)
        if len(content) < wanted:
            raise self._changed(f"it ends at byte {first + len(content)} of {self._size}")
        if self._blocks is not None:
            for place in range(0, wanted, _BLOCK_BYTES):
                block = memoryview(content)[place : place + _BLOCK_BYTES]
                if xxhash.xxh3_64_intdigest(block) != self._blocks[(first + place) // _BLOCK_BYTES]:
                    raise self._changed(f"near byte {first + place}")
        return content[start - first : stop - first]

    def _check(self, record: FileRecord) -> array[int]:
        problem = record.problem(self.path, deep=False)
        if problem is not None:
            raise CheckpointError(f"{problem}; {self._fix}")
        whole, blocks = record.new_hash(), array("Q")
        with named_faults(self.path), open(self._descriptor, "rb", 0, closefd=False) as file:
            for piece in pieces(file):
                whole.update(piece)
                blocks.extend(
                    xxhash.xxh3_64_intdigest(piece[place : place + _BLOCK_BYTES])
                    for place in range(0, len(piece), _BLOCK_BYTES)
                )
        problem = record.mismatch(self.path, whole.hexdigest())
        if problem is not None:
            raise CheckpointError(f"{problem}; {self._fix}")
        return blocks

    def _changed(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: the file was changed while it was in use ({what}); {self._fix}"
        )
