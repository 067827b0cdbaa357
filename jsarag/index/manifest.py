"""``manifest.json`` of an index folder: what the vectors are, and of whom.

Reads, writes and compares the record; the vectors are ``shards.py``'s, the passages ``store.py``'s.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsarag._version import __version__
from jsarag.errors import CheckpointError, IndexStaleError
from jsarag.index.shards import FIX, Shard
from jsarag.io.digests import FileRecord
from jsarag.io.records import CHECKSUM, read_json, read_record, write_record

# Version 1 had no checksum of the manifest itself, and SHA-256 of the files.
FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)
NAME = "manifest.json"
# The same weights may be known by a hub id, a folder or a run's checkpoint: digests decide.
_NOT_COMPARED = frozenset({"model"})


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` says.

    encoder: the passage encoder's spec with ``weights_digest`` and ``kb_digest``.
    files: the passage store's files by name. extra: whatever the writer wants to keep beside.
    """

    count: int
    width: int
    dtype: str
    generation: int
    encoder: Mapping[str, Any]
    shards: Sequence[Shard]
    files: Mapping[str, FileRecord]
    created: str = field(default_factory=lambda: _now())
    version: str = __version__
    extra: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into an index folder."""
        head = {
            "format_version": FORMAT_VERSION,
            "jsarag": self.version,
            "created": self.created,
            "generation": self.generation,
            "count": self.count,
            "width": self.width,
            "dtype": self.dtype,
            "encoder": self.encoder,
            "shards": [
                {"file": shard.file, "rows": shard.rows, **shard.record.to_json()}
                for shard in self.shards
            ],
            "passages": {name: record.to_json() for name, record in self.files.items()},
            "extra": self.extra,
        }
        write_record(folder / NAME, head)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read ``manifest.json``.

        Raises:
            CheckpointError: it is missing, damaged, of another format, or names a file outside of
                its folder.
        """
        head = _read(folder)
        try:
            return cls(
                count=int(head["count"]),
                width=int(head["width"]),
                dtype=str(head["dtype"]),
                generation=int(head["generation"]),
                encoder=dict(head["encoder"]),
                shards=[
                    Shard(_inside(s["file"]), int(s["rows"]), FileRecord.from_json(s))
                    for s in head["shards"]
                ],
                files={
                    _inside(name): FileRecord.from_json(record)
                    for name, record in head["passages"].items()
                },
                created=str(head["created"]),
                version=str(head["jsarag"]),
                extra=dict(head["extra"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{folder / NAME}: expected every field of format {FORMAT_VERSION} ({error!r}); "
                f"{FIX}"
            ) from error

    def differences(self, expected: Mapping[str, Any]) -> list[str]:
        """Fields in which this index is not the expected one, each as a readable phrase.

        Args:
            expected: any of the encoder's fields and of ``count``, ``width``, ``dtype``,
                ``generation``. What is not named is not compared.
        """
        own = {
            **self.encoder,
            "count": self.count,
            "width": self.width,
            "dtype": self.dtype,
            "generation": self.generation,
        }
        return [
            f"{name}: the index has {own.get(name)!r}, expected {value!r}"
            for name, value in expected.items()
            if name not in _NOT_COMPARED and own.get(name, ...) != value
        ]

    def require(self, expected: Mapping[str, Any], folder: Path) -> None:
        """Refuse an index that is not the expected one.

        Raises:
            IndexStaleError: names every field that differs.
        """
        different = self.differences(expected)
        if different:
            raise IndexStaleError(
                f"{folder}: the index does not belong to this encoder or knowledge base: "
                f"{'; '.join(different)}. Rebuild it with `jsarag index rebuild`, or use the "
                "encoder it was built with"
            )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    if not path.exists():
        raise CheckpointError(
            f"{folder}: expected an index folder; it has no {NAME}. Build one with "
            "`jsarag index build`"
        )
    version = (head := read_json(path, fix=FIX)).get("format_version")
    if version not in _READ_VERSIONS:
        raise CheckpointError(
            f"{path}: expected index format {FORMAT_VERSION}, found {version!r}; use the version "
            "of jsarag that wrote it, or build the index again"
        )
    if version > 1 and CHECKSUM not in head:
        raise CheckpointError(f"{path}: expected a '{CHECKSUM}', found none; {FIX}")
    return read_record(path, fix=FIX)


def _inside(name: Any) -> str:
    """A file's name, which must not lead out of the folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"{name!r} is no name of a file in this folder")
    return name


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
