"""An index's vectors as files of other tools: ``.npy``, Parquet, and an index FAISS opens.

The opposite of ``sources.py``; written whole or not at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jsarag.errors import ConfigError
from jsarag.index import shards
from jsarag.index.engines.faiss import load_faiss
from jsarag.index.generations import current_folder
from jsarag.index.manifest import Manifest
from jsarag.index.sources import block_rows, need_pyarrow
from jsarag.index.store import PassageStore
from jsarag.io.atomic import replace_file, write_json
from jsarag.types import Passage

Kind = Literal["npy", "parquet", "faiss"]
KINDS: tuple[Kind, ...] = ("npy", "parquet", "faiss")


def export_index(folder: Path, destination: Path, kind: str) -> list[Path]:
    """Write an index's vectors, and its ids where the format has no room for them.

    Args:
        folder: the index; its generation in use is written.
        destination: the file.
        kind: ``npy`` f32 [N, D] and ``faiss`` (an ``IndexFlatIP``), each in the order of the ids
            in ``<destination>.ids.json``; ``parquet`` with columns id, vector, title and text.

    Returns:
        The files written.

    Raises:
        ConfigError: unknown kind. BackendUnavailableError: pyarrow or faiss is not installed.
        CheckpointError: no index, or a damaged one.
    """
    current = current_folder(folder)
    manifest, store = Manifest.read(current), PassageStore(current)
    if kind == "parquet":
        _write_parquet(destination, current, manifest, store)
        return [destination]
    if kind == "npy":
        _write_npy(destination, current, manifest)
    elif kind == "faiss":
        _write_faiss(destination, current, manifest)
    else:
        raise ConfigError(f"--to: expected one of {', '.join(KINDS)}, got '{kind}'")
    ids = destination.with_name(f"{destination.name}.ids.json")
    write_json(ids, [store[row].id for row in range(len(store))])
    return [destination, ids]


def _blocks(current: Path, manifest: Manifest) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, vectors f32 [n, D]), in order, one block in memory at a time."""
    dtype, width = shards.dtype_of(manifest.dtype), manifest.width
    shards.check_layout(current, manifest.shards, manifest.count, width, dtype)
    for first, block in shards.blocks(current, manifest.shards, width, dtype, block_rows(width)):
        yield first, block.float().numpy()


def _write_npy(destination: Path, current: Path, manifest: Manifest) -> None:
    with replace_file(destination) as temporary:
        array = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(manifest.count, manifest.width)
        )
        for first, block in _blocks(current, manifest):
            array[first : first + len(block)] = block
        array.flush()


def _write_faiss(destination: Path, current: Path, manifest: Manifest) -> None:
    faiss = load_faiss()
    index = faiss.IndexFlatIP(manifest.width)
    for _, block in _blocks(current, manifest):
        index.add(block)
    with replace_file(destination) as temporary:
        faiss.write_index(index, str(temporary))


def _write_parquet(
    destination: Path, current: Path, manifest: Manifest, store: PassageStore
) -> None:
    parquet, pyarrow = need_pyarrow(), importlib.import_module("pyarrow")
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("vector", pyarrow.list_(pyarrow.float32(), manifest.width)),
            ("title", pyarrow.string()),
            ("text", pyarrow.string()),
        ]
    )
    with replace_file(destination) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for first, block in _blocks(current, manifest):
            passages = [store[first + row] for row in range(len(block))]
            writer.write_table(_table(pyarrow, schema, passages, block))


def _table(pyarrow: Any, schema: Any, passages: list[Passage], block: NDArray[np.float32]) -> Any:
    vectors = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(block.reshape(-1)), block.shape[1]
    )
    columns = [
        [passage.id for passage in passages],
        vectors,
        [passage.title for passage in passages],
        [passage.text for passage in passages],
    ]
    return pyarrow.table(columns, schema=schema)
