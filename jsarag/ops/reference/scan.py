"""``scan`` in plain torch, one block of passages at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from jsarag.ops.results import ScanResult
from jsarag.ops.tile import TILE, tile_count

_BLOCK_TILES = 32


def compute_dtype(queries: Tensor, passages: Tensor) -> torch.dtype:
    """float64 where an input is float64, else float32."""
    wide = torch.float64 in (queries.dtype, passages.dtype)
    return torch.float64 if wide else torch.float32


def score_blocks(
    queries: Tensor, passages: Tensor, scales: Tensor | None, exclude: Tensor | None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Score whole tiles at a time.

    Yields:
        (first row, scores [B, n], excluded bool [B, n]); scores of excluded passages are left as
        they are.
    """
    dtype = compute_dtype(queries, passages)
    left = queries.to(dtype)
    for first in range(0, passages.shape[0], _BLOCK_TILES * TILE):
        rows = passages[first : first + _BLOCK_TILES * TILE].to(dtype)
        scores = left @ rows.mT
        if scales is not None:
            scores = scores * scales[first : first + rows.shape[0]].to(dtype)
        yield first, scores, excluded_mask(exclude, first, scores)


def excluded_mask(exclude: Tensor | None, first: int, scores: Tensor) -> Tensor:
    """bool like ``scores`` [B, n], True where passage ``first + column`` is in the row's list."""
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    if exclude is None or exclude.numel() == 0:
        return mask
    column = exclude - first
    inside = (column >= 0) & (column < scores.shape[1])
    row = torch.arange(scores.shape[0], device=scores.device).unsqueeze(1).expand_as(column)
    mask[row[inside], column[inside]] = True
    return mask


def scan(
    queries: Tensor,
    passages: Tensor,
    k: int,
    inv_temperature: float,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
    tile_lse: bool = False,
) -> ScanResult:
    """See :func:`jsarag.ops.scan`."""
    batch, dtype = queries.shape[0], compute_dtype(queries, passages)
    best = torch.full((batch, k), float("-inf"), dtype=dtype, device=queries.device)
    ids = torch.full((batch, k), -1, dtype=torch.int64, device=queries.device)
    lse = best.new_full((batch, tile_count(passages.shape[0])), float("-inf"))
    for first, scores, excluded in score_blocks(queries, passages, scales, exclude):
        if tile_lse:
            tiles = lse[:, first // TILE : first // TILE + tile_count(scores.shape[1])]
            tiles.copy_(_tile_lse(scores, excluded, inv_temperature))
        ranked = scores.masked_fill(excluded | scores.isnan(), float("-inf"))
        columns = torch.arange(first, first + scores.shape[1], device=queries.device)
        both = torch.cat([best, ranked], 1)
        both_ids = torch.cat([ids, columns.expand(batch, -1)], 1)
        # Stable: among equal scores the earlier column, hence the smaller id, comes first.
        best, order = both.sort(dim=1, descending=True, stable=True)
        best, ids = best[:, :k].contiguous(), both_ids.gather(1, order[:, :k])
        ids = ids.masked_fill(best == float("-inf"), -1)
    return ScanResult(ids, best, lse if tile_lse else None)


def _tile_lse(scores: Tensor, excluded: Tensor, inv_temperature: float) -> Tensor:
    scaled = (scores * inv_temperature).masked_fill(excluded, float("-inf"))
    padding = -scaled.shape[1] % TILE
    scaled = torch.nn.functional.pad(scaled, (0, padding), value=float("-inf"))
    # Not -1: an empty batch leaves the number of tiles ambiguous.
    return scaled.reshape(scaled.shape[0], scaled.shape[1] // TILE, TILE).logsumexp(2)
