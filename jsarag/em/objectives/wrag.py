"""W-RAG: the language model ranks what the start retrieves; its favourite becomes the positive.

Nian et al. (arXiv 2408.08444): weak labels by p(y|x,h), then ordinary contrastive training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from jsarag.em.chains import ChainStore
from jsarag.em.contrast import contrast_candidates, contrast_loss, contrast_weights
from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import EMSettings, Problem
from jsarag.em.scoring import response_scores, retriever_scores
from jsarag.em.support import distinct
from jsarag.types import Candidates, Support, Weights


class WRag(Objective):
    """loss = -log p(h+|x), h+ the passage of the start's top k of the largest p(y|x,h).

    The generator is a judge: it scores an example's k passages once, at the example's first visit,
    and never trains, so all labels are the starting model's. They are kept like chain states and
    survive a resume. The lists are the prior's, or BM25's (setting ``objective.start``). Support
    ``batch`` takes the batch's other positives as negatives, as published; ``kb`` normalises over
    the whole knowledge base. The station ``candidates`` holds the generator's time.
    """

    name: ClassVar[str] = "wrag"
    needs_posterior: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
    supports: ClassVar[tuple[Support, ...]] = ("batch", "kb")

    def __init__(self, settings: EMSettings, chains: ChainStore | None = None) -> None:
        super().__init__(settings, ChainStore() if chains is None else chains)

    def candidates(self, problem: Problem) -> Candidates:
        """The positive, judged now where it is not known yet, and its negatives."""
        return contrast_candidates(problem, self.settings, self._positives(problem))

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """The prior alone: the generator has had its say."""
        retriever = retriever_scores(problem, self.settings, candidates.rows, posterior=False)
        return StepScores(retriever, torch.full_like(retriever.prior_logp, -torch.inf))

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """All of it on the positive, which is kept for the next visit."""
        assert candidates.start is not None
        return replace(contrast_weights(candidates.start, candidates), held=candidates.start)

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """Cross-entropy to the positive."""
        return contrast_loss(scores, weights)

    def _positives(self, problem: Problem) -> Tensor:
        """int64 [B]; -1 where the start found nothing."""
        assert self.chains is not None
        assert problem.start_rows is not None
        known = self.chains.get(problem.example_ids).to(problem.start_rows.device)
        rows = distinct(
            problem.start_rows[:, : self.settings.k].masked_fill((known >= 0)[:, None], -1)
        )
        with torch.no_grad():
            logp = response_scores(problem, self.settings, rows, rows >= 0)
        judged = rows.gather(1, logp.argmax(dim=1, keepdim=True))[:, 0]
        return known.where(known >= 0, judged)
