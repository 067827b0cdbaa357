"""Vectors in files of other tools: ``.npy``, Parquet and flat FAISS indexes, read in blocks.

Says how many vectors there are, of which ids, and gives them; whether they fit is
``importing.py``'s. Nothing is unpickled.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jsarag.errors import BackendUnavailableError, ConfigError, DataError
from jsarag.index.engines.faiss import load_faiss

BLOCK_BYTES = 64 << 20
SUFFIXES = (".npy", ".parquet", ".faiss", ".index")
_FLOATS = (np.float16, np.float32, np.float64)
_ID_COLUMNS = ("id", "_id", "passage_id", "doc_id", "docid")
_VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "emb", "vectors")
_FLAT = ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexHNSWFlat")

Vectors = NDArray[np.float32]


class VectorSource(Protocol):
    """Vectors in a file, by position.

    Attributes:
        path: the file.
        count: N.
        width: D.
        ids: the passage of each vector; None where the file does not say.
    """

    path: Path
    count: int
    width: int
    ids: Sequence[str] | None

    def take(self, places: Sequence[int]) -> Vectors:
        """The vectors f32 [n, D] at these positions."""

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """All vectors, in order: (position of the first, f32 [n, D])."""


def open_vectors(
    path: Path, *, id_column: str | None = None, vector_column: str | None = None
) -> VectorSource:
    """Open a file of vectors by its name's end; a folder is one of Parquet files.

    Args:
        path: ``.npy`` [N, D]; Parquet with a column of ids and one of vectors; ``.faiss`` or
            ``.index``, a flat FAISS index.
        id_column, vector_column: of Parquet; None finds them by their usual names.

    Raises:
        DataError: missing, damaged, or not [N, D] floating-point numbers.
        ConfigError: another kind of file.
        BackendUnavailableError: pyarrow or faiss is needed and not installed.
    """
    if not path.exists():
        raise DataError("expected a file of vectors, found none; check the path", path=path)
    if path.suffix != ".parquet" and not path.is_dir() and (id_column or vector_column):
        raise ConfigError(
            f"--id-column, --vector-column: expected Parquet, which has columns, found {path.name}"
        )
    if path.is_dir() or path.suffix == ".parquet":
        return ParquetVectors(path, id_column, vector_column)
    if path.suffix == ".npy":
        return NumpyVectors(path)
    if path.suffix in (".faiss", ".index"):
        return FaissVectors(path)
    raise ConfigError(
        f"{path}: expected vectors in a file named {', '.join(SUFFIXES)}, or a folder of Parquet "
        "files; write them with numpy.save(path, array) to one of these"
    )


class NumpyVectors:
    """A ``.npy`` file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: Sequence[str] | None = None
        self._array = _map_npy(path)
        _require_matrix(self._array.shape, self._array.dtype, path)
        self.count, self.width = self._array.shape

    def take(self, places: Sequence[int]) -> Vectors:
        """See :class:`VectorSource`."""
        return np.array(self._array[list(places)], dtype=np.float32)

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """See :class:`VectorSource`."""
        step = block_rows(self.width)
        for first in range(0, self.count, step):
            yield first, np.array(self._array[first : first + step], dtype=np.float32, order="C")


