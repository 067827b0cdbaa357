"""What is exported is opened by the tools it is for, gives the same vectors, and comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.errors import ConfigError
from jsarag.index import sources
from jsarag.index.exporting import export_index
from jsarag.index.flat import FlatIndex
from jsarag.index.importing import match
from jsarag.index.rebuild import build_index
from jsarag.index.sources import open_vectors, read_ids


@pytest.fixture(params=["f32", "bf16"])
def folder(
    request: Any, tmp_path: Path, encoder: Any, kb: Any, render: Any, monkeypatch: Any
) -> Path:
    """Fifty passages in two files of vectors, read seven at a time."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 7 * 24 * 4)
    index = build_index(encoder, kb, passage_text=render, dtype=request.param)
    index.save(tmp_path / "idx", kb, shard_bytes=1)
    return tmp_path / "idx"


def vectors_of(folder: Path) -> Any:
    return FlatIndex.open(folder).embeddings.float().numpy()


@pytest.mark.parametrize("kind", ["npy", "parquet", "faiss"])
def test_it_comes_back(folder: Path, kb: Any, tmp_path: Path, kind: str) -> None:
    if kind != "npy":
        pytest.importorskip({"parquet": "pyarrow", "faiss": "faiss"}[kind])
    path = tmp_path / "out" / f"v.{kind}"
    written = export_index(folder, path, kind)
    assert sorted(written) == sorted(path.parent.iterdir())
    source = open_vectors(path)
    ids = read_ids(written[1]) if kind != "parquet" else None
    assert match(source, KnowledgeBase(kb.passages), ids).tolist() == list(range(50))
    found = np.concatenate([block for _, block in source.blocks()])
    np.testing.assert_array_equal(found, vectors_of(folder))


def test_plain_numpy_reads_it(folder: Path, tmp_path: Path) -> None:
    export_index(folder, tmp_path / "v.npy", "npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors_of(folder))
    ids = json.loads((tmp_path / "v.npy.ids.json").read_text("utf-8"))
    assert ids == [f"p{row}" for row in range(50)]


def test_plain_faiss_finds_what_the_index_finds(folder: Path, tmp_path: Path, encoder: Any) -> None:
    faiss = pytest.importorskip("faiss")
    export_index(folder, tmp_path / "v.faiss", "faiss")
    index = FlatIndex.open(folder)
    # The flat index multiplies by numbers of its own dtype, so the queries too must be such.
    queries = encoder.embed(["heron page3", "lynx page8"], "query", 8).to(index.embeddings.dtype)
    plain = faiss.read_index(str(tmp_path / "v.faiss"))
    scores, rows = plain.search(queries.float().numpy(), 5)
    expected = index.search(queries, 5)
    assert rows.tolist() == expected.ids.tolist()
    torch.testing.assert_close(torch.from_numpy(scores), expected.scores, atol=1e-5, rtol=1e-5)


def test_parquet_holds_the_passages_too(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_index(folder, tmp_path / "v.parquet", "parquet")
    row = parquet.read_table(tmp_path / "v.parquet").slice(3, 1).to_pylist()[0]
    assert (row["id"], row["title"]) == ("p3", "page3")
    assert row["text"] == "the lynx number3 lives here"
    assert len(row["vector"]) == 24


def test_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--to: expected one of npy, parquet, faiss, got 'csv'"):
        export_index(folder, tmp_path / "v.csv", "csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["idx"]
