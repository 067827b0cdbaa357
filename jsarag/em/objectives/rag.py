"""RAG-sequence: marginalise the response over the prior's top passages, and differentiate."""

from __future__ import annotations

from typing import ClassVar

from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import Problem
from jsarag.em.scoring import response_scores, retriever_scores
from jsarag.em.support import prior_rows
from jsarag.em.weights import estimate, log_joint
from jsarag.types import Candidates, Support, Weights


class Rag(Objective):
    """loss = -log sum_z p(z|x) p(y|x,z), z the prior's top k.

    Support ``prior`` normalises p over the k; ``kb`` over the whole knowledge base. The estimator
    is not read: the sum is always enumerated. A score's coefficient is minus its responsibility. An
    ``evidence_weight`` b turns p(y|x,z) into its b-th power, for the generator's gradient too.
    """

    name: ClassVar[str] = "rag"
    needs_posterior: ClassVar[bool] = False
    supports: ClassVar[tuple[Support, ...]] = ("prior", "kb")

    def candidates(self, problem: Problem) -> Candidates:
        """The prior's top k."""
        return Candidates(prior_rows(problem, self.settings))

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """Prior and generator, both with gradient."""
        rows = candidates.rows
        retriever = retriever_scores(problem, self.settings, rows, posterior=False)
        return StepScores(retriever, response_scores(problem, self.settings, rows, candidates.mask))

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """The responsibilities r_z the gradient implies; the loss does not read them."""
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
        """-log p(y|x) on the support, mean over the batch."""
        joint = log_joint(
            scores.retriever.prior_logp, scores.response_logp, self.settings.evidence_weight
        )
        total = -joint.logsumexp(dim=1).mean()
        return StepLoss(total, {"marginal": total.detach()}, weights.diagnostics)