class FaissVectors:
    """A flat FAISS index, memory-mapped; the ids of an ``IndexIDMap`` are taken as passage ids."""

    def __init__(self, path: Path) -> None:
        faiss = load_faiss()
        self.path = path
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise DataError(
                f"expected an index that faiss.write_index wrote; {_last_line(error)}", path=path
            ) from error
        self.ids: Sequence[str] | None = None
        self._outer = index  # owns what is inside it
        if type(index).__name__ in ("IndexIDMap", "IndexIDMap2"):
            self.ids = [str(number) for number in faiss.vector_to_array(index.id_map).tolist()]
            index = faiss.downcast_index(index.index)
        kind = type(index).__name__
        if kind not in _FLAT:
            raise DataError(
                f"expected a flat index, which holds the vectors as they were added ({_or(_FLAT)}, "
                f"or an IndexIDMap of one), found {kind}; write the vectors themselves with "
                "numpy.save, or add them to an IndexFlatIP",
                path=path,
            )
        self._index = index
        self.count, self.width = int(index.ntotal), int(index.d)

    def take(self, places: Sequence[int]) -> Vectors:
        """See :class:`VectorSource`."""
        found = np.empty((len(places), self.width), dtype=np.float32)
        for row, place in enumerate(places):
            found[row] = self._index.reconstruct(int(place))
        return found

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """See :class:`VectorSource`."""
        step = block_rows(self.width)
        for first in range(0, self.count, step):
            size = min(step, self.count - first)
            yield first, np.asarray(self._index.reconstruct_n(first, size), dtype=np.float32)


class ParquetVectors:
    """Parquet: a column of ids and one of lists of equally many floating-point numbers."""

    def __init__(self, path: Path, id_column: str | None, vector_column: str | None) -> None:
        self._parquet = need_pyarrow()
        self.path = path
        paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not paths:
            raise DataError(
                "expected Parquet files in the folder (*.parquet), found none", path=path
            )
        self._files = [self._open(one) for one in paths]
        self._paths = paths
        self.count = sum(file.metadata.num_rows for file in self._files)
        columns = self._files[0].schema_arrow.names
        self._vectors = _column(path, "--vector-column", vector_column, _VECTOR_COLUMNS, columns)
        self._require_floats()
        named = _column(path, "--id-column", id_column, _ID_COLUMNS, columns)
        self.ids: Sequence[str] | None = self._read_ids(named)
        self.width = self._first_width()

    def take(self, places: Sequence[int]) -> Vectors:
        """See :class:`VectorSource`; reads the row groups the positions fall into."""
        wanted = np.asarray(places, dtype=np.int64)
        found = np.empty((len(wanted), self.width), dtype=np.float32)
        for first, block in self._blocks(wanted):
            here = (wanted >= first) & (wanted < first + len(block))
            found[here] = block[wanted[here] - first]
        return found

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """See :class:`VectorSource`."""
        return self._blocks(None)

    def _blocks(self, wanted: NDArray[np.int64] | None) -> Iterator[tuple[int, Vectors]]:
        """The blocks of all row groups, or of those that hold a wanted position."""
        start = 0
        for file, path in zip(self._files, self._paths, strict=True):
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if wanted is None or ((wanted >= start) & (wanted < start + rows)).any():
                    yield from self._group_blocks(file, path, group, start)
                start += rows

    def _group_blocks(
        self, file: Any, path: Path, group: int, start: int
    ) -> Iterator[tuple[int, Vectors]]:
        batches = file.iter_batches(
            batch_size=block_rows(self.width), row_groups=[group], columns=[self._vectors]
        )
        for batch in batches:
            yield start, self._matrix(batch.column(0), path, start)
            start += len(batch)

    def _matrix(self, column: Any, path: Path, start: int) -> Vectors:
        lengths = np.asarray(column.value_lengths().fill_null(-1))
        wrong = np.flatnonzero(lengths != self.width)
        if wrong.size:
            length = int(lengths[wrong[0]])
            raise DataError(
                f"row {start + int(wrong[0])}: expected {self.width} numbers, as in the first row, "
                f"found {'null' if length < 0 else length}",
                path=path,
                field=self._vectors,
            )
        numbers = column.flatten()
        if numbers.null_count:
            raise DataError(
                f"rows from {start}: expected numbers, found null among them",
                path=path,
                field=self._vectors,
            )
        flat = np.array(numbers.to_numpy(zero_copy_only=False), dtype=np.float32)
        return flat.reshape(-1, self.width)

    def _open(self, path: Path) -> Any:
        try:
            return self._parquet.ParquetFile(path, memory_map=True)
        except (OSError, ValueError) as error:
            raise DataError(f"expected a Parquet file; {_last_line(error)}", path=path) from error

    def _require_floats(self) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            kind = str(file.schema_arrow.field(self._vectors).type)
            inside = kind.partition("<")[2]
            if "list" not in kind or not any(f": {f}" in inside for f in _ARROW_FLOATS):
                raise DataError(
                    f"expected a list of floating-point numbers a row, found {kind}; cast it, or "
                    "name another column with --vector-column",
                    path=path,
                    field=self._vectors,
                )

    def _first_width(self) -> int:
        for file in self._files:
            for batch in file.iter_batches(batch_size=1, columns=[self._vectors]):
                return int(batch.column(0).value_lengths().fill_null(0)[0].as_py())
        return 0

    def _read_ids(self, column: str) -> list[str]:
        found: list[str] = []
        for file, path in zip(self._files, self._paths, strict=True):
            for value in file.read(columns=[column]).column(0).to_pylist():
                if not isinstance(value, str | int) or isinstance(value, bool):
                    raise DataError(
                        f"row {len(found)}: expected an id (text or a whole number), found "
                        f"{value!r}",
                        path=path,
                        field=column,
                    )
                found.append(str(value))
        return found


