"""Mean gradients against exact ones, at sample sizes that reject each published slip.

One batch is n independent replicates. A correct estimator must lie within 4 standard errors of its
closed form in every component; each deliberately wrong one below must lie 10 or more away, at the
same n, seeds and closed form, so the tests are known to have the power they claim.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jsarag.em.chains import ChainStore
from jsarag.em.objectives import Objective, make_objective
from jsarag.em.objectives.jsa import Jsa
from jsarag.em.problem import Problem
from jsarag.index.flat import FlatIndex, IndexDraws
from jsarag.ops.reference.mis_chain import MisChainResult
from jsarag.randomness import generator
from jsarag.types import Candidates, Weights

pytestmark = [pytest.mark.statistics, pytest.mark.usefixtures("bulk_uniforms")]

REPLICATES = 6000
ACCEPT, REJECT = 4.0, 10.0
SUPPORTS = [("kb", 6), ("union", 6), ("prior", 4)]


# ---- closed forms ---------------------------------------------------------------------------


def rows_of(toy: Any, support: str, k: int) -> list[int]:
    """The rows a support with fixed parameters consists of (union with k = K is everything)."""
    return sorted(toy.top(k, "prior")) if support == "prior" else list(range(toy.count))


def gradient_of(toy: Any, v: np.ndarray, rows: list[int]) -> np.ndarray:
    """The loss's gradient on (prior query, posterior query, table) for weights v [K]."""
    prior = -(v - toy.p(rows)) @ toy.passages / toy.temperature
    posterior = -(v - toy.q(rows)) @ toy.passages / toy.temperature
    return np.concatenate([prior, posterior, -v])


def fresh_chain_mean(toy: Any, rows: list[int], steps: int) -> np.ndarray:
    """(1/M) sum_{t=0}^{M-1} q P^t."""
    state, total = toy.q(rows), np.zeros(toy.count)
    for _ in range(steps):
        total += state
        state = state @ toy.transition(rows)
    return total / steps


def snis_mean(toy: Any, rows: list[int], steps: int) -> np.ndarray:
    """E of the self-normalised weights, by enumerating all K^M sequences of draws."""
    q, w, total = toy.q(rows), toy.w(rows), np.zeros(toy.count)
    for draws in product(rows, repeat=steps):
        ratio = w[list(draws)] / q[list(draws)]
        np.add.at(total, list(draws), q[list(draws)].prod() * ratio / ratio.sum())
    return total


# ---- measurement ----------------------------------------------------------------------------


