"""Raw vector files: fixed-width rows in order, split by size, that can be memory-mapped.

No header: count, width and dtype stand in the manifest. Little-endian, as every machine torch
runs on stores them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from jsarag import ops
from jsarag.errors import CheckpointError, DtypeError
from jsarag.io.digests import FileRecord, read_into
from jsarag.io.faults import named_faults

DTYPES: Final = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
DEFAULT_SHARD_BYTES: Final = 4 << 30
_WRITE_BYTES = 64 << 20
FIX: Final = "build the index again; a run makes its own again when this folder is removed"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of consecutive rows, with what it must look like."""

    file: str
    rows: int
    record: FileRecord


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a storage dtype's name.

    Raises:
        DtypeError: no such storage dtype.
    """
    if name not in DTYPES:
        raise DtypeError(f"index dtype: expected one of {', '.join(DTYPES)}; found {name!r}")
    return DTYPES[name]


def name_of(dtype: torch.dtype) -> str:
    """The name of a storage dtype.

    Raises:
        DtypeError: an index does not store this dtype.
    """
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise DtypeError(f"index dtype: expected one of {', '.join(DTYPES)}; found {dtype}")


def write_shards(
    folder: Path, embeddings: Tensor, *, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> list[Shard]:
    """Write embeddings [N, D] as ``vectors-00000.bin``, ...

    Args:
        folder: an existing folder.
        embeddings: f32, bf16 or f16.
        shard_bytes: the largest file; rounded to whole scan tiles, at least one, so that a shard
            can later be scanned by itself.
    """
    name_of(embeddings.dtype)
    count, width = embeddings.shape
    row_bytes = max(width * embeddings.element_size(), 1)
    step, shards = rows_per_shard(row_bytes, shard_bytes), []
    for number, start in enumerate(range(0, max(count, 1), step)):
        rows = embeddings[start : start + step]
        path = folder / shard_name(number)
        _write_rows(path, rows, rows_per_write=max(_WRITE_BYTES // row_bytes, 1))
        shards.append(Shard(path.name, len(rows), FileRecord.of(path)))
    return shards


def rows_per_shard(row_bytes: int, shard_bytes: int) -> int:
    """How many rows a file of at most ``shard_bytes`` holds: whole scan tiles, at least one."""
    return max(shard_bytes // max(row_bytes, 1) // ops.TILE, 1) * ops.TILE


def shard_name(number: int) -> str:
    """What the file of a shard is called."""
    return f"vectors-{number:05d}.bin"


def check_layout(
    folder: Path, shards: Sequence[Shard], count: int, width: int, dtype: torch.dtype
) -> None:
    """Refuse shards whose sizes do not add up, before anything is mapped.

    Raises:
        CheckpointError: names the file that is missing or of the wrong size, or the counts.
    """
    rows = sum(shard.rows for shard in shards)
    if rows != count or not shards:
        raise CheckpointError(
            f"{folder}: the manifest promises {count} vectors, its shards hold {rows}; {FIX}"
        )
    for shard in shards:
        expected = shard.rows * width * dtype.itemsize
        record = replace(shard.record, bytes=expected)
        _refuse(record.problem(folder / shard.file, deep=False))


def read_shards(
    folder: Path,
    shards: Sequence[Shard],
    width: int,
    dtype: torch.dtype,
    *,
    check: bool = True,
    in_memory: bool = True,
) -> Tensor:
    """The vectors [N, D] of all shards, in order.

    Args:
        folder: the index.
        shards: of the manifest; their sizes have been compared (:func:`check_layout`).
        width: D.
        dtype: as stored.
        check: compare every byte with its checksum.
        in_memory: read them all, which no later change of the files disturbs. Otherwise a single
            shard is mapped copy-on-write: for vectors larger than memory, and whoever cuts the
            file short then ends the process. Several shards are always read, because a scan wants
            one address range.

    Raises:
        CheckpointError: a file is damaged, or was cut short since its size was compared.
    """
    count = sum(shard.rows for shard in shards)
    if not in_memory and len(shards) == 1 and count * width:
        if check:
            _refuse(shards[0].record.problem(folder / shards[0].file))
        return _map(folder / shards[0].file, count, width, dtype)
    vectors = torch.empty(count, width, dtype=dtype)
    if not vectors.numel():
        return vectors
    memory, start = vectors.view(-1).view(torch.uint8).numpy().data, 0
    for shard in shards:
        path, stop = folder / shard.file, start + shard.record.bytes
        made = shard.record.new_hash() if check else None
        with named_faults(path), path.open("rb", buffering=0) as file:
            found = read_into(file, memory[start:stop], made)
        if found < shard.record.bytes:
            _refuse(f"{path}: expected {shard.record.bytes} bytes, found {found}")
        if made is not None:
            _refuse(shard.record.mismatch(path, made.hexdigest()))
        start = stop
    return vectors


def blocks(
    folder: Path,
    shards: Sequence[Shard],
    width: int,
    dtype: torch.dtype,
    rows: int,
    *,
    check: bool = True,
) -> Iterator[tuple[int, Tensor]]:
    """(first row, vectors [n, D]) of all shards, in order, at most ``rows`` at a time.

    Args:
        folder, shards, width, dtype, check: as for :func:`read_shards`; one shard is in memory.
        rows: of a block.
    """
    start = 0
    for shard in shards:
        vectors = read_shards(folder, [shard], width, dtype, check=check)
        for first in range(0, shard.rows, rows):
            yield start + first, vectors[first : first + rows]
        start += shard.rows


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise CheckpointError(f"{problem}; {FIX}")


def _write_rows(path: Path, rows: Tensor, *, rows_per_write: int) -> None:
    with path.open("wb") as file:
        for start in range(0, len(rows), rows_per_write):
            part = rows[start : start + rows_per_write].detach().cpu().contiguous()
            if part.numel():
                file.write(part.view(torch.uint8).numpy().data)


def _map(path: Path, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    # ACCESS_COPY and not ACCESS_READ: torch warns about tensors over read-only memory. A write
    # would stay private to this process.
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(memory, dtype=dtype, count=rows * width).view(rows, width)
