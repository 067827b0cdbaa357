"""BM25's rankings, its padding and what a query must not get."""

from __future__ import annotations

import pytest
import torch

from jsarag.errors import BackendUnavailableError
from jsarag.index.bm25 import Bm25Index, has_bm25

pytestmark = pytest.mark.skipif(not has_bm25(), reason="needs bm25s")
TEXTS = ["a pump that leaks", "a pump that hums and leaks oil", "garden chairs", "oil"]


def test_the_passage_that_shares_most_words_comes_first() -> None:
    found = Bm25Index(TEXTS).search(["the pump leaks oil", "chairs"], 2)
    assert found.dtype == torch.int64
    assert found.shape == (2, 2)
    assert found[:, 0].tolist() == [1, 2]


def test_more_than_there_is_is_padded() -> None:
    found = Bm25Index(TEXTS).search(["oil"], 6)
    assert sorted(found[0, :4].tolist()) == [0, 1, 2, 3]
    assert found[0, 4:].tolist() == [-1, -1]


def test_what_a_query_must_not_get_makes_room_for_the_next() -> None:
    index = Bm25Index(TEXTS)
    queries = ["the pump leaks oil", "oil"]
    free = index.search(queries, 3)
    exclude = torch.tensor([[1, -1], [3, 1]])
    found = index.search(queries, 2, exclude)
    for line, refused, ranked in zip(found, exclude.tolist(), free.tolist(), strict=True):
        wanted = [row for row in ranked if row not in refused]
        assert line.tolist()[: len(wanted)] == wanted[:2]
        assert not set(line.tolist()) & {row for row in refused if row >= 0}
    everything = index.search(["oil"], 4, torch.tensor([[0, 1, 2]]))
    assert everything.tolist() == [[3, -1, -1, -1]]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jsarag.index.bm25.has_bm25", lambda: False)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'jsarag\[eval\]'"):
        Bm25Index(TEXTS)
