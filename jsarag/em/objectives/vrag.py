"""Variational RAG: the evidence lower bound over both retrievers' top passages, differentiated."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import Problem
from jsarag.em.proposals import scored_slots
from jsarag.em.scoring import response_scores, retriever_scores
from jsarag.em.support import union_rows
from jsarag.em.weights import of_values, on_host, overlap, require_evidence
from jsarag.types import Candidates, Support, Weights


class Vrag(Objective):
    """loss = -E_q[b log p(y|x,h)] + KL(q || p), both over U, the union of the two top k.

    The expectation is enumerated on U, so its gradient reaches the posterior without noise; a
    likelihood's coefficient is minus q. Minimised over q at q = p(h|x,y) on U, where it equals
    -log p(y|x) on U. b is ``evidence_weight``; the estimator is not read.
    """

    name: ClassVar[str] = "vrag"
    needs_posterior: ClassVar[bool] = True
    supports: ClassVar[tuple[Support, ...]] = ("union",)

    def candidates(self, problem: Problem) -> Candidates:
        """U."""
        return Candidates(union_rows(problem, self.settings))

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """Both retrievers and the generator, on all of U."""
        rows = candidates.rows
        return StepScores(
            retriever_scores(problem, self.settings, rows),
            response_scores(problem, self.settings, rows, candidates.mask),
        )

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """The expectation's, detached: for the log; the loss makes them anew with gradient."""
        assert scores.retriever.posterior_logp is not None
        mask = scored_slots(candidates)
        values = self.expectation(scores.retriever.posterior_logp.detach())
        require_evidence((values.log() + scores.response_logp.detach()), mask, problem.example_ids)
        found = of_values(values, mask, scores.response_logp)
        found["prior_posterior_overlap"] = overlap(scores.retriever, mask)
        return Weights(values, diagnostics=on_host(found))

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """Minus the bound, mean over the batch."""
        empty = ~candidates.mask
        prior, posterior = scores.retriever.prior_logp, scores.retriever.posterior_logp
        assert posterior is not None
        share = self.expectation(posterior)
        likelihood = scores.response_logp.masked_fill(empty, 0)
        evidence = (share * likelihood).sum(dim=1) * self.settings.evidence_weight
        ratio = posterior.masked_fill(empty, 0) - prior.masked_fill(empty, 0)
        divergence = (posterior.exp() * ratio).sum(dim=1)
        total = (divergence - evidence).mean()
        parts = {"evidence": -evidence.detach().mean(), "kl": divergence.detach().mean()}
        return StepLoss(total, parts, weights.diagnostics)

    def expectation(self, posterior_logp: Tensor) -> Tensor:
        """The distribution [B, C] under which likelihoods are averaged: q on U."""
        return posterior_logp.exp()
