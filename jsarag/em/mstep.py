"""The M-step: equation (4), a cross-entropy from fixed weights to each of the three parts.

Its terms are kept apart because each must reach its own parameters only; which vectors a term is
made of was decided in ``scoring.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.em.problem import EMSettings, Problem
from jsarag.em.scoring import pair_scores
from jsarag.types import Candidates


def cross_entropy(values: Tensor, logp: Tensor) -> Tensor:
    """-sum_h v(h) log p(h), mean over the batch: [B, C], [B, C] -> scalar; 0 · -inf counts as 0."""
    return -(values * logp.masked_fill(values == 0, 0)).sum(dim=1).mean()


def generator_loss(
    problem: Problem,
    settings: EMSettings,
    candidates: Candidates,
    values: Tensor,
    response_logp: Tensor,
) -> Tensor:
    """-sum_h v(h) log p(y|x,h), mean over the batch, with gradient where v is large enough.

    Args:
        problem: the batch.
        settings: the likelihood, and ``backprop_cutoff``.
        candidates: of the step.
        values: v, [B, C].
        response_logp: [B, C] as the E-step scored it, without gradient.

    Notes:
        One forward and backward pass over the pairs with v > 0 and v >= the cutoff, all examples
        in one call; the others enter as the constants the E-step scored, so the value does not
        depend on the cutoff. A generator without gradient is not asked again.
    """
    if not (problem.generator_trained and torch.is_grad_enabled()):
        return cross_entropy(values, response_logp)
    kept = back_propagated(values, settings.backprop_cutoff)
    # sync: the number of pairs decides the shape.
    example, slot = kept.nonzero(as_tuple=True)
    logp = pair_scores(problem, settings, example, candidates.rows[example, slot])
    constant = cross_entropy(values.masked_fill(kept, 0), response_logp)
    return constant - (values[example, slot] * logp).sum() / len(values)


def back_propagated(values: Tensor, cutoff: float) -> Tensor:
    """bool [B, C]: the slots whose log p(y|x,h) gets gradient; every example keeps its heaviest."""
    heaviest = values == values.amax(dim=1, keepdim=True)
    return (values > 0) & ((values >= cutoff) | heaviest)
