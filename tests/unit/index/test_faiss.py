"""FAISS behind the same search interface gives what the flat index gives."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from jsarag.errors import BackendUnavailableError, ConfigError, ShapeError
from jsarag.index.faiss_index import FaissIndex
from jsarag.index.flat import FlatIndex

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is not installed"
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@needs_faiss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_faiss_agrees_with_flat(dtype: torch.dtype) -> None:
    # The flat index multiplies bf16 by bf16, so the queries too must be bf16 numbers here.
    embeddings, queries = random(200, 16).to(dtype), random(6, 16, seed=1).to(dtype).float()
    exclude = torch.tensor([[3, -1], [-1, -1], [5, 6], [0, 1], [7, 7], [199, 2]])
    flat, faiss = FlatIndex(embeddings, 2), FaissIndex(embeddings, 2)
    for excluded in (None, exclude):
        expected, found = flat.search(queries, 9, excluded), faiss.search(queries, 9, excluded)
        assert found.ids.tolist() == expected.ids.tolist()
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)
        assert found.generation == 2
        assert found.tile_lse is None
    assert len(faiss) == 200
    assert faiss.width == 16


@needs_faiss
def test_ties_and_padding_follow_the_flat_index() -> None:
    embeddings = torch.ones(4, 8)
    flat, faiss = FlatIndex(embeddings), FaissIndex(embeddings)
    queries = torch.ones(1, 8)
    for excluded in (None, torch.tensor([[1]])):
        expected, found = flat.search(queries, 6, excluded), faiss.search(queries, 6, excluded)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


@needs_faiss
def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="'Flt'"):
        FaissIndex(random(10, 8), factory="Flt")
    with pytest.raises(ShapeError, match="expected \\[N, D\\]"):
        FaissIndex(random(10))
    with pytest.raises(ShapeError, match="expected \\[B, 8\\]"):
        FaissIndex(random(10, 8)).search(random(2, 7), 1)


def test_without_faiss_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendUnavailableError, match=r"jsarag\[faiss\]"):
        FaissIndex(random(2, 2))
