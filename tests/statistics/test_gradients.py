"""Whose gradient is it: Fisher's identity, RAG's equality, and who may receive which term.

Gradients come from the package's backward pass; what they should be comes from finite differences
of closed forms, or from autograd of a formula written out here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from jsarag.em.objectives import make_objective

pytestmark = pytest.mark.statistics


def finite_difference(
    toy: Any, name: str, value: Callable[[Any], float], step: float = 1e-5
) -> np.ndarray:
    """Central differences of ``value(toy)`` in the toy's array ``name``."""
    array = getattr(toy, name)
    result = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(toy)
            getattr(moved, name)[place] += sign * step
            ends.append(value(moved))
        result[place] = (ends[0] - ends[1]) / (2 * step)
    return result


def kl_posterior(toy: Any, rows: list[int] | None, w: np.ndarray) -> float:
    """KL(w || q) with w held fixed."""
    keep = w > 0
    return float((w[keep] * np.log(w[keep] / toy.q(rows)[keep])).sum())


CASES = [("kb", None), ("union", None), ("union", 2), ("prior", 3)]


@pytest.mark.parametrize(("support", "k"), CASES)
@pytest.mark.parametrize("trained", [False, True])
def test_4_fisher_identity(toy: Any, support: str, k: int | None, trained: bool) -> None:
    """With `exact`, minus the loss's gradient is grad log p(y|x), and for phi -grad KL(w||q)."""
    rows = None
    if k is not None:
        rows = sorted({*toy.top(k, "prior"), *(toy.top(k, "q") if support == "union" else [])})
    found = toy.step(support=support, k=k or toy.count, trained=trained).leaves

    def evidence(moved: Any) -> float:
        return float(moved.log_evidence(rows))

    w = toy.w(rows)
    expected = {name: finite_difference(toy, name, evidence) for name in ("prior_query", "table")}
    divergence = finite_difference(
        toy, "posterior_query", lambda moved: kl_posterior(moved, rows, w)
    )
    np.testing.assert_allclose(-found.prior.grad[0], expected["prior_query"], atol=1e-8)
    np.testing.assert_allclose(-found.table.grad[0], expected["table"], atol=1e-8)
    np.testing.assert_allclose(found.posterior.grad[0], divergence, atol=1e-8)
    assert np.abs(expected["prior_query"]).max() > 0.05
    if trained:
        passages = finite_difference(toy, "passages", evidence)
        np.testing.assert_allclose(-found.passages.grad, passages, atol=1e-8)
    else:
        assert found.passages.grad is None


def test_4_needs_log_q_detached_from_shared_passages(toy: Any) -> None:
    """The switch is what makes (1) hold for a shared passage encoder."""
    attached = toy.step(trained=True, detach_posterior_from_passages=False).leaves.passages.grad
    expected = finite_difference(toy, "passages", lambda moved: float(moved.log_evidence()))
    assert np.abs(-attached.numpy() - expected).max() > 0.05
    w = toy.w()
    expected -= finite_difference(toy, "passages", lambda moved: kl_posterior(moved, None, w))
    np.testing.assert_allclose(-attached, expected, atol=1e-8)


