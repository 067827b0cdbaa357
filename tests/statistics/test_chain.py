"""The chain as the package moves it: its exact transition matrix, read off the code, and its laws.

The matrix is not simulated. A proposal is forced by a uniform in the middle of its interval, and
the recycled estimate of a single step *is* the probability of accepting it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from jsarag.em.chains import ChainStore
from jsarag.em.mis import run_chains
from jsarag.em.objectives import make_objective
from jsarag.em.weights import log_weights
from jsarag.randomness import generator

pytestmark = pytest.mark.statistics

SUPPORTS = [("kb", None), ("union", None), ("prior", 4)]


def support_of(toy: Any, support: str, k: int | None) -> tuple[int, list[int]]:
    """(k, the rows p and q are normalised over); union with k = K is a fixed set."""
    if k is None:
        return toy.count, list(range(toy.count))
    return k, toy.top(k, support)


def code_acceptance(
    toy: Any,
    monkeypatch: pytest.MonkeyPatch,
    support: str,
    k: int,
    rows: Sequence[int],
    stale: Any = None,
) -> np.ndarray:
    """a[i, j]: the probability with which the package moves from passage i to proposal j.

    ``stale``: a toy whose passages the index holds, while this one's are the live ones.
    """
    n = len(rows)
    drawn_from = toy if stale is None else stale
    # Both `draw` and the inverse CDF go through the rows in ascending order.
    ordered = sorted(rows)
    cdf = np.concatenate([[0], np.cumsum(drawn_from.q(rows)[ordered])])
    middles = (cdf[:-1] + cdf[1:]) / 2
    forced = torch.tensor(np.tile(middles, n)[:, None])
    monkeypatch.setattr("jsarag.em.proposals.uniforms", lambda *_: forced)
    chains = ChainStore()
    chains.put([f"e{b}" for b in range(n * n)], torch.tensor(np.repeat(ordered, n)))
    settings = toy.settings(support=support, estimator="mis-cached", k=k, mis_steps=1)
    objective = make_objective("jsa", settings, chains)
    problem, _ = toy.problem(n * n, trained=stale is not None, index_passages=drawn_from.passages)
    candidates = objective.candidates(problem)
    scores = objective.score(problem, candidates)
    assert candidates.proposals is not None
    proposed = candidates.rows.gather(1, candidates.proposals)[:, 0].numpy()
    assert proposed.tolist() == np.tile(ordered, n).tolist()
    weight = log_weights(candidates, scores.retriever, scores.response_logp)
    run = run_chains(candidates, weight, torch.full((n * n, 1), 0.5, dtype=torch.float64))
    accepted = run.recycled.gather(1, candidates.proposals)[:, 0].numpy()
    square = np.zeros((toy.count, toy.count))
    square[np.ix_(ordered, ordered)] = accepted.reshape(n, n)
    return square


def code_transition(
    toy: Any, monkeypatch: pytest.MonkeyPatch, support: str, k: int, rows: Sequence[int]
) -> np.ndarray:
    moves = toy.q(rows)[None, :] * code_acceptance(toy, monkeypatch, support, k, rows)
    np.fill_diagonal(moves, 0)
    return moves + np.diag(1 - moves.sum(axis=1))


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_1_stationary_and_in_detailed_balance(
    make_toy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    support: str,
    k: int | None,
    seed: int,
) -> None:
    toy = make_toy(7, seed=seed)
    k, rows = support_of(toy, support, k)
    matrix = code_transition(toy, monkeypatch, support, k, rows)
    w = toy.w(rows)
    flow = w[:, None] * matrix
    assert np.abs(w @ matrix - w).max() < 1e-12
    assert np.abs(flow - flow.T).max() < 1e-12
    assert np.abs(matrix - toy.transition(rows)).max() < 1e-12
    # The toy is not trivial: q itself is far from stationary.
    assert np.abs(toy.q(rows) @ matrix - toy.q(rows)).max() > 0.02


def test_1_holds_while_the_index_is_stale(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws come from the index's q, p is live: only the density really drawn from balances."""
    rows = list(range(toy.count))
    stale = copy.deepcopy(toy)
    stale.passages += 0.5 * np.cos(np.arange(toy.passages.size)).reshape(toy.passages.shape)
    accept = code_acceptance(toy, monkeypatch, "kb", toy.count, rows, stale)
    w = toy.w()
    for density, balanced in ((stale.q(), True), (toy.q(), False)):
        flow = w[:, None] * density[None, :] * accept
        assert bool(np.abs(flow - flow.T).max() < 1e-12) is balanced
    # The live log q in equation (3) instead would break it.
    ratio = toy.w() / toy.q()
    wrong = w[:, None] * stale.q()[None, :] * np.minimum(1, ratio[None, :] / ratio[:, None])
    assert np.abs(wrong - wrong.T).max() > 0.01


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
def test_2_acceptance_rate(
    toy: Any,
    monkeypatch: pytest.MonkeyPatch,
    bulk_uniforms: None,
    support: str,
    k: int | None,
) -> None:
    k, rows = support_of(toy, support, k)
    w, q = toy.w(rows), toy.q(rows)
    ratio = np.divide(w, q, out=np.zeros_like(w), where=q > 0)[rows]
    expected = (
        w[rows][:, None] * q[rows][None, :] * np.minimum(1, ratio[None, :] / ratio[:, None])
    ).sum()
    count, steps = 4000, 4
    step = toy.step(
        stationary_objective(toy, rows, count, support=support, k=k, mis_steps=steps), count
    )
    measured = step.weights.diagnostics["acceptance_rate"]
    # Steps of one chain are correlated: replicates are the independent units.
    assert abs(measured - expected) < 4 * 0.5 / np.sqrt(count)
    with monkeypatch.context() as patch:
        moves = code_acceptance(toy, patch, support, k, rows)
    exact = (w[:, None] * q[None, :] * moves).sum()
    assert exact == pytest.approx(expected, abs=1e-12)
    assert exact < 0.95