def samples(toy: Any, objective: Objective, visit: int = 0, *, commit: bool = False) -> np.ndarray:
    """Each replicate's gradient, [n, 2 D + K]."""
    step = toy.step(objective, REPLICATES, visit=visit)
    leaves = step.leaves
    if commit:
        step.commit()
    parts = [leaves.prior.grad, leaves.posterior.grad, leaves.table.grad]
    return torch.cat([part * REPLICATES for part in parts], dim=1).numpy()


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest deviation of the mean over all components, in standard errors."""
    gap = np.abs(found.mean(axis=0) - expected)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    constant = error < 1e-12
    z = gap / np.where(constant, 1, error)
    return float(np.where(constant, np.where(gap < 1e-10, 0, np.inf), z).max())


def objective_of(toy: Any, estimator: str, support: str, k: int, steps: int) -> Objective:
    settings = toy.settings(estimator=estimator, support=support, k=k, mis_steps=steps)
    return make_objective("jsa", settings)


def at_stationarity(toy: Any, support: str, k: int, steps: int, made: type[Jsa] = Jsa) -> Objective:
    """``mis-cached`` whose stored states are draws from w on the support."""
    w = toy.w(rows_of(toy, support, k))
    starts = generator(11, "stationary", support).choice(toy.count, size=REPLICATES, p=w)
    chains = ChainStore()
    chains.put([f"e{b}" for b in range(REPLICATES)], torch.from_numpy(starts))
    settings = toy.settings(estimator="mis-cached", support=support, k=k, mis_steps=steps)
    return made(settings, chains)


# ---- item 5: the right ones -----------------------------------------------------------------


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
def test_5_exact(toy: Any, support: str, k: int) -> None:
    rows = rows_of(toy, support, k)
    found = samples(toy, objective_of(toy, "exact", support, k, 1))
    assert np.abs(found - gradient_of(toy, toy.w(rows), rows)).max() < 1e-10


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
@pytest.mark.parametrize("steps", [1, 3])
def test_5_cached_chain_at_stationarity(toy: Any, support: str, k: int, steps: int) -> None:
    """At every visit, not only at the first: what is stored must be a draw from w again."""
    rows = rows_of(toy, support, k)
    exact = gradient_of(toy, toy.w(rows), rows)
    objective = at_stationarity(toy, support, k, steps)
    for visit in range(3):
        assert distance(samples(toy, objective, visit, commit=True), exact) < ACCEPT


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
@pytest.mark.parametrize("estimator", ["mis", "mis-recycled", "mis-cached"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_5_fresh_chain_has_the_finite_bias_it_should(
    toy: Any, estimator: str, support: str, k: int, steps: int
) -> None:
    """A cached chain's very first visit is a fresh chain."""
    rows = rows_of(toy, support, k)
    found = samples(toy, objective_of(toy, estimator, support, k, steps))
    expected = gradient_of(toy, fresh_chain_mean(toy, rows, steps), rows)
    assert distance(found, expected) < ACCEPT
    # The bias is not below what this n can see.
    assert distance(found, gradient_of(toy, toy.w(rows), rows)) > REJECT


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
@pytest.mark.parametrize("steps", [1, 3])
def test_5_snis_has_the_finite_bias_it_should(toy: Any, support: str, k: int, steps: int) -> None:
    rows = rows_of(toy, support, k)
    found = samples(toy, objective_of(toy, "snis", support, k, steps))
    assert distance(found, gradient_of(toy, snis_mean(toy, rows, steps), rows)) < ACCEPT
    assert distance(found, gradient_of(toy, toy.w(rows), rows)) > REJECT


def test_5_fresh_chains_and_snis_approach_the_exact_gradient(toy: Any) -> None:
    """Bias falls like 1/M; at M = 64 it is at most a tenth of what it was at M = 2."""
    rows = list(range(toy.count))
    exact = gradient_of(toy, toy.w(), rows)
    for estimator in ("mis", "mis-recycled", "snis"):
        gaps = []
        for steps in (2, 64):
            found = samples(toy, objective_of(toy, estimator, "kb", toy.count, steps))
            gaps.append(np.abs(found.mean(axis=0) - exact).max())
        assert gaps[1] < 0.1 * gaps[0], (estimator, gaps)


def test_recycling_and_self_normalising_lower_the_error_at_equal_draws(toy: Any) -> None:
    """Mean squared error of v against w: recycled below visits, both chains above snis."""
    error = {}
    for estimator in ("mis", "mis-recycled", "snis"):
        step = toy.step(objective_of(toy, estimator, "kb", toy.count, 16), REPLICATES)
        v = step.values_by_row(toy.count)
        error[estimator] = float(((v - toy.w()) ** 2).sum(axis=1).mean())
    assert error["snis"] < error["mis-recycled"] < error["mis"]


# ---- the three slips, made on purpose -------------------------------------------------------


