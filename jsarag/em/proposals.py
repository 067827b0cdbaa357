"""Draws from the posterior retriever, as slots into the candidates they make up.

Uniforms are keyed by (seed, purpose, example id, visit), so a draw does not depend on the batch, on
the process or on what was drawn before. Proposals and acceptance coins have purposes of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.em.chains import ChainStore
from jsarag.em.problem import EMSettings, Problem
from jsarag.em.scoring import retriever_scores, stale_posterior_logp
from jsarag.em.support import allowed, distinct, posterior_of, prior_rows, slots_of, union_rows
from jsarag.randomness import uniforms
from jsarag.types import Candidates

PROPOSALS = "em/proposals"
ACCEPTANCE = "em/acceptance"


def keyed_uniforms(problem: Problem, settings: EMSettings, purpose: str) -> Tensor:
    """Uniforms f64 [B, M] for one purpose, on the queries' device."""
    drawn = uniforms(
        settings.seed, purpose, problem.example_ids, problem.visits, settings.mis_steps
    )
    return drawn.to(problem.queries.prior.device)


def stored_rows(problem: Problem, chains: ChainStore) -> Tensor:
    """The rows the examples' chains hold, int64 [B]; -1 where none does or it is now excluded."""
    rows = chains.get(problem.example_ids).to(problem.queries.prior.device)
    return allowed(rows, problem.exclude)


def propose(problem: Problem, settings: EMSettings, start_rows: Tensor | None = None) -> Candidates:
    """M draws per example from q on the settings' support, and the passages they fell on.

    Args:
        problem: the batch.
        settings: support, M, k, T, seed.
        start_rows: int64 [B] stored chain states, -1 where there is none; None without chains.

    Returns:
        Under ``kb`` exactly the distinct draws and stored states; on a set, the whole set, with the
        retrievers' scores the draws needed. A stored state joins ``union`` and ``kb``; outside
        ``prior`` its weight is zero, so there its chain starts afresh.
    """
    if settings.support == "kb":
        return _propose_from_kb(problem, settings, start_rows)
    if settings.support == "prior":
        rows = prior_rows(problem, settings)
    else:
        rows = union_rows(problem, settings, start_rows)
    return _propose_from_set(problem, settings, rows, start_rows)


def draw_slots(logp: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF draws from probabilities on slots.

    Args:
        logp: [B, C] normalised, -inf on padding.
        uniforms: f64 [B, M] in (0, 1).

    Returns:
        int64 [B, M].
    """
    cumulative = logp.detach().double().exp().cumsum(dim=1)
    # The mass as summed, so that rounding cannot leave a gap at the right end.
    targets = uniforms * cumulative[:, -1:]
    slots = torch.searchsorted(cumulative, targets.contiguous(), right=True)
    positions = torch.arange(logp.shape[1], device=logp.device)
    last = positions.where(logp > -torch.inf, 0).amax(dim=1, keepdim=True)
    return torch.minimum(slots, last)


def scored_slots(candidates: Candidates) -> Tensor:
    """bool [B, C]: the slots a weight is needed for; drawn or held ones, or all without draws."""
    if candidates.proposals is None:
        return candidates.mask
    touched = torch.zeros_like(candidates.mask).scatter(1, candidates.proposals, True)
    if candidates.start is not None:
        held = candidates.start[:, None]
        touched |= torch.zeros_like(touched).scatter(1, held.clamp(min=0), held >= 0)
    return touched & candidates.mask


def _propose_from_set(
    problem: Problem, settings: EMSettings, rows: Tensor, start_rows: Tensor | None
) -> Candidates:
    scores = retriever_scores(problem, settings, rows)
    assert scores.posterior_logp is not None
    density = scores.posterior_logp.detach()
    slots = draw_slots(density, keyed_uniforms(problem, settings, PROPOSALS))
    return Candidates(
        rows=rows,
        proposals=slots,
        proposal_logp=density.gather(1, slots),
        start=None if start_rows is None else slots_of(rows, start_rows[:, None])[:, 0],
        slot_logp=density,
        retriever=scores,
    )


def _propose_from_kb(
    problem: Problem, settings: EMSettings, start_rows: Tensor | None
) -> Candidates:
    index, queries = posterior_of(problem)
    queries, inv_temperature = queries.detach(), settings.inv_temperature
    # Only the tiles' masses are wanted; one best passage is the least a scan returns.
    scan = index.scan(queries, 1, inv_temperature, tile_lse=True, exclude=problem.exclude)
    assert scan.tile_lse is not None
    coins = keyed_uniforms(problem, settings, PROPOSALS)
    drawn = index.draw(
        queries,
        inv_temperature,
        scan.tile_lse,
        coins,
        problem.exclude,
        generation=scan.generation,
    )
    ids, logp = drawn.ids.to(queries.device), drawn.logp.to(queries.device)
    if start_rows is None:
        rows, start = distinct(ids), None
    else:
        rows = distinct(torch.cat([ids, start_rows[:, None]], dim=1))
        start = slots_of(rows, start_rows[:, None])[:, 0]
    slots = slots_of(rows, ids)
    slot_logp = torch.full(rows.shape, -torch.inf, dtype=logp.dtype, device=logp.device)
    if start_rows is not None and start is not None:
        held = stale_posterior_logp(problem, settings, start_rows, scan.tile_lse).to(logp.dtype)
        held = held.masked_fill(start < 0, -torch.inf)
        slot_logp = slot_logp.scatter(1, start.clamp(min=0)[:, None], held[:, None])
    # After the start's: where both lie on one slot, the number the draw reported is the one.
    slot_logp = slot_logp.scatter(1, slots.clamp(min=0), logp)
    return Candidates(rows, slots.clamp(min=0), logp, start, slot_logp)
