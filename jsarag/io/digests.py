"""Checksums of files, one record of them everywhere; what they are compared with is the callers'.

XXH3 finds accidents: a flipped bit, lost rows, a file cut short. It is no signature: whoever can
write the file can write its record, too. It is read at the speed of memory, which SHA-256 is not
(0.8 GB/s against 4.4 GB/s of a file in the system's cache), so files can be checked whenever they
are opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, Protocol

import xxhash

ALGORITHM: Final = "xxh3_128"
_HASHES: Final[Mapping[str, Callable[[], Any]]] = {
    ALGORITHM: xxhash.xxh3_128,
    "sha256": hashlib.sha256,
}
# Fits a core's own cache, so that what was read is hashed there.
_PIECE_BYTES: Final = 1 << 20


class Hash(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: Any, /) -> None:
        """Go on with ``data``."""

    def hexdigest(self) -> str:
        """The digest so far."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file must look like: its size and checksum, as written into manifests.

    algorithm: 'xxh3_128', or 'sha256' for downloads and in folders of earlier versions.
    """

    bytes: int
    digest: str
    algorithm: str = ALGORITHM

    @classmethod
    def of(cls, path: Path, algorithm: str = ALGORITHM) -> FileRecord:
        """The record of a file as it is now."""
        return cls(path.stat().st_size, file_digest(path, algorithm), algorithm)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FileRecord:
        """Read what :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is no such thing.
        """
        algorithm = next((name for name in _HASHES if name in value), ALGORITHM)
        return cls(int(value["bytes"]), str(value[algorithm]), algorithm)

    def to_json(self) -> dict[str, Any]:
        """``{"bytes": 12, "xxh3_128": "0f..."}``."""
        return {"bytes": self.bytes, self.algorithm: self.digest}

    def new_hash(self) -> Hash:
        """An empty hash of the record's kind."""
        return new_hash(self.algorithm)

    def problem(self, path: Path, *, deep: bool = True) -> str | None:
        """What is wrong with ``path``, or None; ``deep`` also reads it for its checksum."""
        if not path.is_file():
            return f"{path}: the file is missing"
        try:
            size = path.stat().st_size
            if size != self.bytes:
                return f"{path}: expected {self.bytes} bytes, found {size}"
            return self.mismatch(path, file_digest(path, self.algorithm)) if deep else None
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"

    def mismatch(self, path: Path, found: str) -> str | None:
        """How a checksum that was found differs, or None."""
        if found == self.digest:
            return None
        return f"{path}: expected {self.algorithm} {self.digest[:12]}..., found {found[:12]}..."


def new_hash(algorithm: str = ALGORITHM) -> Hash:
    """An empty hash."""
    made: Hash = _HASHES[algorithm]()
    return made


def text_digest(text: str) -> str:
    """XXH3 of a text, with its name: ``xxh3_128:0f...``."""
    made = new_hash()
    made.update(text.encode("utf-8", "surrogatepass"))
    return f"{ALGORITHM}:{made.hexdigest()}"


def file_digest(path: Path, algorithm: str = ALGORITHM) -> str:
    """Checksum of a file's content, as hex."""
    made = new_hash(algorithm)
    with path.open("rb", buffering=0) as file:
        for piece in pieces(file):
            made.update(piece)
    return made.hexdigest()


def pieces(file: FileIO) -> Iterator[memoryview]:
    """What is left of a file, in order, in pieces of 1 MiB; the next overwrites each."""
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while count := read_into(file, buffer):
        yield buffer[:count]


def read_into(file: FileIO, target: memoryview, made: Hash | None = None) -> int:
    """Read on until ``target`` is full or the file ends; returns the bytes read.

    Args:
        file: where it stands.
        target: writable bytes.
        made: goes over what was read, as it is read; None does not.
    """
    done = 0
    while done < len(target):
        count = file.readinto(target[done : done + _PIECE_BYTES])
        if not count:
            break
        if made is not None:
            made.update(target[done : done + count])
        done += count
    return done