def test_4_between_rebuilds_only_candidates_are_live(toy: Any) -> None:
    """`kb`, trained passages, stale index: partition and gradient of the mixture, equation (5)."""
    stale = toy.passages + 0.3 * np.sin(np.arange(toy.passages.size)).reshape(toy.passages.shape)
    step = toy.step(trained=True, k=2, index_passages=stale)
    rows = step.candidates.rows[0].tolist()
    assert len(rows) < toy.count

    def mixed(passages: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        rest = [row for row in range(toy.count) if row not in rows]
        live = passages[rows] @ query / toy.temperature
        others = torch.tensor(stale[rest]) @ query / toy.temperature
        return live - torch.cat([live, others]).logsumexp(0)

    passages = torch.tensor(toy.passages, requires_grad=True)
    prior = torch.tensor(toy.prior_query, requires_grad=True)
    posterior = torch.tensor(toy.posterior_query, requires_grad=True)
    log_p, log_q = mixed(passages, prior), mixed(passages.detach(), posterior)
    v = (log_p + torch.tensor(toy.table)[rows]).softmax(0).detach()
    (-(v * log_p).sum() - (v * log_q).sum()).backward()
    np.testing.assert_allclose(
        step.scores.retriever.prior_logp[0].detach(), log_p.detach(), atol=1e-12
    )
    np.testing.assert_allclose(step.weights.values[0], v, atol=1e-12)
    for leaf, mine in (
        (step.leaves.passages, passages),
        (step.leaves.prior, prior),
        (step.leaves.posterior, posterior),
    ):
        expected = mine.grad
        found = leaf.grad if leaf.grad.shape == expected.shape else leaf.grad[0]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("support", ["prior", "kb"])
@pytest.mark.parametrize("trained", [False, True])
def test_6_exact_equals_rag(make_toy: Callable[..., Any], support: str, trained: bool) -> None:
    """The two objectives' own code paths, on one set: prior's top k of 8 (and all 8 under kb)."""
    toy = make_toy(8, seed=3)
    k = 4 if support == "prior" else 8
    jsa = toy.step(support=support, k=k, trained=trained)
    rag = toy.step(name="rag", support=support, k=k, trained=trained)
    assert jsa.candidates.rows.tolist() == rag.candidates.rows.tolist()
    np.testing.assert_allclose(jsa.leaves.prior.grad, rag.leaves.prior.grad, atol=1e-13)
    np.testing.assert_allclose(jsa.leaves.table.grad, rag.leaves.table.grad, atol=1e-13)
    np.testing.assert_allclose(jsa.weights.values, rag.weights.values, atol=1e-13)
    assert rag.leaves.prior.grad.abs().max() > 0.05
    assert rag.loss.total.item() == pytest.approx(-toy.log_evidence(toy.top(k, "prior")), abs=1e-12)
    if trained:
        np.testing.assert_allclose(jsa.leaves.passages.grad, rag.leaves.passages.grad, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_6_exact_on_a_union_equals_rag_on_that_union(make_toy: Callable[..., Any], k: int) -> None:
    toy = make_toy(12, seed=4)
    step = toy.step(support="union", k=k)
    rows = step.candidates.rows[0].tolist()
    assert rows == sorted({*toy.top(k, "prior"), *toy.top(k, "q")})
    prior = torch.tensor(toy.prior_query, requires_grad=True)
    table = torch.tensor(toy.table, requires_grad=True)
    log_p = (torch.tensor(toy.passages)[rows] @ prior / toy.temperature).log_softmax(0)
    (-(log_p + table[rows]).logsumexp(0)).backward()
    np.testing.assert_allclose(step.leaves.prior.grad[0], prior.grad, atol=1e-13)
    np.testing.assert_allclose(step.leaves.table.grad[0], table.grad, atol=1e-13)


@pytest.mark.parametrize("estimator", ["mis", "mis-recycled", "snis"])
@pytest.mark.parametrize("support", ["kb", "union"])
def test_7_one_draw_knows_nothing_of_the_generator(
    toy: Any, monkeypatch: pytest.MonkeyPatch, estimator: str, support: str
) -> None:
    """M = 1 and q = p: sum over all draws of q(h) · gradient is exactly zero."""
    toy.posterior_query = toy.prior_query.copy()
    p = toy.p()
    cdf = np.concatenate([[0], np.cumsum(p)])
    middles = torch.tensor((cdf[:-1] + cdf[1:]) / 2)[:, None]
    monkeypatch.setattr("jsarag.em.proposals.uniforms", lambda *_: middles)
    step = toy.step(count=toy.count, support=support, estimator=estimator, mis_steps=1)
    values = step.values_by_row(toy.count)
    np.testing.assert_array_equal(values, np.eye(toy.count))
    per_draw = step.leaves.prior.grad.numpy() * toy.count
    assert np.abs(p @ per_draw).max() < 1e-14
    assert np.abs(per_draw).max() > 0.1
    # And the exact gradient is not zero: there was something to learn.
    exact = toy.step(support=support).leaves.prior.grad.numpy()
    assert np.abs(exact).max() > 0.05


ESTIMATORS = ["exact", "snis", "mis", "mis-cached", "mis-recycled"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("support", ["kb", "union", "prior"])
@pytest.mark.parametrize("separate", [False, True])
def test_10_v_is_a_detached_distribution_and_terms_stay_apart(
    make_toy: Callable[..., Any], estimator: str, support: str, separate: bool
) -> None:
    toy = make_toy(8, seed=5)
    if separate:
        toy.posterior_passages = toy.passages[::-1] * 0.8
    count = 5
    step = toy.step(count=count, support=support, estimator=estimator, k=3, trained=True)
    values, leaves = step.weights.values, step.leaves
    assert not values.requires_grad
    assert (values >= 0).all()
    assert (values.sum(dim=1) - 1).abs().max() < 1e-12
    assert (values * ~step.candidates.mask == 0).all()

    # The three terms, each on parameters of its own: a leaf may not move for another's sake.
    rows, mask = step.candidates.rows, step.candidates.mask
    prior, posterior = toy_copy(toy.prior_query, count), toy_copy(toy.posterior_query, count)
    passages = toy_copy(toy.passages)
    other = toy_copy(toy.passages if toy.posterior_passages is None else toy.posterior_passages)
    prior_term = term(values, prior, passages, rows, mask, toy, support)
    posterior_term = term(values, posterior, other, rows, mask, toy, support)
    prior_term.backward()
    posterior_term.backward()
    np.testing.assert_allclose(leaves.prior.grad, prior.grad, atol=1e-12)
    np.testing.assert_allclose(leaves.posterior.grad, posterior.grad, atol=1e-12)
    np.testing.assert_allclose(leaves.passages.grad, passages.grad, atol=1e-12)
    if separate:
        np.testing.assert_allclose(leaves.posterior_passages.grad, other.grad, atol=1e-12)
    table = torch.zeros(count, toy.count, dtype=torch.float64)
    table.scatter_add_(1, rows.clamp(min=0), -values * mask / count)
    np.testing.assert_allclose(leaves.table.grad, table, atol=1e-14)


def toy_copy(values: np.ndarray, count: int = 0) -> torch.Tensor:
    tensor = torch.tensor(np.ascontiguousarray(values))
    return (tensor.repeat(count, 1) if count else tensor).requires_grad_()


def term(
    values: torch.Tensor,
    queries: torch.Tensor,
    passages: torch.Tensor,
    rows: torch.Tensor,
    mask: torch.Tensor,
    toy: Any,
    support: str,
) -> torch.Tensor:
    """-sum v log p, mean over the batch, one example at a time."""
    losses = []
    for b in range(len(rows)):
        own = rows[b][mask[b]]
        scores = passages @ queries[b] / toy.temperature
        if support == "kb":
            # Only candidates are re-encoded; the rest of the partition has no live vectors.
            fixed = passages.detach() @ queries[b] / toy.temperature
            scores = fixed.index_put((own,), scores[own])
            logp = scores.log_softmax(0)[own]
        else:
            logp = scores[own].log_softmax(0)
        losses.append(-(values[b][mask[b]] * logp).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("frozen", ["prior", "posterior", "table"])
def test_10_a_frozen_part_takes_nothing_and_breaks_nothing(toy: Any, frozen: str) -> None:
    whole = toy.step(count=2, estimator="snis").leaves
    objective = make_objective("jsa", toy.settings(estimator="snis"))
    problem, leaves = toy.problem(2)
    getattr(leaves, frozen).requires_grad_(False)
    candidates = objective.candidates(problem)
    scores = objective.score(problem, candidates)
    weights = objective.weights(problem, candidates, scores)
    objective.loss(problem, candidates, scores, weights).total.backward()
    for name in ("prior", "posterior", "table"):
        grad = getattr(leaves, name).grad
        if name == frozen:
            assert grad is None
        else:
            np.testing.assert_allclose(grad, getattr(whole, name).grad, atol=1e-14)
