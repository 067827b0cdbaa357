"""Files of vectors are read in blocks, and everything wrong with one is named."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jsarag.errors import BackendUnavailableError, ConfigError, DataError
from jsarag.index import sources
from jsarag.index.sources import VectorSource, open_vectors, read_ids

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed"
)
needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is not installed"
)
VECTORS = np.random.default_rng(0).normal(size=(23, 6)).astype(np.float32)
IDS = [f"p{row}" for row in range(23)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 5 * 6 * 4)  # five rows a block


def check(source: VectorSource) -> None:
    """Count, width, blocks in order, and any positions."""
    assert (source.count, source.width) == VECTORS.shape
    blocks = list(source.blocks())
    assert len(blocks) > 1
    assert [first for first, _ in blocks] == np.cumsum([0, *map(len, (b for _, b in blocks))])[
        :-1
    ].tolist()
    assert max(len(block) for _, block in blocks) <= 5
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), VECTORS)
    np.testing.assert_array_equal(source.take([0, 7, 22, 7]), VECTORS[[0, 7, 22, 7]])


def write_parquet(path: Path, columns: dict[str, Any], **settings: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, **settings)


def lists(rows: Any, kind: str = "float32") -> Any:
    import pyarrow

    return pyarrow.array(rows, pyarrow.list_(getattr(pyarrow, kind)()))


class TestNumpy:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_it_is_read_in_blocks(self, tmp_path: Path, order: str) -> None:
        np.save(tmp_path / "v.npy", np.asarray(VECTORS, order=order))  # type: ignore[call-overload]
        source = open_vectors(tmp_path / "v.npy")
        check(source)
        assert source.ids is None

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_floats_become_f32(self, tmp_path: Path, dtype: type) -> None:
        np.save(tmp_path / "v.npy", VECTORS.astype(dtype))
        [(_, block), *_] = open_vectors(tmp_path / "v.npy").blocks()
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, VECTORS[:5].astype(dtype).astype(np.float32))

    @pytest.mark.parametrize(
        ("array", "says"),
        [
            (VECTORS.astype(np.int8), "found int8; quantised vectors"),
            (VECTORS[0], r"found shape \[6\]"),
            (VECTORS[:0], r"found shape \[0, 6\]"),
            (np.array([{"a": 1}]), "files of Python objects are not read"),
        ],
    )
    def test_another_array_is_refused(self, tmp_path: Path, array: Any, says: str) -> None:
        np.save(tmp_path / "v.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=says):
            open_vectors(tmp_path / "v.npy")

    def test_a_file_cut_short_is_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "v.npy", VECTORS)
        content = (tmp_path / "v.npy").read_bytes()
        (tmp_path / "v.npy").write_bytes(content[:-10])
        with pytest.raises(DataError, match=r"v\.npy: expected a whole \.npy file"):
            open_vectors(tmp_path / "v.npy")


@needs_faiss
class TestFaiss:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[..., Path]:
        import faiss

        def write(factory: str, *, ids: Any = None) -> Path:
            index = faiss.index_factory(6, factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                index.train(VECTORS)
            index.add(VECTORS) if ids is None else index.add_with_ids(VECTORS, ids)
            faiss.write_index(index, str(tmp_path / "v.faiss"))
            return tmp_path / "v.faiss"

        return write

    @pytest.mark.parametrize("factory", ["Flat", "HNSW8,Flat"])
    def test_flat_indexes_are_read(self, write: Callable[..., Path], factory: str) -> None:
        source = open_vectors(write(factory))
        check(source)
        assert source.ids is None

    def test_an_id_map_names_the_passages(self, write: Callable[..., Path]) -> None:
        source = open_vectors(write("IDMap,Flat", ids=np.arange(100, 123)))
        check(source)
        assert list(source.ids or ()) == [str(number) for number in range(100, 123)]

    def test_approximations_are_refused(self, write: Callable[..., Path]) -> None:
        with pytest.raises(DataError, match=r"expected a flat index.*found IndexScalarQuantizer"):
            open_vectors(write("SQ8"))

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "v.faiss").write_bytes(b"no index at all")
        with pytest.raises(DataError, match=r"v\.faiss: expected an index that faiss"):
            open_vectors(tmp_path / "v.faiss")


@needs_pyarrow
class TestParquet:
    @pytest.mark.parametrize("fixed", [False, True])
    def test_it_is_read_in_blocks(self, tmp_path: Path, fixed: bool) -> None:
        import pyarrow

        kind = pyarrow.list_(pyarrow.float32(), 6) if fixed else pyarrow.list_(pyarrow.float32())
        columns = {"id": IDS, "vector": pyarrow.array(VECTORS.tolist(), kind)}
        write_parquet(tmp_path / "v.parquet", columns, row_group_size=9)
        source = open_vectors(tmp_path / "v.parquet")
        check(source)
        assert source.ids == IDS

    def test_a_folder_of_files_and_columns_of_other_names(self, tmp_path: Path) -> None:
        for part, rows in (("a", slice(0, 10)), ("b", slice(10, 23))):
            columns = {
                "number": list(range(23))[rows],
                "floats": lists(VECTORS[rows].tolist(), "float64"),
            }
            write_parquet(tmp_path / f"{part}.parquet", columns)
        source = open_vectors(tmp_path, id_column="number", vector_column="floats")
        check(source)
        assert source.ids == [str(number) for number in range(23)]

    @pytest.mark.parametrize(
        ("columns", "says"),
        [
            ({"id": [1, 2]}, "expected a column vector, embedding, .*found id; .*--vector-column"),
            ({"vector": [[1.0], [2.0]]}, "expected a column id, .*found vector; .*--id-column"),
            ({"id": ["a", None], "vector": [[1.0], [2.0]]}, "row 1: expected an id.*found None"),
            ({"id": [1, 2], "vector": ["x", "y"]}, "expected a list of floating-point.*string"),
            ({"id": [1, 2], "vector": [[1], [2]]}, "expected a list of floating-point.*int64"),
        ],
    )
    def test_wrong_columns_are_named(
        self, tmp_path: Path, columns: dict[str, Any], says: str
    ) -> None:
        write_parquet(tmp_path / "v.parquet", columns)
        with pytest.raises(DataError, match=says):
            open_vectors(tmp_path / "v.parquet")

    @pytest.mark.parametrize(
        ("rows", "says"),
        [
            ([[1.0, 2.0], [3.0]], "row 1: expected 2 numbers, as in the first row, found 1"),
            ([[1.0, 2.0], None], "row 1: expected 2 numbers.*found null"),
            ([[1.0, 2.0], [3.0, None]], "expected numbers, found null"),
        ],
    )
    def test_wrong_rows_are_named(self, tmp_path: Path, rows: Any, says: str) -> None:
        write_parquet(tmp_path / "v.parquet", {"id": ["a", "b"], "vector": lists(rows)})
        with pytest.raises(DataError, match=says):
            list(open_vectors(tmp_path / "v.parquet").blocks())

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "v.parquet").write_bytes(b"no table")
        with pytest.raises(DataError, match=r"v\.parquet: expected a Parquet file"):
            open_vectors(tmp_path / "v.parquet")


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "v.parquet").touch()
    with pytest.raises(BackendUnavailableError, match=r"jsarag\[parquet\]"):
        open_vectors(tmp_path / "v.parquet")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a file of vectors, found none"):
        open_vectors(tmp_path / "absent.npy")
    (tmp_path / "v.pkl").touch()
    with pytest.raises(ConfigError, match=r"v\.pkl: expected vectors in a file named \.npy"):
        open_vectors(tmp_path / "v.pkl")
    np.save(tmp_path / "v.npy", VECTORS)
    with pytest.raises(ConfigError, match=r"expected Parquet.*found v\.npy"):
        open_vectors(tmp_path / "v.npy", id_column="id")


class TestIds:
    @pytest.mark.parametrize("name", ["ids.txt", "ids.json", "ids.npy"])
    def test_three_kinds_of_file(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        if name == "ids.npy":
            np.save(path, np.array(["a", "b 2"]))
        else:
            json_text = json.dumps(["a", "b 2"])
            path.write_text(json_text if name == "ids.json" else "a\r\nb 2\n\n", encoding="utf-8")
        assert read_ids(path) == ["a", "b 2"]

    def test_numbers_are_their_digits(self, tmp_path: Path) -> None:
        np.save(tmp_path / "ids.npy", np.array([3, 4]))
        assert read_ids(tmp_path / "ids.npy") == ["3", "4"]

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("ids.json", b"{}", "expected a JSON list of ids"),
            ("ids.json", b"[1.5]", "expected a JSON list of ids"),
            ("ids.json", b"[", "expected a JSON list of ids; "),
            ("ids.txt", b"\xff\xfe", "expected ids, one a line in UTF-8"),
        ],
    )
    def test_other_content_is_refused(
        self, tmp_path: Path, name: str, content: bytes, says: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=says):
            read_ids(tmp_path / name)

    def test_vectors_are_no_ids(self, tmp_path: Path) -> None:
        np.save(tmp_path / "ids.npy", VECTORS)
        with pytest.raises(DataError, match=r"found float32 of shape \[23, 6\]"):
            read_ids(tmp_path / "ids.npy")
