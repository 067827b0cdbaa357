"""RetGen: the retriever by REINFORCE with a mean baseline, the generator by marginal likelihood.

Zhang et al., AAAI 2022 (arXiv 2105.06597).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from jsarag.em.objectives.base import StepLoss, StepScores
from jsarag.em.objectives.rag import Rag
from jsarag.em.problem import Problem
from jsarag.em.proposals import draw_slots, keyed_uniforms
from jsarag.em.weights import log_joint
from jsarag.types import Candidates, Support, Weights

DRAWS = "em/retgen"


class RetGen(Rag):
    """Retriever: M draws z_m ~ p on the prior's top k, reward R = p(y|x,z)/p(y|x).

    loss = -(1/M) sum_m (R_m - mean of the other R) log p(z_m|x) - log sum_z sg[p(z|x)] p(y|x,z).
    The baseline does not hold the draw's own reward, so the gradient is unbiased for ``rag``'s; the
    draws only add noise, which is what this objective is kept to show. M is ``mis_steps``.
    """

    name: ClassVar[str] = "retgen"
    supports: ClassVar[tuple[Support, ...]] = ("prior",)

    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """The surrogate whose gradient is REINFORCE's, and the generator's loss."""
        prior, likelihood = scores.retriever.prior_logp, scores.response_logp
        fixed = log_joint(prior.detach(), likelihood, self.settings.evidence_weight)
        marginal = fixed.logsumexp(dim=1)
        slots = draw_slots(prior, keyed_uniforms(problem, self.settings, DRAWS))
        evidence = fixed.detach() - prior.detach().where(candidates.mask, 0)
        rewards = (evidence.gather(1, slots) - marginal.detach()[:, None]).exp()
        draws = slots.shape[1]
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / max(draws - 1, 1)
        advantage = rewards - others
        retriever = -(advantage * prior.gather(1, slots)).mean(dim=1).mean()
        generator = -marginal.mean()
        parts = {"prior": retriever.detach(), "generator": generator.detach()}
        spread = advantage.std(correction=0)
        found: dict[str, Tensor | float] = {**weights.diagnostics, "advantage_std": spread}
        return StepLoss(retriever + generator, parts, found)
