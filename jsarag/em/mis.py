"""Metropolis independence sampling: run the chains over the draws, and count visits by slot.

The moves themselves are one call of ``ops.mis_chain``. Here: where a chain starts, what its visits
mean for candidate slots, and what it holds at the end, which is its last *state*, never its last
proposal.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jsarag import ops
from jsarag.types import Candidates


class ChainRun(NamedTuple):
    """What M steps of every chain came to.

    visits, recycled [B, C]: two estimates of w, each line summing to 1 over slots of positive
    weight (0 everywhere where there is none); held int64 [B]: the slot of the last
    state; accepted, counted: how many coin-decided steps moved, and how many there were (scalars;
    a free first step is no decision).
    """

    visits: Tensor
    recycled: Tensor
    held: Tensor
    accepted: Tensor
    counted: Tensor


def run_chains(candidates: Candidates, log_weight: Tensor, uniforms: Tensor) -> ChainRun:
    """Run one chain per example over its draws.

    Args:
        candidates: with ``proposals`` [B, M]; ``start`` holds the stored states, if any.
        log_weight: log W of every slot, equation (3), [B, C]; -inf where not scored.
        uniforms: [B, M] acceptance coins.

    Notes:
        A chain without a stored state takes its first draw for free. Visits to a passage of weight
        zero (a chain may begin on one) carry no evidence and are dropped, since w is zero there.
    """
    proposals, start = candidates.proposals, candidates.start
    assert proposals is not None
    proposed = log_weight.gather(1, proposals)
    if start is None:
        start = torch.full_like(proposals[:, 0], -1)
        result = ops.mis_chain(proposed, None, uniforms)
        free = torch.ones_like(start, dtype=torch.bool)
    else:
        held_weight = log_weight.gather(1, start.clamp(min=0)[:, None])[:, 0]
        held_weight = held_weight.masked_fill(start < 0, torch.nan)
        result = ops.mis_chain(proposed, held_weight, uniforms)
        free = start < 0
    decided = result.accepted.clone()
    decided[:, 0] &= ~free
    state = result.state[:, -1:].long()
    last = torch.where(state >= 0, proposals.gather(1, state.clamp(min=0)), start[:, None])[:, 0]
    return ChainRun(
        visits=_by_slot(result.visits, proposals, start, log_weight),
        recycled=_by_slot(result.recycled, proposals, start, log_weight),
        held=last,
        accepted=decided.sum(),
        counted=decided.numel() - free.sum(),
    )


def _by_slot(counts: Tensor, proposals: Tensor, start: Tensor, log_weight: Tensor) -> Tensor:
    """Sum the proposals' and the start's counts [B, M + 1] over slots, and normalise."""
    counts = counts.to(log_weight.dtype)
    slots = torch.zeros_like(log_weight).scatter_add(1, proposals, counts[:, :-1])
    held = (counts[:, -1] * (start >= 0))[:, None]
    slots = slots.scatter_add(1, start.clamp(min=0)[:, None], held)
    slots = slots.masked_fill(log_weight == -torch.inf, 0)
    total = slots.sum(dim=1, keepdim=True)
    return slots / total.where(total > 0, 1)
