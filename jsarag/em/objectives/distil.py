"""Distil the posterior into the prior: how far does the starting posterior alone carry?

The control for every gain of ``jsa`` that may owe nothing to the generator. The posterior is
expected to be frozen; nothing here moves it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from jsarag.em.mstep import cross_entropy
from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import Problem
from jsarag.em.proposals import propose, scored_slots
from jsarag.em.scoring import retriever_scores
from jsarag.em.support import enumerated_rows
from jsarag.em.weights import of_values, on_host, overlap, require_evidence
from jsarag.types import Candidates, QueryEmbeddings, Weights


class Distil(Objective):
    """loss = -sum_h q(h|x,y) log p(h|x), q fixed; no generator evidence.

    On a set q is enumerated. Under ``kb`` the estimator decides: ``exact`` renormalises q over U,
    any other takes M draws of q over the whole knowledge base, each with weight 1/M.
    """

    name: ClassVar[str] = "distil"
    needs_posterior: ClassVar[bool] = True
    uses_generator: ClassVar[bool] = False

    def candidates(self, problem: Problem) -> Candidates:
        """The set, or draws from q."""
        if self.settings.support == "kb" and self.settings.estimator != "exact":
            return propose(problem, self.settings)
        return Candidates(enumerated_rows(problem, self.settings))

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """Retrievers only; the response's score is -inf everywhere: never asked for."""
        fixed = replace(problem, queries=_without_gradient_to_posterior(problem.queries))
        retriever = retriever_scores(fixed, self.settings, candidates.rows)
        return StepScores(retriever, torch.full_like(retriever.prior_logp, -torch.inf))

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """q on the candidates, or the draws' frequencies."""
        retriever, mask = scores.retriever, scored_slots(candidates)
        assert retriever.posterior_logp is not None
        density = retriever.posterior_logp.detach()
        require_evidence(density, mask, problem.example_ids)
        if candidates.proposals is None:
            values = density.softmax(dim=1)
        else:
            each = torch.full_like(candidates.proposals, 1, dtype=density.dtype)
            values = torch.zeros_like(density).scatter_add(1, candidates.proposals, each)
            values /= candidates.proposals.shape[1]
        found = of_values(values, mask)
        found["prior_posterior_overlap"] = overlap(retriever, mask)
        return Weights(values, diagnostics=on_host(found))

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """Cross-entropy from q to p."""
        total = cross_entropy(weights.values, scores.retriever.prior_logp)
        return StepLoss(total, {"prior": total.detach()}, weights.diagnostics)


def _without_gradient_to_posterior(queries: QueryEmbeddings) -> QueryEmbeddings:
    # Not even a zero: an optimizer would decay the weights of a posterior that got one.
    posterior = queries.posterior
    return QueryEmbeddings(queries.prior, None if posterior is None else posterior.detach())
