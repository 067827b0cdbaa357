"""RAG-token: every token of the response may come from another of the prior's top passages."""

from __future__ import annotations

from typing import ClassVar

import torch

from jsarag.em.objectives.base import StepLoss, StepScores
from jsarag.em.objectives.rag import Rag
from jsarag.em.problem import Problem
from jsarag.em.scoring import retriever_scores, token_scores
from jsarag.types import Candidates, Weights


class RagToken(Rag):
    """loss = -sum_t log sum_z p(z|x) p(y_t|x,z,y_<t), z the prior's top k.

    The weights reported are ``rag``'s responsibilities of whole responses; the gradient follows
    those of single tokens. ``evidence_weight`` b turns each p(y_t|.) into its b-th power.
    """

    name: ClassVar[str] = "rag-token"

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """Prior and generator, token by token."""
        rows, mask = candidates.rows, candidates.mask
        retriever = retriever_scores(problem, self.settings, rows, posterior=False)
        tokens = token_scores(problem, self.settings, rows, mask)
        whole = tokens.logp.detach().sum(dim=2).masked_fill(~mask, -torch.inf)
        return StepScores(retriever, whole, token_logp=tokens)

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """Minus the sum of every token's marginal log-probability, mean over the batch."""
        assert scores.token_logp is not None
        prior = scores.retriever.prior_logp[:, :, None]
        joint = prior + self.settings.evidence_weight * scores.token_logp.logp
        marginal = joint.logsumexp(dim=1).masked_fill(~scores.token_logp.mask, 0)
        total = -marginal.sum(dim=1).mean()
        return StepLoss(total, {"marginal": total.detach()}, weights.diagnostics)
