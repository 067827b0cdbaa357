"""An index folder from blocks of vectors in any order, never more than one block in memory.

What the rows are, and whether they may be trusted, is ``importing.py``'s and ``changes.py``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jsarag.errors import DataError
from jsarag.index import shards
from jsarag.index.interfaces import KnowledgeBaseLike
from jsarag.index.manifest import Manifest
from jsarag.index.store import write_store
from jsarag.io.atomic import write_folder
from jsarag.io.digests import FileRecord

Blocks = Iterable[tuple[Tensor, Tensor]]
"""Pairs of rows int64 [n] and their vectors [n, D]; every row once, in any order."""


def write_index(
    folder: Path | str,
    kb: KnowledgeBaseLike,
    blocks: Blocks,
    *,
    width: int,
    dtype: str,
    spec: Mapping[str, Any],
    generation: int = 0,
    extra: Mapping[str, Any] | None = None,
    shard_bytes: int = shards.DEFAULT_SHARD_BYTES,
) -> Manifest:
    """Write the folder that ``FlatIndex.save`` would write of the same vectors.

    Args:
        folder: replaced if it holds a complete index, refused if it holds anything else.
        kb: the passages, in the rows' order.
        blocks: the vectors; when they raise, nothing is written.
        width: D.
        dtype: storage dtype.
        spec: identity of the vectors, as in ``FlatIndex``.
        generation, extra, shard_bytes: as in ``FlatIndex`` and its ``save``.

    Raises:
        DataError: a row is missing or comes twice.
    """
    stored = shards.dtype_of(dtype)
    with write_folder(folder) as temporary:
        files = _scatter(temporary, blocks, len(kb), width, stored, shard_bytes)
        manifest = Manifest(
            count=len(kb),
            width=width,
            dtype=dtype,
            generation=generation,
            encoder={**spec, "kb_digest": kb.digest},
            shards=files,
            files=write_store(temporary, kb),
            extra=dict(extra or {}),
        )
        manifest.write(temporary)
    return manifest


def _scatter(
    folder: Path, blocks: Blocks, count: int, width: int, dtype: torch.dtype, shard_bytes: int
) -> list[shards.Shard]:
    """Put every row where it belongs, in files laid out as ``write_shards`` does."""
    row_bytes = width * dtype.itemsize
    per_shard = shards.rows_per_shard(row_bytes, shard_bytes)
    sizes = [min(per_shard, count - first) for first in range(0, count, per_shard)]
    paths = [folder / shards.shard_name(number) for number in range(len(sizes))]
    maps = [
        np.memmap(path, dtype=np.uint8, mode="w+", shape=(size, row_bytes))
        for path, size in zip(paths, sizes, strict=True)
    ]
    written = np.zeros(count, dtype=bool)
    for rows, vectors in blocks:
        places = rows.numpy()
        if written[places].any() or len(np.unique(places)) != len(places):
            raise DataError("index: a row came twice; expected every passage's vector once")
        written[places] = True
        content = vectors.detach().to(dtype).contiguous().view(torch.uint8).numpy()
        for number in np.unique(places // per_shard).tolist():
            here = places // per_shard == number
            maps[number][places[here] - number * per_shard] = content[here]
    if not written.all():
        raise DataError(
            f"index: expected a vector for each of {count:,} passages, found {written.sum():,}"
        )
    for one in maps:
        one.flush()
    return [
        shards.Shard(path.name, size, FileRecord.of(path))
        for path, size in zip(paths, sizes, strict=True)
    ]
