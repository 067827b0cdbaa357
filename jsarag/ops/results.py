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


class MisChainResult(NamedTuple):
    """All M steps of B chains.

    state int32 [B, M]: index of the proposal held after each step, -1 = still the start.
    accepted bool [B, M]: whether the step moved to its proposal.
    visits [B, M + 1]: number of steps after which each proposal was held; column M is the start's.
    recycled [B, M + 1]: the same sum in expectation over each step's coin, given the state before.

    Rows of ``visits`` and ``recycled`` sum to M; both are f64 for f64 weights, else f32.
    """

    state: Tensor
    accepted: Tensor
    visits: Tensor
    recycled: Tensor


class PassageLogpResult(NamedTuple):
    """Log-likelihood of S sequences.

    logp [S]: sum of log p over each sequence's counted tokens in nats, f32 (f64 for f64 inputs).
    tokens int32 [S]: how many tokens were counted.
    """

    logp: Tensor
    tokens: Tensor


class RowErrors(NamedTuple):
    """error f32 [N] at least ‖e - e'‖ and norm f32 [N] at least ‖e'‖; +inf where not finite."""

    error: Tensor
    norm: Tensor