def never_updated(
    log_weight: Tensor, start_log_weight: Tensor | None, uniforms: Tensor
) -> MisChainResult:
    """Slip 1: after an acceptance, proposals are still compared with the first weight."""
    batch, steps = log_weight.shape
    compared = log_weight[:, 0] if start_log_weight is None else start_log_weight
    compared = torch.where(compared.isnan(), log_weight[:, 0], compared)
    held = torch.full((batch,), steps)
    state, accepted, visits = [], [], torch.zeros(batch, steps + 1, dtype=log_weight.dtype)
    for t in range(steps):
        move = uniforms[:, t].log() < log_weight[:, t] - compared
        if t == 0 and start_log_weight is None:
            move = torch.ones_like(move)
        held = torch.where(move, t, held)
        visits[torch.arange(batch), held] += 1
        state.append(held.masked_fill(held == steps, -1))
        accepted.append(move)
    return MisChainResult(
        torch.stack(state, 1).int(), torch.stack(accepted, 1), visits, visits.clone()
    )


class LastProposal(Jsa):
    """Slip 2: the stored state is the last proposal, accepted or not."""

    def commit(self, problem: Problem, candidates: Candidates, weights: Weights) -> None:
        assert self.chains is not None
        assert candidates.proposals is not None
        rows = candidates.rows.gather(1, candidates.proposals[:, -1:])
        self.chains.put(problem.example_ids, rows[:, 0])


def make_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slip 3: proposals are the posterior's best passage instead of draws from it."""

    def best_slots(logp: Tensor, uniforms: Tensor) -> Tensor:
        return logp.detach().argmax(dim=1, keepdim=True).expand(uniforms.shape).contiguous()

    def best_rows(
        index: FlatIndex,
        queries: Tensor,
        inv_temperature: float,
        tile_lse: Tensor,
        uniforms: Tensor,
        exclude: Tensor | None = None,
        *,
        generation: int | None = None,
    ) -> IndexDraws:
        found = index.scan(queries, 1, inv_temperature, exclude=exclude)
        logp = found.scores * inv_temperature - tile_lse.logsumexp(1, keepdim=True)
        shape = uniforms.shape
        return IndexDraws(found.ids.repeat(1, shape[1]), logp.repeat(1, shape[1]), 0)

    monkeypatch.setattr("jsarag.em.proposals.draw_slots", best_slots)
    monkeypatch.setattr(FlatIndex, "draw", best_rows)


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
def test_slip_1_weight_never_updated(
    toy: Any, monkeypatch: pytest.MonkeyPatch, support: str, k: int
) -> None:
    monkeypatch.setattr("jsarag.em.mis.ops.mis_chain", never_updated)
    rows, steps = rows_of(toy, support, k), 5
    fresh = samples(toy, objective_of(toy, "mis", support, k, steps))
    assert distance(fresh, gradient_of(toy, fresh_chain_mean(toy, rows, steps), rows)) > REJECT
    cached = samples(toy, at_stationarity(toy, support, k, steps))
    assert distance(cached, gradient_of(toy, toy.w(rows), rows)) > REJECT


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
@pytest.mark.parametrize("steps", [1, 3])
def test_slip_2_last_proposal_stored(toy: Any, support: str, k: int, steps: int) -> None:
    rows = rows_of(toy, support, k)
    exact = gradient_of(toy, toy.w(rows), rows)
    objective = at_stationarity(toy, support, k, steps, LastProposal)
    # The first visit starts from w still, and cannot show it.
    assert distance(samples(toy, objective, 0, commit=True), exact) < ACCEPT
    assert distance(samples(toy, objective, 1, commit=True), exact) > REJECT


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
def test_slip_3_greedy_proposals(
    toy: Any, monkeypatch: pytest.MonkeyPatch, support: str, k: int
) -> None:
    make_greedy(monkeypatch)
    rows, steps = rows_of(toy, support, k), 3
    means: dict[str, Callable[..., np.ndarray]] = {"mis": fresh_chain_mean, "snis": snis_mean}
    for estimator, mean in means.items():
        found = samples(toy, objective_of(toy, estimator, support, k, steps))
        assert distance(found, gradient_of(toy, mean(toy, rows, steps), rows)) > REJECT
    cached = samples(toy, at_stationarity(toy, support, k, steps))
    assert distance(cached, gradient_of(toy, toy.w(rows), rows)) > REJECT
