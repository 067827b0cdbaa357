"""The E-step: estimates v(h) of w(h) = p(h|x,y) from the candidates' scores, and their diagnostics.

Everything is detached: no gradient passes through an estimate. What the estimates teach is
``mstep.py``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jsarag.em.mis import run_chains
from jsarag.em.proposals import scored_slots
from jsarag.errors import NumericalError
from jsarag.types import Candidates, Estimator, RetrieverScores, Weights

_ACCEPTED, _COUNTED = "accepted", "counted"


def log_joint(prior_logp: Tensor, response_logp: Tensor, evidence_weight: float) -> Tensor:
    """log p(h|x) + evidence_weight · log p(y|x,h), [B, C]; 0 drops the evidence, even -inf."""
    # Not a product: 0 · -inf is NaN.
    return prior_logp if evidence_weight == 0 else prior_logp + evidence_weight * response_logp


def log_weights(
    candidates: Candidates,
    scores: RetrieverScores,
    response_logp: Tensor,
    evidence_weight: float = 1.0,
) -> Tensor:
    """log W of every slot, equation (3), detached; without draws log p(h|x) p(y|x,h) itself.

    The log q in it is the density the draws were really made from, not the live one.

    Returns:
        [B, C] in nats, -inf where not scored.
    """
    joint = log_joint(scores.prior_logp.detach(), response_logp.detach(), evidence_weight)
    if candidates.proposals is not None:
        assert candidates.slot_logp is not None
        joint = joint - candidates.slot_logp
    return joint.masked_fill(~scored_slots(candidates), -torch.inf)


def estimate(
    estimator: Estimator,
    candidates: Candidates,
    scores: RetrieverScores,
    response_logp: Tensor,
    *,
    evidence_weight: float,
    coins: Tensor | None,
    example_ids: Sequence[str],
) -> Weights:
    """v(h) by one of the estimators.

    Args:
        estimator: its name.
        candidates: with draws, unless ``exact``.
        scores: of the candidates; only their values are used.
        response_logp: [B, C], -inf where not scored.
        evidence_weight: factor on it.
        coins: [B, M] acceptance uniforms; for the ``mis`` family only.
        example_ids: for messages.

    Returns:
        Weights on the slots; ``held`` for ``mis-cached`` only.

    Raises:
        NumericalError: an example's weights are NaN, +inf or all zero.
    """
    scored = scored_slots(candidates)
    log_weight = log_weights(candidates, scores, response_logp, evidence_weight)
    require_evidence(log_weight, scored, example_ids)
    held = None
    if estimator == "exact":
        values = log_weight.softmax(dim=1)
        found = _of_enumeration(log_weight, values, scores)
    else:
        found = _of_draws(candidates, scores, log_weight)
        if estimator == "snis":
            values = self_normalised(candidates, log_weight)
        else:
            assert coins is not None
            run = run_chains(candidates, log_weight, coins)
            values = run.recycled if estimator == "mis-recycled" else run.visits
            held = run.held if estimator == "mis-cached" else None
            found |= {_ACCEPTED: run.accepted, _COUNTED: run.counted}
    found |= of_values(values, scored, response_logp)
    return Weights(values, held, on_host(found))


def self_normalised(candidates: Candidates, log_weight: Tensor) -> Tensor:
    """Self-normalised importance weights of the draws, summed by slot: [B, C]."""
    assert candidates.proposals is not None
    drawn = log_weight.gather(1, candidates.proposals).softmax(dim=1)
    return torch.zeros_like(log_weight).scatter_add(1, candidates.proposals, drawn)


def require_evidence(log_weight: Tensor, scored: Tensor, example_ids: Sequence[str]) -> None:
    """Refuse to learn from an example whose weights say nothing.

    Args:
        log_weight: [B, C], -inf where not scored.
        scored: bool [B, C].
        example_ids: for the message.

    Raises:
        NumericalError: a NaN or +inf weight, or no weight above zero; names the example.
    """
    wrong = scored & (log_weight.isnan() | (log_weight == torch.inf))
    empty = ~(log_weight > -torch.inf).any(dim=1)
    broken = wrong.any(dim=1) | empty
    # sync: a wrong weight must stop the run at this step, not at the next log line.
    if not bool(broken.any()):
        return
    first = int(broken.nonzero()[0, 0])
    count = int(broken.sum())
    passages = int(scored[first].sum())
    if passages == 0:
        found = "no candidate passage (is everything excluded?)"
    else:
        values = log_weight[first][scored[first]]
        found = (
            f"{passages} log-weights of which {int(values.isnan().sum())} are NaN, "
            f"{int((values == torch.inf).sum())} are +inf and "
            f"{int((values == -torch.inf).sum())} are -inf"
        )
    raise NumericalError(
        f"E-step: example {example_ids[first]!r} (and {count - 1} more of this batch): expected at "
        f"least one finite importance weight and no NaN or +inf, found {found}; check this "
        "example's response and passages, or lower the learning rate"
    )


def of_values(
    values: Tensor, scored: Tensor, response_logp: Tensor | None = None
) -> dict[str, Tensor]:
    """What any set of weights says about itself: scalars, means over the batch.

    ``weight_entropy`` in nats; ``distinct_candidates`` scored passages per example;
    ``evidence_spread`` best minus median log p(y|x,h) of those not impossible, in nats.
    """
    found = {
        "weight_entropy": -torch.xlogy(values, values).sum(dim=1).mean(),
        "distinct_candidates": scored.sum(dim=1).to(values.dtype).mean(),
    }
    if response_logp is not None:
        known = response_logp.detach()
        known = known.masked_fill(~(scored & known.isfinite()), torch.nan)
        best = known.nan_to_num(nan=-torch.inf).amax(dim=1)
        found["evidence_spread"] = _finite_mean(best - known.nanmedian(dim=1).values)
    return found


def overlap(scores: RetrieverScores, mask: Tensor) -> Tensor:
    """sum over candidates of min(p, q), mean over the batch: 1 - total variation on a set."""
    assert scores.posterior_logp is not None
    smaller = torch.minimum(scores.prior_logp.detach(), scores.posterior_logp.detach())
    return smaller.masked_fill(~mask, -torch.inf).exp().sum(dim=1).mean()


def on_host(found: Mapping[str, Tensor]) -> dict[str, float]:
    """Diagnostics as floats, fetched in one transfer."""
    # sync: one for all diagnostics of the station.
    numbers = torch.stack([value.detach().double() for value in found.values()]).tolist()
    values = dict(zip(found, numbers, strict=True))
    if _COUNTED in values:
        accepted, counted = values.pop(_ACCEPTED), values.pop(_COUNTED)
        # A fresh chain of one step decides nothing: there is no rate to report.
        if counted:
            values["acceptance_rate"] = accepted / counted
    return values


def _finite_mean(each: Tensor) -> Tensor:
    """Mean over the examples with a finite value, 0 where none has one: logs are plain JSON."""
    return each.where(each.isfinite(), torch.nan).nanmean().nan_to_num(nan=0.0)


def _of_enumeration(joint: Tensor, values: Tensor, scores: RetrieverScores) -> dict[str, Tensor]:
    found = {
        "ess": (1 / values.square().sum(dim=1)).mean(),
        "log_evidence": joint.logsumexp(dim=1).mean(),
    }
    if scores.posterior_logp is not None:
        density = scores.posterior_logp.detach().masked_fill(values == 0, 0)
        divergence = (torch.xlogy(values, values) - values * density).sum(dim=1)
        found["kl_posterior"] = divergence.mean()
        found["prior_posterior_overlap"] = overlap(scores, joint > -torch.inf)
    return found


def _of_draws(
    candidates: Candidates, scores: RetrieverScores, log_weight: Tensor
) -> dict[str, Tensor]:
    """Estimates from the draws, the same for every sampling estimator so that runs compare.

    ``ess`` (0 to M), ``log_evidence`` (log of the mean weight), ``kl_posterior`` = KL(w || q),
    ``prior_posterior_overlap`` = E_q[min(1, p/q)].
    """
    assert candidates.proposals is not None
    assert candidates.slot_logp is not None
    drawn = log_weight.gather(1, candidates.proposals)
    # A stored state may be all the weight there is: then no draw counts.
    normalised = drawn.softmax(dim=1).nan_to_num(nan=0.0)
    squares = normalised.square().sum(dim=1).clamp_min(torch.finfo(drawn.dtype).tiny)
    log_draws = math.log(drawn.shape[1])
    ratio = (scores.prior_logp.detach() - candidates.slot_logp).gather(1, candidates.proposals)
    return {
        "ess": (normalised.sum(dim=1) / squares).mean(),
        "log_evidence": _finite_mean(drawn.logsumexp(dim=1) - log_draws),
        "kl_posterior": (torch.xlogy(normalised, normalised).sum(dim=1) + log_draws).mean(),
        "prior_posterior_overlap": ratio.clamp(max=0).exp().mean(),
    }
