"""Encode queries, search the index, fetch the passages: one blocking call per batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from jsarag.errors import (
    CheckpointError,
    DataError,
    IndexStaleError,
    JsaragError,
    NumericalError,
    StorageError,
)
from jsarag.index.interfaces import Encoder, SearchIndex
from jsarag.index.rows import hits_of
from jsarag.types import Hit, Passage


class Passages(Protocol):
    """Passages by row; a knowledge base or the index folder's ``PassageStore``."""

    def __len__(self) -> int:
        """K."""

    def __getitem__(self, row: int, /) -> Passage:
        """The passage of a row."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query text and how many passages are wanted; none: its embedding is."""

    text: str
    k: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchTiming:
    """Seconds a batch took; one object per batch, shared by its answers."""

    encode_s: float
    search_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One query's passages, best first, its embedding f32 [D] on the CPU, and who found them.

    ``damage``: why a passage could not be read; then there are no hits.
    """

    engine: SearchEngine
    hits: tuple[Hit, ...]
    embedding: Tensor
    timing: BatchTiming
    damage: JsaragError | None = None


class SearchEngine:
    """The query encoder, the index and the passages of one server.

    Args:
        index: any index over ``passages``' rows.
        encoder: the *query* encoder (the prior).
        passages: by row.

    Raises:
        IndexStaleError: widths differ.
        DataError: index and passages differ in number.
    """

    def __init__(self, index: SearchIndex, encoder: Encoder, passages: Passages) -> None:
        if encoder.width != index.width:
            raise IndexStaleError(
                f"serve: width: the index has {index.width}, the encoder gives {encoder.width}; "
                "serve the encoder the index was built for"
            )
        if len(passages) != len(index):
            raise DataError(
                f"serve: expected as many passages as vectors ({len(index)}), found "
                f"{len(passages)}; pass the index folder's own passages"
            )
        self.index, self.encoder, self.passages = index, encoder, passages

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer a batch; blocks, so it belongs into a worker thread.

        Raises:
            NumericalError: an embedding holds NaN or infinity.
        """
        started = time.perf_counter()
        texts = [query.text for query in queries]
        embeddings = self.encoder.embed(texts, "query", len(texts))
        if not bool(embeddings.isfinite().all()):
            raise NumericalError(
                "serve: the query encoder returned NaN or infinity; check its weights"
            )
        encoded = time.perf_counter()
        k = max(query.k for query in queries)
        found = self.index.search(embeddings, k) if k else None
        ids = found.ids.tolist() if found is not None else [[] for _ in queries]
        scores = found.scores.tolist() if found is not None else [[] for _ in queries]
        timing = BatchTiming(encoded - started, time.perf_counter() - encoded)
        vectors = embeddings.float().cpu()
        return [
            self._answer(ids[b][: query.k], scores[b], vectors[b], timing)
            for b, query in enumerate(queries)
        ]

    def _answer(
        self, rows: Sequence[int], scores: Sequence[float], vector: Tensor, timing: BatchTiming
    ) -> Answer:
        try:
            return Answer(self, hits_of(self.passages, rows, scores), vector, timing)
        except (CheckpointError, DataError, StorageError) as error:
            # Of this query alone: those that share its batch are answered.
            return Answer(self, (), vector, timing, error)
