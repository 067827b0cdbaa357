"""BM25 over passages' texts, by the package ``bm25s``: the search most people have already.

Scores are as they come: Lucene's variant, English stop words off, words as its tokeniser finds
them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from jsarag.errors import BackendUnavailableError


def has_bm25() -> bool:
    """Whether bm25s is installed (extra ``eval``)."""
    return importlib.util.find_spec("bm25s") is not None


class Bm25Index:
    """Ranks passages by the words they share with a query.

    Args:
        texts: of the passages, in the knowledge base's order.

    Raises:
        BackendUnavailableError: bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if not has_bm25():
            raise BackendUnavailableError(
                "BM25 is the package bm25s, which is not installed; pip install 'jsarag[eval]'"
            )
        import bm25s

        self._count = len(texts)
        self._index = bm25s.BM25()
        self._index.index(
            bm25s.tokenize(list(texts), stopwords=None, show_progress=False), show_progress=False
        )

    def search(self, queries: Sequence[str], k: int, exclude: Tensor | None = None) -> Tensor:
        """Rows of the best passages, best first.

        Args:
            queries: Q texts.
            k: passages a query.
            exclude: rows int64 [Q, E] that a query must not get, negative entries pad.

        Returns:
            int64 [Q, k]; -1 pads where there are fewer passages.
        """
        import bm25s

        unwanted = 0 if exclude is None else exclude.shape[1]
        depth = min(k + unwanted, self._count)
        tokens = bm25s.tokenize(list(queries), stopwords=None, show_progress=False)
        found, _ = self._index.retrieve(tokens, k=depth, show_progress=False)
        rows = torch.from_numpy(found).to(torch.int64)
        if exclude is not None:
            # A stable sort by "is unwanted" keeps the ranking and puts what may not come last.
            refused = (rows[:, :, None] == exclude[:, None, :].cpu()).any(dim=2)
            order = refused.int().argsort(dim=1, stable=True)
            rows = rows.masked_fill(refused, -1).gather(1, order)
        return torch.nn.functional.pad(rows[:, :k], (0, max(k - rows.shape[1], 0)), value=-1)
