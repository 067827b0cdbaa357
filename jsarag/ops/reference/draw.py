"""``draw`` in plain torch: a tile by cumulative mass, then a passage inside the tile."""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.ops.reference.scan import compute_dtype, excluded_mask
from jsarag.ops.results import DrawResult
from jsarag.ops.tile import TILE


def draw(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    tile_lse: Tensor,
    uniforms: Tensor,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
) -> DrawResult:
    """See :func:`jsarag.ops.draw`."""
    dtype = compute_dtype(queries, passages)
    ids = torch.full(uniforms.shape, -1, dtype=torch.int64, device=queries.device)
    logp = torch.full(uniforms.shape, float("-inf"), dtype=torch.float64, device=queries.device)
    if tile_lse.shape[1] == 0 or uniforms.numel() == 0:
        return DrawResult(ids, logp.to(dtype))
    log_mass = tile_lse.to(torch.float64)
    peak = log_mass.amax(1, keepdim=True)
    mass = (log_mass - peak).exp()
    tile, rest = pick(mass, uniforms.to(torch.float64))
    tile_logp = log_mass.gather(1, tile) - log_mass.logsumexp(1, keepdim=True)
    for number in torch.unique(tile).tolist():
        row, column = (tile == number).nonzero(as_tuple=True)
        first = number * TILE
        scores = _tile_scores(queries, passages, scales, first, dtype)
        scaled = (scores * inv_temperature).masked_fill(
            excluded_mask(exclude, first, scores), float("-inf")
        )[row]
        scaled = scaled.to(torch.float64)
        inside = (scaled - scaled.amax(1, keepdim=True)).exp()
        slot, _ = pick(inside, rest[row, column].unsqueeze(1))
        within = scaled.gather(1, slot) - scaled.logsumexp(1, keepdim=True)
        ids[row, column] = first + slot.squeeze(1)
        logp[row, column] = tile_logp[row, column] + within.squeeze(1)
    dead = peak == float("-inf")
    broken = ~peak.isfinite() & ~dead
    ids = ids.masked_fill(dead | broken, -1)
    logp = logp.masked_fill(dead, float("-inf")).masked_fill(broken, float("nan"))
    return DrawResult(ids, logp.to(dtype))


def pick(mass: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Pick columns in proportion to their mass.

    Args:
        mass: f64 [B, n], not negative.
        uniforms: f64 [B, M] in [0, 1).

    Returns:
        (column int64 [B, M], what is left of the uniform inside its column, again in [0, 1)). A
        column without mass is never picked, unless the row has no mass.
    """
    cumulative = mass.cumsum(1)
    target = uniforms * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, target, right=True)
    # Rounding may put the target on the total: the last column with mass is meant.
    last = (mass.shape[1] - 1 - (mass > 0).flip(1).to(torch.int8).argmax(1)).unsqueeze(1)
    column = torch.minimum(column, last)
    own = mass.gather(1, column)
    before = cumulative.gather(1, column) - own
    rest = ((target - before) / own).nan_to_num(0.0).clamp(0.0, 1.0 - 2.0**-53)
    return column, rest


def _tile_scores(
    queries: Tensor, passages: Tensor, scales: Tensor | None, first: int, dtype: torch.dtype
) -> Tensor:
    scores = queries.to(dtype) @ passages[first : first + TILE].to(dtype).mT
    return scores if scales is None else scores * scales[first : first + TILE].to(dtype)
