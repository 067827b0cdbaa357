"""Perplexity distillation: the prior imitates how much each passage helps the generator.

Izacard et al., Atlas (arXiv 2208.03299); the generator learns from joined passages, as there.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from jsarag.em.mstep import cross_entropy
from jsarag.em.objectives.base import StepScores
from jsarag.em.objectives.emdr2 import Emdr2
from jsarag.em.problem import Problem
from jsarag.em.weights import of_values, on_host, require_evidence
from jsarag.types import Candidates, Support, Weights


class Pdist(Emdr2):
    """loss = -log p(y|x, z_1..z_k joined) + KL(softmax_z(b log p(y|x,z)) || p), z the top k.

    b = ``evidence_weight`` is one over the target's temperature. Unlike a responsibility the target
    does not contain the prior, so the prior's own ranking can be undone by a flat likelihood.
    """

    name: ClassVar[str] = "pdist"
    supports: ClassVar[tuple[Support, ...]] = ("prior",)

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """The target distribution over the passages."""
        mask = candidates.mask
        logp = scores.response_logp.detach()
        require_evidence(logp, mask, problem.example_ids)
        scaled = (self.settings.evidence_weight * logp.masked_fill(~mask, 0)).masked_fill(
            ~mask, -torch.inf
        )
        values = scaled.softmax(dim=1)
        return Weights(values, diagnostics=on_host(of_values(values, mask, logp)))

    def retriever_loss(self, scores: StepScores, weights: Weights) -> torch.Tensor:
        """KL from the target to p, mean over the batch."""
        values = weights.values
        negative_entropy = torch.xlogy(values, values).sum(dim=1).mean()
        return cross_entropy(values, scores.retriever.prior_logp) + negative_entropy