def read_ids(path: Path) -> list[str]:
    """Ids in order: a text file with one a line, a JSON list, or ``.npy`` of text or numbers.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    if path.suffix == ".npy":
        array = _map_npy(path)
        if array.ndim != 1 or array.dtype.kind not in "Uiu":
            raise DataError(
                f"expected a list of texts or whole numbers, found {array.dtype} of shape "
                f"{list(array.shape)}",
                path=path,
            )
        return [str(value) for value in array.tolist()]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected ids, one a line in UTF-8; {error}", path=path) from error
    if path.suffix != ".json":
        return [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"expected a JSON list of ids; {error}", path=path) from error
    plain = isinstance(values, list) and all(
        isinstance(value, str | int) and not isinstance(value, bool) for value in values
    )
    if not plain:
        raise DataError("expected a JSON list of ids (texts or whole numbers)", path=path)
    return [str(value) for value in values]


def block_rows(width: int) -> int:
    """How many vectors make a block."""
    return max(BLOCK_BYTES // (4 * max(width, 1)), 1)


_ARROW_FLOATS = ("halffloat", "float", "double")


def _map_npy(path: Path) -> NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise DataError("expected a file, found none; check the path", path=path) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected a whole .npy file of numbers; {_last_line(error)}. Write it with "
            "numpy.save(path, array); files of Python objects are not read",
            path=path,
        ) from error


def _require_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    if dtype.type not in _FLOATS:
        fix = (
            "quantised vectors do not agree with the encoder's; export them as float32"
            if dtype.kind in "iu"
            else "save them with array.astype('float32')"
        )
        raise DataError(f"expected float16, float32 or float64, found {dtype}; {fix}", path=path)
    if len(shape) != 2 or 0 in shape:
        raise DataError(
            f"expected vectors [N, D], one a row, found shape {list(shape)}; "
            "numpy.stack(list_of_vectors) makes such an array",
            path=path,
        )


def _column(
    path: Path, flag: str, asked: str | None, usual: Sequence[str], columns: Sequence[str]
) -> str:
    found = [name for name in usual if name in columns] if asked is None else [asked]
    if not found or found[0] not in columns:
        wanted = _or(usual) if asked is None else repr(asked)
        raise DataError(
            f"expected a column {wanted}, found {', '.join(columns)}; name it with {flag}",
            path=path,
        )
    return found[0]


def need_pyarrow() -> Any:
    """pyarrow.parquet.

    Raises:
        BackendUnavailableError: pyarrow is not installed; names the extra.
    """
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BackendUnavailableError(
            "the package pyarrow is needed to read and write Parquet and is not installed; "
            "`pip install 'jsarag[parquet]'`, or bring the vectors as .npy"
        ) from error


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
