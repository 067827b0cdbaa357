"""EMDR2: the generator learns from joined passages, the retriever from each passage's likelihood.

Sachan et al., NeurIPS 2021 (arXiv 2106.05346).
"""

from __future__ import annotations

from typing import ClassVar

import torch

from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import Problem
from jsarag.em.scoring import joined_score, response_scores, retriever_scores
from jsarag.em.support import prior_rows
from jsarag.em.weights import estimate, log_joint
from jsarag.types import Candidates, Support, Weights


class Emdr2(Objective):
    """loss = -log p(y|x, z_1..z_k joined) - log sum_z p(z|x) sg[p(y|x,z)], z the prior's top k.

    The generator gets gradient from the joined prompt alone, which holds the passages best first;
    single passages are scored without gradient.
    """

    name: ClassVar[str] = "emdr2"
    needs_posterior: ClassVar[bool] = False
    supports: ClassVar[tuple[Support, ...]] = ("prior", "kb")

    def candidates(self, problem: Problem) -> Candidates:
        """The prior's top k."""
        return Candidates(prior_rows(problem, self.settings))

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """Prior, generator by passage, generator on all of them."""
        rows = candidates.rows
        retriever = retriever_scores(problem, self.settings, rows, posterior=False)
        with torch.no_grad():
            single = response_scores(problem, self.settings, rows, candidates.mask)
        best_first = retriever.prior_logp.detach().argsort(dim=1, descending=True, stable=True)
        joined = joined_score(problem, self.settings, rows.gather(1, best_first))
        return StepScores(retriever, single, joined_logp=joined)

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """Responsibilities r_z, which the prior is drawn to."""
        return estimate(
            "exact",
            candidates,
            scores.retriever,
            scores.response_logp,
            evidence_weight=self.settings.evidence_weight,
            coins=None,
            example_ids=problem.example_ids,
        )

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """The joined prompt's negative log-likelihood, and the retriever's loss."""
        assert scores.joined_logp is not None
        parts = {
            "prior": self.retriever_loss(scores, weights),
            "generator": -scores.joined_logp.mean(),
        }
        detached = {name: part.detach() for name, part in parts.items()}
        return StepLoss(parts["prior"] + parts["generator"], detached, weights.diagnostics)

    def retriever_loss(self, scores: StepScores, weights: Weights) -> torch.Tensor:
        """Minus the log marginal likelihood with the generator held fixed, mean over the batch."""
        joint = log_joint(
            scores.retriever.prior_logp, scores.response_logp, self.settings.evidence_weight
        )
        return -joint.logsumexp(dim=1).mean()
