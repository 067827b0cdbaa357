"""The objectives JSA is compared with: each one's gradient against its own formula.

Formulas are numpy's and apart from the package; a temperature other than 1 is in all of them, so a
term that forgets it, or a softmax taken twice, shows.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from jsarag.em.objectives import make_objective
from jsarag.errors import ConfigError

pytestmark = pytest.mark.statistics

K, TEMPERATURE, B = 9, 0.6, 0.8
LEAVES = {"prior_query": "prior", "posterior_query": "posterior", "table": "table"}


@pytest.fixture
def toy(make_toy: Callable[..., Any]) -> Any:
    toy = make_toy(K, seed=7)
    toy.temperature = TEMPERATURE
    return toy


def gradient(toy: Any, name: str, value: Callable[[Any], float], step: float = 1e-5) -> np.ndarray:
    """Central differences of ``value(toy)`` in one of the toy's arrays."""
    result = np.zeros_like(getattr(toy, name))
    for place in range(len(result)):
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(toy)
            getattr(moved, name)[place] += sign * step
            ends.append(value(moved))
        result[place] = (ends[0] - ends[1]) / (2 * step)
    return result


def assert_gradients(step: Any, toy: Any, loss: Callable[[Any], float], *names: str) -> None:
    """The step's loss and gradients are the formula's; leaves not named took none."""
    assert step.loss.total.item() == pytest.approx(loss(toy), abs=1e-10)
    for name, leaf in LEAVES.items():
        found = getattr(step.leaves, leaf).grad
        if name in names:
            np.testing.assert_allclose(found[0], gradient(toy, name, loss), atol=1e-7)
            assert found.abs().max() > 1e-3
        else:
            assert found is None or found.abs().max() == 0


def union(toy: Any, k: int) -> list[int]:
    return sorted({*toy.top(k, "prior"), *toy.top(k, "q")})


# ---- marginal likelihoods ---------------------------------------------------------------------


@pytest.mark.parametrize("support", ["prior", "kb"])
def test_rag_token_marginalises_every_token(toy: Any, support: str) -> None:
    rows = toy.top(4, "prior")

    def loss(moved: Any) -> float:
        p = moved.p(rows if support == "prior" else None)[rows]
        tokens = np.exp(B * moved.table[rows, None] * moved.token_share[rows])
        return float(-np.log(p @ tokens).sum())

    step = toy.step(name="rag-token", support=support, k=4, evidence_weight=B)
    assert_gradients(step, toy, loss, "prior_query", "table")
    np.testing.assert_allclose(
        step.weights.values,
        toy.step(name="rag", support=support, k=4, evidence_weight=B).weights.values,
    )


def test_rag_union_is_rag_on_what_both_retrievers_find(toy: Any) -> None:
    rows = union(toy, 4)
    assert len(rows) > 4

    def loss(moved: Any) -> float:
        p = moved.p(rows)[rows]
        return float(-np.log(p @ np.exp(B * moved.table[rows])))

    step = toy.step(name="rag-union", support="union", k=4, evidence_weight=B)
    assert_gradients(step, toy, loss, "prior_query", "table")


def test_rag_token_refuses_a_mean_over_tokens(toy: Any) -> None:
    with pytest.raises(ConfigError, match="likelihood: expected 'sum'"):
        toy.step(name="rag-token", support="prior", k=4, likelihood="mean")


@pytest.mark.parametrize("support", ["prior", "kb"])
def test_emdr2_teaches_the_generator_on_joined_passages_only(toy: Any, support: str) -> None:
    best_first = toy.top(4, "prior")
    rows = best_first if support == "prior" else None
    held = toy.table.copy()

    def retriever(moved: Any) -> float:
        p = moved.p(rows)[best_first]
        return float(-np.log(p @ np.exp(held[best_first])))

    step = toy.step(name="emdr2", support=support, k=4)
    assert_gradients(
        step, toy, lambda moved: retriever(moved) - moved.joined(best_first), "prior_query", "table"
    )
    # Of single passages the generator hears nothing: the table's gradient is the joined prompt's.
    expected = np.zeros(K)
    expected[best_first] = -1 / np.arange(1, 5)
    np.testing.assert_allclose(step.leaves.table.grad[0], expected, atol=1e-12)
    rag = toy.step(name="rag", support=support, k=4)
    np.testing.assert_allclose(step.leaves.prior.grad, rag.leaves.prior.grad, atol=1e-12)


def test_pdist_pulls_the_prior_to_the_likelihoods_alone(toy: Any) -> None:
    rows = toy.top(4, "prior")
    target = np.exp(B * toy.table[rows])
    target /= target.sum()

    def loss(moved: Any) -> float:
        divergence = float((target * np.log(target / moved.p(rows)[rows])).sum())
        return divergence - moved.joined(rows)

    step = toy.step(name="pdist", support="prior", k=4, evidence_weight=B)
    assert_gradients(step, toy, loss, "prior_query", "table")
    # On the scores: p - target, over T.
    expected = ((toy.p(rows)[rows] - target) / TEMPERATURE) @ toy.passages[rows]
    np.testing.assert_allclose(step.leaves.prior.grad[0], expected, atol=1e-12)


