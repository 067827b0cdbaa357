"""What the ops return: named tuples of tensors, the same for every backend."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ScanResult(NamedTuple):
    """The best passages of each query, and the mass of every tile.

    ids int64 [B, k] by score descending, equal scores by smaller id, -1 where there are fewer than
    k passages. scores f32 [B, k] inner products (unscaled), -inf there; float64 for float64
    inputs. tile_lse f32 [B, ceil(N / TILE)] or None: log-sum-exp of score · inv_temperature inside
    each tile, nats.
    """

    ids: Tensor
    scores: Tensor
    tile_lse: Tensor | None


class DrawResult(NamedTuple):
    """Draws with replacement: ids int64 [B, M], logp f32 [B, M] in nats (float64 for float64).

    ``logp`` is the log of the probability the draw really had. Where a query has no mass at all
    (no passages, all excluded) the id is -1 and logp -inf.
    """

    ids: Tensor
    logp: Tensor
