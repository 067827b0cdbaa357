"""Between ids, rows and hits: passages named by id as rows of an index, rows found as hits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from jsarag.types import Example, Hit, Passage


class RowsById(Protocol):
    """Where a passage stands; a knowledge base knows."""

    def row_of(self, passage_id: str, /) -> int:
        """The row of an id; DataError where there is none."""


class PassagesByRow(Protocol):
    """Passages by row; a knowledge base or an index folder's ``PassageStore``."""

    def __getitem__(self, row: int, /) -> Passage:
        """The passage of a row."""


def some_of(ids: Sequence[str], most: int = 3) -> str:
    """The first few ids, as messages show them."""
    shown = ", ".join(map(repr, ids[:most]))
    return shown if len(ids) <= most else f"{shown}, ..."


def rows_of(kb: RowsById, ids: Sequence[Sequence[str]], device: torch.device) -> Tensor:
    """Rows int64 [B, n] of B groups of ids, -1 pads; n is what the largest group needs."""
    found = [[kb.row_of(id) for id in group] for group in ids]
    width = max(map(len, found), default=0)
    padded = [rows + [-1] * (width - len(rows)) for rows in found]
    return torch.tensor(padded, dtype=torch.int64, device=device).reshape(len(ids), width)


def excluded_rows(kb: RowsById, examples: Sequence[Example], device: torch.device) -> Tensor | None:
    """Rows int64 [B, E] that each example must not retrieve, -1 pads; None where there are none."""
    rows = rows_of(kb, [example.exclude_passages for example in examples], device)
    return None if rows.shape[1] == 0 else rows


def hits_of(
    passages: PassagesByRow, rows: Sequence[int], scores: Sequence[float]
) -> tuple[Hit, ...]:
    """A search's rows and scores, best first, as hits; the rows end at the first -1."""
    hits = []
    for rank, (row, score) in enumerate(zip(rows, scores, strict=False), start=1):
        if row < 0:  # fewer passages than k
            break
        passage = passages[row]
        hits.append(Hit(passage.id, score, rank, passage.title, passage.text, passage.meta))
    return tuple(hits)