def test_2_acceptance_is_one_iff_q_is_w(toy: Any, bulk_uniforms: None) -> None:
    toy.table = np.log(toy.q()) - np.log(toy.p()) - 3
    np.testing.assert_allclose(toy.w(), toy.q(), atol=1e-14)
    matched = toy.step(stationary_objective(toy, range(toy.count), 500, mis_steps=4), 500)
    assert matched.weights.diagnostics["acceptance_rate"] == pytest.approx(1, abs=2e-3)
    toy.table[int(np.argmax(toy.q()))] += 0.5
    other = toy.step(stationary_objective(toy, range(toy.count), 500, mis_steps=4), 500)
    assert other.weights.diagnostics["acceptance_rate"] < 0.98


@pytest.mark.parametrize(("support", "k"), SUPPORTS)
def test_3_second_eigenvalue(
    toy: Any, monkeypatch: pytest.MonkeyPatch, support: str, k: int | None
) -> None:
    k, rows = support_of(toy, support, k)
    matrix = code_transition(toy, monkeypatch, support, k, rows)[np.ix_(rows, rows)]
    values = np.sort(np.linalg.eigvals(matrix).real)[::-1]
    assert values[0] == pytest.approx(1, abs=1e-12)
    slowest = 1 - 1 / (toy.w(rows)[rows] / toy.q(rows)[rows]).max()
    assert values[1] == pytest.approx(slowest, abs=1e-10)


def test_8_a_cached_chain_converges_as_bounded(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(toy.count))
    matrix = code_transition(toy, monkeypatch, "kb", toy.count, rows)
    w = toy.w()
    rate = 1 - 1 / (w / toy.q()).max()
    power = np.eye(toy.count)
    for steps in range(1, 60):
        power = power @ matrix
        distance = np.abs(power - w[None, :]).sum(axis=1) / 2
        assert distance.max() <= rate**steps + 1e-12
    # The bound is not loose: the chain is really that slow from the worst state.
    assert distance.max() > 0.2 * rate**steps


@pytest.mark.parametrize("support", ["kb", "union"])
def test_8_through_the_store_visit_by_visit(toy: Any, bulk_uniforms: None, support: str) -> None:
    """Real visits with commits: the stored states' distribution follows e_i P^n."""
    count, steps, worst = 4000, 2, int(np.argmax(toy.w() / toy.q()))
    ids = [f"e{b}" for b in range(count)]
    chains = ChainStore()
    chains.put(ids, torch.full((count,), worst))
    settings = toy.settings(support=support, estimator="mis-cached", mis_steps=steps)
    objective = make_objective("jsa", settings, chains)
    expected = np.eye(toy.count)[worst]
    rate = 1 - 1 / (toy.w() / toy.q()).max()
    for visit in range(4):
        toy.step(objective, count, visit=visit).commit()
        expected = expected @ np.linalg.matrix_power(toy.transition(), steps)
        found = np.bincount(chains.get(ids).numpy(), minlength=toy.count) / count
        error = np.sqrt(expected * (1 - expected) / count)
        assert (np.abs(found - expected) < 4 * error + 1e-12).all()
        distance = np.abs(found - toy.w()).sum() / 2
        assert distance <= rate ** (steps * (visit + 1)) + 4 * error.sum()


def stationary_objective(toy: Any, rows: Sequence[int], count: int, **settings: object) -> Any:
    """``mis-cached`` whose stored states are exact draws from w on the support."""
    w = toy.w(list(rows))
    starts = generator(5, "stationary").choice(toy.count, size=count, p=w)
    chains = ChainStore()
    chains.put([f"e{b}" for b in range(count)], torch.from_numpy(starts))
    return make_objective("jsa", toy.settings(estimator="mis-cached", **settings), chains)
