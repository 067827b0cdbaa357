"""Contrastive training on labelled passages: the only objective that reads gold, as a reference."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from jsarag.em.contrast import contrast_candidates, contrast_loss, contrast_weights
from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import Problem
from jsarag.em.scoring import retriever_scores
from jsarag.types import Candidates, Support, Weights


class Contrastive(Objective):
    """InfoNCE: loss = -log p(h+|x), h+ the first labelled passage. READS LABELS.

    Support ``batch`` normalises over the batch's positives, without an example's own further gold;
    ``kb`` over the whole knowledge base. An example without a label teaches nothing. The generator
    is not touched.
    """

    name: ClassVar[str] = "contrastive"
    needs_posterior: ClassVar[bool] = False
    needs_gold: ClassVar[bool] = True
    uses_generator: ClassVar[bool] = False
    supports: ClassVar[tuple[Support, ...]] = ("batch", "kb")

    def candidates(self, problem: Problem) -> Candidates:
        """The positive and, on ``batch``, the others' positives."""
        return contrast_candidates(
            problem, self.settings, self.positives(problem), self.other_positives(problem)
        )

    def positives(self, problem: Problem) -> Tensor:
        """Each example's positive, int64 [B], -1 where there is none."""
        assert problem.gold is not None
        return problem.gold[:, 0]

    def other_positives(self, problem: Problem) -> Tensor | None:
        """Rows int64 [B, G] that must not count as negatives, -1 pads."""
        return problem.gold

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """The prior alone."""
        retriever = retriever_scores(problem, self.settings, candidates.rows, posterior=False)
        return StepScores(retriever, torch.full_like(retriever.prior_logp, -torch.inf))

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """All of it on the positive."""
        assert candidates.start is not None
        return contrast_weights(candidates.start, candidates)

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """Cross-entropy to the positive."""
        return contrast_loss(scores, weights)
