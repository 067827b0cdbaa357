"""Passages named by id, as rows of an index: padded to one tensor a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from jsarag.types import Example


class RowsById(Protocol):
    """Where a passage stands; a knowledge base knows."""

    def row_of(self, passage_id: str, /) -> int:
        """The row of an id; DataError where there is none."""


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
