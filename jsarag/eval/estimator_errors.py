"""How far an estimate of p(h|x,y) is from the exact one: bias, error, variance, and the chain's.

A :class:`Pool` holds some examples' passages with every score an E-step needs, computed once. On it
p(h|x,y) is a sum, and an estimator can be replayed as often as one likes by drawing again: what
runs here is the code that trains (``em/weights.py``), on draws keyed like those of training.
Models, texts and files are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jsarag.em.proposals import draw_slots
from jsarag.em.weights import estimate, log_joint
from jsarag.randomness import uniforms
from jsarag.types import Candidates, Estimator, RetrieverScores, Support

SAMPLERS: tuple[Estimator, ...] = ("mis", "mis-cached", "mis-recycled", "snis")
_PROPOSALS, _COINS, _START = "diagnose/proposals", "diagnose/coins", "diagnose/start"
# Replicates are rows of one batch; more at a time would only take memory.
_MOST_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Pool:
    """The passages of B examples and their scores, f64, detached.

    ids: of the examples; key the draws.
    rows int64 [B, C]: passage rows, -1 pads.
    prior_logp, posterior_logp [B, C]: log p(h|x) and log q(h|x,y), normalised over the whole
        knowledge base; -inf on padding.
    response_logp [B, C]: log p(y|x,h) as the likelihood setting defines it; -inf on padding.
    prior_rank, posterior_rank int64 [B, C]: place of the passage in each retriever's list, 0 is the
        first; ``len(list)`` for a passage the list does not hold.
    temperature: T of both softmaxes. evidence_weight: factor on log p(y|x,h).
    seed: of the draws.
    """

    ids: Sequence[str]
    rows: Tensor
    prior_logp: Tensor
    posterior_logp: Tensor
    response_logp: Tensor
    prior_rank: Tensor
    posterior_rank: Tensor
    temperature: float
    evidence_weight: float = 1.0
    seed: int = 1

    @property
    def mask(self) -> Tensor:
        """bool [B, C], True where a slot holds a passage."""
        return self.rows >= 0

    @property
    def joint(self) -> Tensor:
        """log p(h|x) + evidence_weight · log p(y|x,h), [B, C]; -inf on padding."""
        joint = log_joint(self.prior_logp, self.response_logp, self.evidence_weight)
        return joint.masked_fill(~self.mask, -torch.inf)

    def exact(self) -> Tensor:
        """w(h) = p(h|x,y) among the pool's passages, [B, C]: what estimates are held against."""
        return self.joint.softmax(dim=1)

    def members(self, support: Support, k: int) -> Tensor:
        """bool [B, C]: the prior's top k, the union of both top k, or (``kb``) the whole pool."""
        if support == "kb":
            return self.mask
        chosen = self.prior_rank < k
        if support == "union":
            chosen = chosen | (self.posterior_rank < k)
        return chosen & self.mask


class Errors(NamedTuple):
    """Root mean squares over examples of errors' lengths, as vectors over passages.

    bias: of the mean estimate, corrected for the finite number of replicates. rms: of single
    estimates. variance: mean over examples of the estimate's summed variances, rms² - bias².
    """

    bias: float
    rms: float
    variance: float


