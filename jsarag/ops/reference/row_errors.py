"""``row_errors`` in plain torch, a block of passages at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.ops.results import RowErrors
from jsarag.ops.tile import TILE

_BLOCK_ROWS = 128 * TILE
# Bounds are computed in float64 and stored in f32: rounded up by more than both roundings.
_INFLATE = 1.000001


def row_errors(passages: Tensor, exact_passages: Tensor, scales: Tensor | None) -> RowErrors:
    """See :func:`jsarag.ops.row_errors`."""
    error = torch.empty(passages.shape[0], dtype=torch.float32, device=passages.device)
    norm = torch.empty_like(error)
    for first in range(0, passages.shape[0], _BLOCK_ROWS):
        part = slice(first, first + _BLOCK_ROWS)
        rounded = passages[part].to(torch.float64)
        if scales is not None:
            rounded = rounded * scales[part].to(torch.float64).unsqueeze(1)
        exact = exact_passages[part].to(torch.float64)
        for to, vectors in ((error, exact - rounded), (norm, rounded)):
            length = (vectors.square().sum(1).sqrt() * _INFLATE).to(torch.float32)
            to[part] = length.nan_to_num(float("inf"), float("inf"))
    return RowErrors(error, norm)
