"""The generator's own stages as objectives: before end-to-end training, and after it.

Both are plain maximum likelihood of the response given passages somebody chose: before, one of the
posterior's own top passages (a generator that knows nothing carries no evidence about passages);
after, the prior's top passages joined in one prompt, as it will decode. The retrievers only choose.
"""

from __future__ import annotations

from typing import ClassVar, get_args

import torch
from torch import Tensor

from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import EMSettings, Problem
from jsarag.em.support import posterior_of
from jsarag.errors import ConfigError
from jsarag.randomness import uniforms
from jsarag.types import Candidates, RetrieverScores, Support, Weights

WARM_UP = "generator warm-up"


class _MaximumLikelihood(Objective):
    """loss = -log p(y | x, h), h fixed: summed over tokens, mean over the batch.

    Whatever support the run's objective has: these stages choose passages their own way.
    """

    supports: ClassVar[tuple[Support, ...]] = get_args(Support)

    def __init__(self, settings: EMSettings, passages: int) -> None:
        super().__init__(settings)
        self.passages = passages

    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """The generator, once per example; the retrievers' probabilities are not asked for."""
        rows = candidates.rows
        scored = problem.score_responses(torch.arange(len(rows), device=rows.device), rows)
        nowhere = torch.full(rows.shape, -torch.inf, device=rows.device)
        return StepScores(RetrieverScores(nowhere, None), scored.logp[:, None], scored.tokens)

    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """One prompt an example: all of its weight."""
        return Weights(torch.ones_like(scores.response_logp.detach()))

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """Negative log-likelihood."""
        assert scores.tokens is not None
        nll_per_token = -scores.response_logp.detach().sum() / scores.tokens.sum()
        return StepLoss(-scores.response_logp.mean(), {}, {"nll_per_token": nll_per_token})


class WarmUp(_MaximumLikelihood):
    """Train p(y|x,h) on one of the posterior's ``passages`` best, drawn by q among them."""

    name: ClassVar[str] = "warm-up"
    needs_prior: ClassVar[bool] = False
    needs_posterior: ClassVar[bool] = True

    def candidates(self, problem: Problem) -> Candidates:
        """One drawn passage per example, int64 [B, 1]."""
        index, queries = posterior_of(problem)
        found = index.scan(
            queries.detach(), self.passages, 1.0, tile_lse=False, exclude=problem.exclude
        )
        share = (found.scores.double() * self.settings.inv_temperature).softmax(dim=1)
        coins = uniforms(self.settings.seed, WARM_UP, problem.example_ids, problem.visits, 1)
        slots = (share.cumsum(dim=1) < coins.to(share.device)).sum(dim=1, keepdim=True)
        # Rounding may leave the sum a hair below 1, and a small knowledge base fewer passages.
        last = (found.ids >= 0).sum(dim=1, keepdim=True) - 1
        return Candidates(_require_passages(found.ids.gather(1, slots.minimum(last).clamp(min=0))))


class Concatenate(_MaximumLikelihood):
    """Tune the generator on the prior's ``passages`` best joined in one prompt."""

    name: ClassVar[str] = "concatenate"
    needs_posterior: ClassVar[bool] = False

    def candidates(self, problem: Problem) -> Candidates:
        """The prior's best, best first, int64 [B, J]."""
        queries = problem.queries.prior.detach()
        found = problem.prior_index.scan(
            queries, self.passages, 1.0, tile_lse=False, exclude=problem.exclude
        )
        return Candidates(_require_passages(found.ids))


def _require_passages(rows: Tensor) -> Tensor:
    # sync: an example without any passage has nothing to be grounded on.
    if bool((rows[:, 0] < 0).any()):
        raise ConfigError(
            "exclude_passages: an example excludes every passage of the knowledge base, so its "
            "response cannot be grounded; exclude fewer"
        )
    return rows