def test_retgen_is_rag_with_noise(toy: Any, bulk_uniforms: None) -> None:
    count = 40_000
    step = toy.step(name="retgen", support="prior", k=4, mis_steps=3, count=count)
    rag = toy.step(name="rag", support="prior", k=4)
    np.testing.assert_allclose(step.leaves.table.grad[0] * count, rag.leaves.table.grad[0])
    each = step.leaves.prior.grad.numpy() * count
    error = each.std(axis=0, ddof=1) / np.sqrt(count)
    deviation = np.abs(each.mean(axis=0) - rag.leaves.prior.grad[0].numpy()) / error
    assert deviation.max() < 4
    # Enough draws that a baseline holding the draw's own reward, a third of it, would be seen.
    assert (np.abs(rag.leaves.prior.grad[0].numpy()) / 3 / error).max() > 10


# ---- variational ------------------------------------------------------------------------------


def bound(moved: Any, rows: list[int], average: list[int] | None = None) -> float:
    p, q = moved.p(rows)[rows], moved.q(rows)[rows]
    share = moved.q(average)[rows] if average is not None else q
    return float(-B * share @ moved.table[rows] + (q * np.log(q / p)).sum())


@pytest.mark.parametrize("k", [2, 4])
def test_vrag_is_minus_the_evidence_lower_bound_on_the_union(toy: Any, k: int) -> None:
    rows = union(toy, k)
    step = toy.step(name="vrag", support="union", k=k, evidence_weight=B)
    assert step.candidates.rows[0].tolist() == rows
    assert_gradients(step, toy, lambda moved: bound(moved, rows), *LEAVES)
    np.testing.assert_allclose(step.leaves.table.grad[0][rows], -B * toy.q(rows)[rows], atol=1e-12)


def test_vrags_bound_is_tight_where_q_is_the_posterior(toy: Any) -> None:
    """q = w on U when the posterior's scores are the prior's plus T times the likelihoods."""
    toy.passages = np.eye(K)
    toy.prior_query = np.linspace(1, 0, K)
    toy.posterior_query = toy.prior_query + TEMPERATURE * toy.table
    step = toy.step(name="vrag", support="union", k=K)
    assert step.loss.total.item() == pytest.approx(-toy.log_evidence(), abs=1e-12)
    assert step.leaves.posterior.grad.abs().max() < 1e-12
    toy.posterior_query[0] += 0.5
    assert toy.step(name="vrag", support="union", k=K).loss.total.item() > -toy.log_evidence()


def test_vrag_as_published_averages_over_the_posteriors_top_k(toy: Any) -> None:
    k = 3
    rows, top = union(toy, k), toy.top(k, "q")
    assert len(rows) > k
    step = toy.step(name="vrag-published", support="union", k=k, evidence_weight=B)
    assert_gradients(step, toy, lambda moved: bound(moved, rows, top), *LEAVES)
    vrag = toy.step(name="vrag", support="union", k=k, evidence_weight=B)
    assert abs(step.loss.total - vrag.loss.total) > 1e-3


# ---- one positive -----------------------------------------------------------------------------


def test_contrastive_on_the_whole_knowledge_base(toy: Any) -> None:
    toy.gold = (4, 2)
    step = toy.step(name="contrastive", support="kb")
    assert_gradients(step, toy, lambda moved: float(-np.log(moved.p()[4])), "prior_query")


def test_contrastive_in_the_batch_spares_an_examples_further_gold(toy: Any) -> None:
    objective = make_objective("contrastive", toy.settings(support="batch"))
    problem, leaves = toy.problem(4)
    gold = torch.tensor([[4, 2], [2, -1], [7, -1], [-1, -1]])
    problem = dataclasses.replace(problem, gold=gold)
    candidates = objective.candidates(problem)
    rows = [[row for row in line if row >= 0] for line in candidates.rows.tolist()]
    assert rows == [[4, 7], [2, 4, 7], [2, 4, 7], [2, 4, 7]]
    scores = objective.score(problem, candidates)
    weights = objective.weights(problem, candidates, scores)
    loss = objective.loss(problem, candidates, scores, weights)
    expected = -sum(
        np.log(toy.p(support)[gold]) for support, gold in zip(rows[:3], (4, 2, 7), strict=True)
    )
    assert loss.total.item() == pytest.approx(expected / 4)
    assert weights.diagnostics["without_positive"] == 0.25
    loss.total.backward()
    assert leaves.prior.grad[3].abs().max() == 0, "no label, nothing to learn"
    assert leaves.prior.grad[:3].abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("support", ["batch", "kb"])
def test_wrag_takes_the_judges_favourite_of_the_start_and_keeps_it(toy: Any, support: str) -> None:
    k = 3
    start = toy.top(k, "prior")
    best = start[int(np.argmax(toy.table[start]))]
    objective = make_objective("wrag", toy.settings(support=support, k=k))
    first = toy.step(objective, count=2)
    assert first.candidates.rows.tolist() == [[best], [best]]
    assert first.leaves.table.grad is None, "the judge does not learn"
    first.commit()
    # Later the likelihoods have changed and the prior, too: the label is the start's.
    toy.table[best] -= 20
    toy.prior_query = -toy.prior_query
    again = toy.step(objective, count=2, visit=1)
    assert again.candidates.rows.tolist() == [[best], [best]]
    if support == "kb":
        assert again.loss.total.item() == pytest.approx(-np.log(toy.p()[best]))


def test_wrag_asks_the_generator_once_an_example(toy: Any) -> None:
    objective = make_objective("wrag", toy.settings(support="kb", k=3))
    toy.step(objective).commit()
    problem, _ = toy.problem(2)

    asked: list[int] = []

    def counting(example: Any, row: Any) -> Any:
        asked.extend(example.tolist())
        return problem.score_responses(example, row)

    objective.candidates(dataclasses.replace(problem, score_responses=counting))
    assert asked == [1, 1, 1], "example 0 is known from its first visit"
