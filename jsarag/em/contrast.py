"""Softmax against one positive: what objectives share that are told, or decide, the right passage.

Negatives are the other examples' positives, or everything else in the knowledge base. Which passage
is the positive is the objective's business.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.em.mstep import cross_entropy
from jsarag.em.objectives.base import StepLoss, StepScores
from jsarag.em.problem import EMSettings, Problem
from jsarag.em.support import distinct, slots_of
from jsarag.types import Candidates, Weights


def contrast_candidates(
    problem: Problem, settings: EMSettings, positives: Tensor, also_right: Tensor | None = None
) -> Candidates:
    """Each example's positive and its negatives; ``start`` is the positive's slot.

    Args:
        problem: the batch; what an example excludes is no negative of it.
        settings: support ``batch`` takes the batch's positives, ``kb`` the positive alone (its
            probability is then over the whole knowledge base).
        positives: int64 [B], -1 where an example has none.
        also_right: int64 [B, G] rows that are no negatives either, -1 pads.
    """
    own = positives[:, None]
    if settings.support == "kb":
        rows = distinct(own)
        return Candidates(rows, start=slots_of(rows, own)[:, 0])
    negatives = positives[None, :].expand(len(positives), -1)
    for banned in (also_right, problem.exclude):
        if banned is not None:
            known = (negatives[:, :, None] == banned.to(negatives.device)[:, None, :]).any(dim=2)
            negatives = negatives.masked_fill(known, -1)
    rows = distinct(torch.cat([own, negatives], dim=1))
    return Candidates(rows, start=slots_of(rows, own)[:, 0])


def contrast_weights(positive_slots: Tensor, candidates: Candidates) -> Weights:
    """1 on the positive's slot; nothing for an example that has none.

    Args:
        positive_slots: int64 [B], -1 for none.
        candidates: of the batch.
    """
    present = positive_slots >= 0
    values = torch.zeros(candidates.rows.shape, device=candidates.rows.device)
    values = values.scatter(
        1, positive_slots.clamp(min=0)[:, None], present[:, None].to(values.dtype)
    )
    found = {
        "distinct_candidates": candidates.mask.sum(dim=1).double().mean().item(),
        "without_positive": (~present).double().mean().item(),  # sync: two numbers for the log
    }
    return Weights(values, diagnostics=found)


def contrast_loss(scores: StepScores, weights: Weights) -> StepLoss:
    """-log p(h+|x), mean over the batch."""
    logp = scores.retriever.prior_logp
    total = cross_entropy(weights.values.to(logp.dtype), logp)
    return StepLoss(total, {"prior": total.detach()}, weights.diagnostics)