@dataclass(frozen=True, slots=True)
class EstimatorRow:
    """One estimator at one setting against the exact weights.

    Attributes:
        estimator: its name.
        support: where it draws or enumerates; ``union*`` and ``prior*`` (only of ``exact``)
            enumerate that set with log-probabilities over the knowledge base.
        mis_steps: M, None where nothing is drawn. k: None where it plays no role.
        weights: errors of v(h).
        gradient: errors of (v - p)/T on the prior's scores; p over the support.
        relative: root mean square error of that gradient over the exact gradient's length.
        pairs: generator scores an example needs, mean.
        ess: effective sample size of the draws, 1 to M; None where nothing is drawn.
        acceptance_rate: share of coin-decided proposals taken; None without a chain or a coin.
        seconds: measured, of the candidates and score stations, an example; None if not measured.
    """

    estimator: Estimator
    support: str
    mis_steps: int | None
    k: int | None
    weights: Errors
    gradient: Errors
    relative: float
    pairs: float
    ess: float | None = None
    acceptance_rate: float | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON types; errors as ``{"bias", "rms", "variance"}``."""
        return asdict(self) | {
            "weights": self.weights._asdict(),
            "gradient": self.gradient._asdict(),
        }


def sampler_errors(
    pool: Pool,
    estimator: Estimator,
    draws: Sequence[int],
    *,
    support: Support = "kb",
    k: int = 1,
    visits: int = 200,
) -> list[EstimatorRow]:
    """Replay a sampling estimator ``visits`` times an example, for several numbers of draws.

    Args:
        pool: the examples.
        estimator: one of :data:`SAMPLERS`. ``mis-cached`` starts from a draw of the exact weights:
            a chain that has forgotten its start, while no parameter moves.
        draws: values of M; a smaller M takes the first of the same draws.
        support: where proposals fall.
        k: of ``prior`` and ``union``.
        visits: replicates.

    Returns:
        A row per M, in their order.

    Raises:
        NumericalError: an example's draws all have weight zero.
    """
    member = pool.members(support, k)
    prior, density = _normalised(pool, member, support)
    target = pool.exact()
    sums = {m: _Sums(pool, prior, target) for m in draws}
    count, most = len(pool.ids), max(draws)
    per_chunk = max(1, _MOST_ROWS // max(count, 1))
    for first in range(0, visits, per_chunk):
        these = range(first, min(first + per_chunk, visits))
        replay = _Replay.of(pool, member, prior, density, these, most)
        for m in draws:
            sums[m].add(*replay.run(estimator, m))
    return [
        EstimatorRow(
            estimator,
            support,
            m,
            None if support == "kb" else k,
            *sums[m].errors(visits),
            pairs=sums[m].pairs / visits,
            ess=sums[m].found["ess"] / visits,
            acceptance_rate=None if sums[m].rate is None else sums[m].found["rate"] / visits,
        )
        for m in draws
    ]


def enumeration_errors(pool: Pool, support: Support, k: int, *, over_kb: bool) -> EstimatorRow:
    """The estimator ``exact`` on a set against the exact weights of the whole pool.

    Args:
        pool: the examples.
        support: ``prior`` or ``union``, the set that is enumerated.
        k: passages taken from each retriever.
        over_kb: log-probabilities over the knowledge base (what ``exact`` does under support
            ``kb``, with the union as candidates) instead of over the set.
    """
    member = pool.members(support, k)
    target = pool.exact()
    values = pool.joint.masked_fill(~member, -torch.inf).softmax(dim=1)
    prior = pool.prior_logp if over_kb else _normalised(pool, member, support)[0]
    sums = _Sums(pool, prior, target)
    sums.add(values[None], member[None], {})
    return EstimatorRow(
        "exact",
        f"{support}*" if over_kb else support,
        None,
        k,
        *sums.errors(1),
        pairs=float(member.sum(dim=1).double().mean()),
    )


def tail(pool: Pool) -> dict[str, dict[str, float]]:
    """Mass of p and q outside the pool: ``{"prior": {"mean", "most"}, "posterior": {...}}``."""
    found = {}
    for name, logp in (("prior", pool.prior_logp), ("posterior", pool.posterior_logp)):
        outside = (1 - logp.exp().sum(dim=1)).clamp(min=0)
        found[name] = {"mean": float(outside.mean()), "most": float(outside.max())}
    return found


def divergences(pool: Pool) -> dict[str, float]:
    """How far p, q and w lie apart on the pool, and how peaked they are; means over examples.

    ``kl_posterior`` = KL(w || q) and ``kl_prior`` = KL(w || p) in nats, ``overlap`` = sum of
    min(p, q), ``entropy_*`` in nats, ``top_is_prior_top``: share of examples whose likeliest
    passage under w is the prior's first, ``evidence_spread``: best minus median log p(y|x,h).
    """
    exact, mask = pool.exact(), pool.mask
    w = exact.masked_fill(~mask, 0)
    p, q = pool.prior_logp.exp(), pool.posterior_logp.exp()

    def divergence(logp: Tensor) -> float:
        each = torch.xlogy(w, w) - w * logp.masked_fill(w == 0, 0)
        return float(each.sum(dim=1).mean())

    def entropy(density: Tensor) -> float:
        return float(-torch.xlogy(density, density).sum(dim=1).mean())

    known = pool.response_logp.masked_fill(~(mask & pool.response_logp.isfinite()), torch.nan)
    spread = known.nan_to_num(nan=-torch.inf).amax(dim=1) - known.nanmedian(dim=1).values
    best = w.argmax(dim=1, keepdim=True)
    return {
        "kl_posterior": divergence(pool.posterior_logp),
        "kl_prior": divergence(pool.prior_logp),
        "overlap": float(torch.minimum(p, q).sum(dim=1).mean()),
        "entropy_prior": entropy(p),
        "entropy_posterior": entropy(q),
        "entropy_exact": entropy(w),
        "top_is_prior_top": float((pool.prior_rank.gather(1, best) == 0).double().mean()),
        "evidence_spread": float(spread.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mean()),
    }


def _normalised(pool: Pool, member: Tensor, support: Support) -> tuple[Tensor, Tensor]:
    """log p and log q as an objective on this support has them; -inf outside."""
    parts = [
        part.masked_fill(~member, -torch.inf) for part in (pool.prior_logp, pool.posterior_logp)
    ]
    if support != "kb":
        parts = [part.log_softmax(dim=1) for part in parts]
    return parts[0], parts[1]


class _Replay(NamedTuple):
    """Draws of some visits of every example, flattened to one batch, visit-major."""

    candidates: Candidates
    response_logp: Tensor
    coins: Tensor
    start: Tensor
    ids: list[str]
    evidence_weight: float
    visits: int

    @classmethod
    def of(
        cls,
        pool: Pool,
        member: Tensor,
        prior: Tensor,
        density: Tensor,
        visits: range,
        draws: int,
    ) -> _Replay:
        count = len(visits)
        ids = list(pool.ids) * count
        numbers = [visit for visit in visits for _ in pool.ids]

        def repeated(each: Tensor) -> Tensor:
            return each.repeat(count, 1)

        def keyed(purpose: str, n: int) -> Tensor:
            return uniforms(pool.seed, purpose, ids, numbers, n)

        slot_logp = repeated(density)
        rows = repeated(pool.rows.masked_fill(~member, -1))
        slots = draw_slots(slot_logp, keyed(_PROPOSALS, draws))
        exact = repeated(pool.joint.masked_fill(~member, -torch.inf).log_softmax(dim=1))
        candidates = Candidates(
            rows,
            proposals=slots,
            slot_logp=slot_logp,
            retriever=RetrieverScores(repeated(prior), slot_logp),
        )
        return cls(
            candidates,
            repeated(pool.response_logp),
            keyed(_COINS, draws),
            draw_slots(exact, keyed(_START, 1))[:, 0],
            ids,
            pool.evidence_weight,
            count,
        )

    def run(self, estimator: Estimator, draws: int) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Estimates [visits, B, C], the slots they needed scores for, and the diagnostics."""
        whole = self.candidates
        assert whole.proposals is not None
        assert whole.slot_logp is not None
        assert whole.retriever is not None
        candidates = replace(
            whole,
            proposals=whole.proposals[:, :draws],
            start=self.start if estimator == "mis-cached" else None,
        )
        touched = torch.zeros_like(whole.mask).scatter(1, whole.proposals[:, :draws], True)
        if candidates.start is not None:
            touched = touched.scatter(1, self.start[:, None], True)
        weights = estimate(
            estimator,
            candidates,
            whole.retriever,
            self.response_logp,
            evidence_weight=self.evidence_weight,
            coins=self.coins[:, :draws],
            example_ids=self.ids,
        )
        shape = (self.visits, -1, whole.rows.shape[1])
        return weights.values.view(shape), touched.view(shape), dict(weights.diagnostics)


