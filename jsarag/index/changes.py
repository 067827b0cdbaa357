"""Rows put into, changed in and taken out of an index: only what is new or differs is embedded.

A change is first said (:class:`Change`: the passages as they will be, and where each vector comes
from), then written as the next generation. Whoever reads and writes holds the index's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jsarag.errors import CheckpointError, DataError
from jsarag.index import shards
from jsarag.index.generations import LOCK, current_folder, prune, switch
from jsarag.index.interfaces import KnowledgeBaseLike
from jsarag.index.manifest import Manifest
from jsarag.index.rows import some_of
from jsarag.index.sources import block_rows
from jsarag.index.streaming import write_index
from jsarag.io.atomic import locked
from jsarag.types import Passage


@dataclass(frozen=True, slots=True)
class Change:
    """An index as it will be.

    passages: by row. origins: the present row of each vector, -1 where it is to be embedded.
    """

    passages: Sequence[Passage]
    origins: Sequence[int]

    @property
    def fresh(self) -> list[int]:
        """The rows to embed."""
        return [row for row, origin in enumerate(self.origins) if origin < 0]


def insert(old: Sequence[Passage], rows: Sequence[Passage]) -> Change:
    """New passages behind those there are.

    Raises:
        DataError: an id is in the index already.
    """
    known = {passage.id for passage in old}
    _refuse(
        [row.id for row in rows if row.id in known],
        "are in the index already; change these with `jsarag index update`",
    )
    return Change([*old, *rows], [*range(len(old)), *[-1] * len(rows)])


def update(
    old: Sequence[Passage], rows: Sequence[Passage], text: Callable[[Passage], str]
) -> Change:
    """Passages in place of those with the same ids.

    Args:
        old: as they are.
        rows: as they will be.
        text: renders a passage; the same text keeps its vector.

    Raises:
        DataError: an id is not in the index.
    """
    places = {passage.id: row for row, passage in enumerate(old)}
    _refuse(
        [row.id for row in rows if row.id not in places],
        "are not in the index; add these with `jsarag index insert`",
    )
    passages, origins = list(old), list(range(len(old)))
    for row in rows:
        place = places[row.id]
        passages[place] = row
        if text(row) != text(old[place]):
            origins[place] = -1
    return Change(passages, origins)


def delete(old: Sequence[Passage], ids: Sequence[str]) -> Change:
    """The passages without these.

    Raises:
        DataError: an id is not in the index, or nothing would be left.
    """
    known, gone = {passage.id for passage in old}, set(ids)
    _refuse([one for one in ids if one not in known], "are not in the index; take them out")
    kept = [row for row, passage in enumerate(old) if passage.id not in gone]
    if not kept:
        raise DataError("delete: these are all passages; an index holds at least one")
    return Change([old[row] for row in kept], kept)


@contextmanager
def changing(folder: Path, *, vectors: bool = True) -> Iterator[tuple[Path, Manifest]]:
    """Hold an index for a change, which reads it first; another change waits.

    Args:
        folder: the index.
        vectors: whether they are copied, so that damaged ones are refused; passages always are.

    Yields:
        The folder of the generation in use, and its manifest.

    Raises:
        CheckpointError: no index, or vectors or passages that are not what was written; copying
            them would give damage a checksum of its own.
    """
    Manifest.read(current_folder(folder))  # before a lock file lies in what is no index
    with locked(folder / LOCK):
        current = current_folder(folder)
        manifest = Manifest.read(current)
        records = dict(manifest.files)
        if vectors:
            records |= {shard.file: shard.record for shard in manifest.shards}
        for name, record in records.items():
            if problem := record.problem(current / name):
                raise CheckpointError(
                    f"{problem}; the index is damaged and is not changed. Build or import it again"
                )
        yield current, manifest


def write_generation(
    folder: Path,
    kb: KnowledgeBaseLike,
    origins: Sequence[int],
    fresh: Tensor,
    *,
    note: Mapping[str, Any],
    spec: Mapping[str, Any] | None = None,
    keep: int = 1,
) -> Manifest:
    """Write the next generation, switch to it, and remove old ones; inside :func:`changing`.

    Args:
        folder: the index.
        kb: the passages, by new row.
        origins: the present row of each vector, -1 where it comes from ``fresh``.
        fresh: f32 [n, D], in the order of the rows with origin -1.
        note: what was done, for the manifest.
        spec: identity of the vectors where it changes.
        keep: generations before the new one that stay.
    """
    current = current_folder(folder)
    manifest = Manifest.read(current)
    number = manifest.generation + 1
    written = write_index(
        folder / f"gen-{number}",
        kb,
        _blocks(current, manifest, torch.tensor(origins, dtype=torch.int64), fresh),
        width=fresh.shape[1],
        dtype=manifest.dtype,
        spec=manifest.encoder if spec is None else spec,
        generation=number,
        extra={**manifest.extra, "change": dict(note)},
    )
    switch(folder, number)
    prune(folder, keep)
    return written


def _blocks(
    current: Path, manifest: Manifest, origins: Tensor, fresh: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors that stay, bit for bit, shard by shard; then the new ones."""
    places = torch.full((manifest.count,), -1, dtype=torch.int64)
    kept = (origins >= 0).nonzero()[:, 0]
    places[origins[kept]] = kept
    dtype, width = shards.dtype_of(manifest.dtype), manifest.width
    # Compared with their checksums already, by changing().
    for first, block in shards.blocks(
        current, manifest.shards, width, dtype, block_rows(width), check=False
    ):
        rows = places[first : first + len(block)]
        yield rows[rows >= 0], block[rows >= 0]
    yield (origins < 0).nonzero()[:, 0], fresh


def _refuse(ids: Sequence[str], problem: str) -> None:
    if ids:
        raise DataError(f"{len(ids):,} of these ids {problem}: {some_of(ids)}")
