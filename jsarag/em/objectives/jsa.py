"""Joint stochastic approximation: weights by sampling or enumeration, then equation (4).

Paper: arXiv 2508.18168; the equations are restated in ``docs/math.md``.
"""

from __future__ import annotations

from typing import ClassVar

from jsarag.em.chains import ChainStore
from jsarag.em.mstep import cross_entropy
from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import EMSettings, Problem
from jsarag.em.proposals import ACCEPTANCE, keyed_uniforms, propose, scored_slots, stored_rows
from jsarag.em.scoring import response_scores, retriever_scores
from jsarag.em.support import enumerated_rows
from jsarag.em.weights import estimate
from jsarag.types import Candidates, Weights


class Jsa(Objective):
    """E-step: v estimates p(h|x,y). M-step: -sum_h v [log p(h|x) + log p(y|x,h) + log q(h|x,y)].

    The generator scores each distinct passage once; only passages of positive weight leave a
    coefficient on their score, and so a way back through it.
    """

    name: ClassVar[str] = "jsa"
    needs_posterior: ClassVar[bool] = True

    def __init__(self, settings: EMSettings, chains: ChainStore | None = None) -> None:
        if settings.estimator == "mis-cached" and chains is None:
            chains = ChainStore()
        super().__init__(settings, chains)

    def candidates(self, problem: Problem) -> Candidates:
        """The enumerated set, or draws from q and what they fell on."""
        if self.settings.estimator == "exact":
            return Candidates(enumerated_rows(problem, self.settings))
        if self.settings.estimator != "mis-cached" or self.chains is None:
            return propose(problem, self.settings)
        return propose(problem, self.settings, stored_rows(problem, self.chains))

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """Both retrievers and the generator."""
        retriever = candidates.retriever
        if retriever is None:
            retriever = retriever_scores(problem, self.settings, candidates.rows)
        return StepScores(
            retriever,
            response_scores(problem, self.settings, candidates.rows, scored_slots(candidates)),
        )

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """v by the settings' estimator."""
        moves = self.settings.estimator.startswith("mis")
        coins = keyed_uniforms(problem, self.settings, ACCEPTANCE) if moves else None
        return estimate(
            self.settings.estimator,
            candidates,
            scores.retriever,
            scores.response_logp,
            evidence_weight=self.settings.evidence_weight,
            coins=coins,
            example_ids=problem.example_ids,
        )

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """Equation (4)."""
        values, retriever = weights.values, scores.retriever
        assert retriever.posterior_logp is not None
        parts = {
            "prior": cross_entropy(values, retriever.prior_logp),
            "posterior": cross_entropy(values, retriever.posterior_logp),
            "generator": cross_entropy(values, scores.response_logp),
        }
        total = parts["prior"] + parts["posterior"] + parts["generator"]
        detached = {name: part.detach() for name, part in parts.items()}
        return StepLoss(total, detached, weights.diagnostics)