class _Sums:
    """Adds replicates up to errors; the mean over examples comes last."""

    def __init__(self, pool: Pool, prior: Tensor, target: Tensor) -> None:
        self._mask = pool.mask
        self._target = target.masked_fill(~self._mask, 0)
        self._temperature = pool.temperature
        # (v - p)/T against (w - p)/T: p itself differs where it is over another support.
        self._shift = (prior.exp() - pool.prior_logp.exp()).masked_fill(~self._mask, 0)
        self._exact_gradient = self._target - pool.prior_logp.exp()
        self._first = torch.zeros_like(self._target)
        self._square = torch.zeros(len(target), dtype=target.dtype)
        self._gradient_square = torch.zeros_like(self._square)
        self.pairs = 0.0
        self.rate: float | None = None
        self.found = {"ess": 0.0, "rate": 0.0}

    def add(self, values: Tensor, touched: Tensor, found: dict[str, float]) -> None:
        """Values and slots whose scores were needed, [visits, B, C]; batch means of diagnostics."""
        error = values - self._target
        self._first += error.sum(dim=0)
        self._square += error.square().sum(dim=(0, 2))
        self._gradient_square += (error - self._shift).square().sum(dim=(0, 2))
        visits = len(values)
        self.pairs += visits * float(touched.sum(dim=2).double().mean())
        self.found["ess"] += visits * found.get("ess", 0.0)
        if "acceptance_rate" in found:
            self.rate = found["acceptance_rate"]
            self.found["rate"] += visits * self.rate

    def errors(self, visits: int) -> tuple[Errors, Errors, float]:
        """Of the weights, of the gradient, and the latter relative to the exact gradient."""
        mean = self._first / visits
        of_weights = _errors(mean, self._square / visits, visits)
        of_gradient = _errors(mean - self._shift, self._gradient_square / visits, visits)
        inverse = 1 / self._temperature
        gradient = Errors(
            of_gradient.bias * inverse,
            of_gradient.rms * inverse,
            of_gradient.variance * inverse**2,
        )
        length = float(self._exact_gradient.square().sum(dim=1).mean()) ** 0.5
        return of_weights, gradient, of_gradient.rms / length if length else 0.0


def _errors(mean: Tensor, square: Tensor, visits: int) -> Errors:
    """From the mean error [B, C] and the mean squared length [B] of ``visits`` replicates."""
    distance = mean.square().sum(dim=1)
    spread = (square - distance).clamp(min=0)
    if visits > 1:
        spread = spread * visits / (visits - 1)
    # The mean of finitely many replicates errs by spread / visits beyond the bias.
    bias = float((distance - spread / visits).mean()) if visits > 1 else float(distance.mean())
    return Errors(max(bias, 0.0) ** 0.5, float(square.mean()) ** 0.5, float(spread.mean()))
