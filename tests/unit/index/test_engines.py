"""Engines behind one search interface: what is called exact gives what the flat index gives."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch

from jsarag import ops
from jsarag.errors import BackendUnavailableError, ConfigError, DtypeError, ShapeError
from jsarag.index.engines import check_engine, engine_names, make_engine, measure_recall
from jsarag.index.engines.faiss import FaissIndex
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


def test_certified_search_is_exact_search_bit_for_bit() -> None:
    # Clusters of near copies: many passages lie closer to the k-th than int8 can tell.
    centres = random(20, 24)
    embeddings = centres.repeat_interleave(60, 0) + 1e-4 * random(1200, 24, seed=2)
    embeddings[7] = embeddings[3]
    index, queries = FlatIndex(embeddings, 4, {"model": "m"}), random(9, 24, seed=3)
    exclude = torch.randint(-1, 1200, (9, 5), generator=torch.Generator().manual_seed(4))
    engine = make_engine("certified", index)
    for excluded in (None, exclude):
        expected, found = index.search(queries, 40, excluded), engine.search(queries, 40, excluded)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.scores, expected.scores)
        assert found.generation == 4
    assert (len(engine), engine.width, engine.generation) == (1200, 24, 4)
    assert engine.spec == {"model": "m"}
    assert str(measure_recall(engine, index)).startswith("the same 10 best passages")


def test_certified_search_reads_int8_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("certified", FlatIndex(random(50, 8)))
    scan, seen = ops.scan, []

    def noted(queries: torch.Tensor, passages: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append((passages.dtype, options["certify"]))
        return scan(queries, passages, *rest, **options)

    monkeypatch.setattr(ops, "scan", noted)
    engine.search(random(2, 8, seed=1), 3)
    assert seen == [(torch.int8, True)]


def test_certified_needs_the_vectors_its_answers_are_proven_against() -> None:
    with pytest.raises(DtypeError, match=r"f32 vectors.*found bfloat16.*--dtype f32"):
        make_engine("certified", FlatIndex(random(10, 8).bfloat16()))


@needs_faiss
def test_faiss_takes_a_factory_and_parameters() -> None:
    index = FlatIndex(random(3000, 16), 1, {"model": "m"})
    few = make_engine("faiss:IVF32,Flat/nprobe=1", index)
    all_of_them = make_engine("faiss:IVF32,Flat/nprobe=32", index)
    assert measure_recall(few, index).recall < 0.9
    assert measure_recall(all_of_them, index).recall > 0.999
    assert "recall@10 0." in str(measure_recall(few, index))
    assert all_of_them.spec == {"model": "m"}


@needs_faiss
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("faiss:Flt", "FAISS factory 'Flt'"),
        ("faiss:IVF4096,Flat", "cannot be trained on 50 passages"),
        ("faiss:Flat/nprobes=3", "FAISS parameters 'nprobes=3'"),
        ("exact:Flat", "--engine exact: expected nothing behind its name, found 'Flat'"),
        ("certified:x", "--engine certified: expected nothing behind its name"),
        ("fais:Flat", "expected one of certified, exact, faiss"),
    ],
)
def test_wrong_choices_are_named(choice: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(choice, FlatIndex(random(50, 8)))


def test_recall_of_a_tiny_and_an_empty_index() -> None:
    tiny = measure_recall(FlatIndex(random(3, 8)), FlatIndex(random(3, 8)))
    assert (tiny.recall, tiny.queries, tiny.exact) == (1.0, 3, True)
    assert measure_recall(FlatIndex(random(0, 8)), FlatIndex(random(0, 8))).recall == 1.0


def test_names_are_the_files() -> None:
    assert engine_names() == ("certified", "exact", "faiss")
    assert check_engine("faiss:IVF8,Flat/nprobe=2") == ("faiss", "IVF8,Flat/nprobe=2")
