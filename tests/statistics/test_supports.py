"""Candidate sets and draws over the whole knowledge base: exactly what they claim to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jsarag import ops
from jsarag.em.chains import ChainStore
from jsarag.em.objectives import make_objective
from jsarag.em.problem import EMSettings, Problem
from jsarag.em.proposals import propose
from jsarag.em.scoring import retriever_scores
from jsarag.em.support import union_rows
from jsarag.index.flat import FlatIndex
from jsarag.randomness import generator
from jsarag.types import QueryEmbeddings, ResponseLogp

pytestmark = pytest.mark.statistics


def mixed_problem(
    count: int, passages: int, *, seed: int = 1, exclude: bool = False
) -> tuple[Problem, np.ndarray, Tensor]:
    """A batch of different examples; returns it, its passage vectors and the response table."""
    numbers = generator(seed, "mixed", count, passages)
    vectors = numbers.normal(size=(passages, 5))
    table = torch.tensor(numbers.normal(size=(count, passages)))
    index = FlatIndex(torch.tensor(vectors))
    excluded = torch.tensor(numbers.integers(-1, passages, size=(count, 3))) if exclude else None
    problem = Problem(
        example_ids=[f"x{b}" for b in range(count)],
        visits=[b % 3 for b in range(count)],
        queries=QueryEmbeddings(
            torch.tensor(numbers.normal(size=(count, 5))),
            torch.tensor(numbers.normal(size=(count, 5))),
        ),
        prior_index=index,
        posterior_index=index,
        embed_prior=index.vectors,
        embed_posterior=index.vectors,
        score_responses=lambda example, row: ResponseLogp(table[example, row], example * 0 + 1),
        exclude=excluded,
        passages_trained=False,
    )
    return problem, vectors, table


def one_of(problem: Problem, table: Tensor, b: int) -> Problem:
    """Example b as a batch of its own."""
    assert problem.queries.posterior is not None
    return dataclasses.replace(
        problem,
        example_ids=problem.example_ids[b : b + 1],
        visits=problem.visits[b : b + 1],
        queries=QueryEmbeddings(
            problem.queries.prior[b : b + 1], problem.queries.posterior[b : b + 1]
        ),
        score_responses=lambda example, row: ResponseLogp(table[b][row], example * 0 + 1),
        exclude=None if problem.exclude is None else problem.exclude[b : b + 1],
    )


def settings(**changes: object) -> EMSettings:
    values: dict[str, object] = {
        "support": "union",
        "estimator": "mis-cached",
        "likelihood": "sum",
        "k": 4,
        "mis_steps": 6,
        "temperature": 0.8,
    }
    return EMSettings(**(values | changes))  # type: ignore[arg-type]


def top(scores: np.ndarray, k: int, banned: set[int]) -> set[int]:
    ordered = [int(row) for row in np.argsort(-scores, kind="stable") if int(row) not in banned]
    return set(ordered[:k])


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_9_union_is_the_set_union_each_passage_once(exclude: bool, stored: bool) -> None:
    count, passages, k = 40, 20, 4
    problem, vectors, _ = mixed_problem(count, passages, exclude=exclude)
    starts = torch.tensor(generator(2, "starts").integers(-1, passages, size=count))
    if problem.exclude is not None:
        starts = starts.masked_fill((starts[:, None] == problem.exclude).any(1), -1)
    rows = union_rows(problem, settings(k=k), starts if stored else None)
    assert problem.queries.posterior is not None
    sizes = []
    for b in range(count):
        banned = set() if problem.exclude is None else set(problem.exclude[b].tolist())
        expected = top(vectors @ problem.queries.prior[b].numpy(), k, banned)
        expected |= top(vectors @ problem.queries.posterior[b].numpy(), k, banned)
        if stored and starts[b] >= 0:
            expected.add(int(starts[b]))
        found = [row for row in rows[b].tolist() if row >= 0]
        assert len(found) == len(set(found))
        assert set(found) == expected
        assert k <= len(found) <= 2 * k + 1
        # Padding lies on the right.
        assert rows[b].tolist() == found + [-1] * (rows.shape[1] - len(found))
        sizes.append(len(found))
    assert len(set(sizes)) > 2  # a batch that needs padding


def test_9_order_is_irrelevant() -> None:
    """Swapping who found what, or renumbering all passages, changes nothing but the numbers."""
    problem, vectors, table = mixed_problem(12, 20)
    assert problem.queries.posterior is not None
    swapped = dataclasses.replace(
        problem, queries=QueryEmbeddings(problem.queries.posterior, problem.queries.prior)
    )
    rows = union_rows(problem, settings())
    assert union_rows(swapped, settings()).tolist() == rows.tolist()

    renumbered = torch.tensor(generator(3, "renumber").permutation(20))
    index = FlatIndex(torch.empty(20, 5, dtype=torch.float64))
    index.embeddings[renumbered] = torch.tensor(vectors)
    old_row = renumbered.argsort()
    other = dataclasses.replace(
        problem,
        prior_index=index,
        posterior_index=index,
        score_responses=lambda example, row: ResponseLogp(table[example, old_row[row]], example),
    )
    exact = settings(estimator="exact")
    for b, (mine, theirs) in enumerate(
        zip(values_by_row(problem, exact, 20), values_by_row(other, exact, 20), strict=True)
    ):
        np.testing.assert_allclose(mine, theirs[renumbered.numpy()], atol=1e-12, err_msg=str(b))


def values_by_row(problem: Problem, chosen: EMSettings, passages: int) -> np.ndarray:
    objective = make_objective("jsa", chosen)
    candidates = objective.candidates(problem)
    weights = objective.weights(problem, candidates, objective.score(problem, candidates))
    full = torch.zeros(len(candidates.rows), passages, dtype=torch.float64)
    full.scatter_add_(1, candidates.rows.clamp(min=0), weights.values * candidates.mask)
    return full.numpy()


@pytest.mark.parametrize("support", ["prior", "union", "kb"])
@pytest.mark.parametrize("estimator", ["mis", "mis-cached", "mis-recycled", "snis", "exact"])
def test_9_any_batch_size(support: str, estimator: str) -> None:
    """Draws, weights, losses and stored states of an example do not depend on its batch."""
    count, passages = 9, 20
    problem, _, table = mixed_problem(count, passages, exclude=True)
    chosen = settings(support=support, estimator=estimator)
    starts = torch.tensor(generator(4, "starts").integers(-1, passages, size=count))

    def run(part: Problem, ids: slice) -> tuple[np.ndarray, float, Tensor]:
        chains = ChainStore()
        chains.put(problem.example_ids, starts)
        objective = make_objective("jsa", chosen, chains)
        candidates = objective.candidates(part)
        scores = objective.score(part, candidates)
        weights = objective.weights(part, candidates, scores)
        loss = objective.loss(part, candidates, scores, weights)
        objective.commit(part, candidates, weights)
        full = torch.zeros(len(candidates.rows), passages, dtype=torch.float64)
        full.scatter_add_(1, candidates.rows.clamp(min=0), weights.values * candidates.mask)
        return full.numpy(), loss.total.item(), chains.get(problem.example_ids[ids])

    whole, loss, held = run(problem, slice(None))
    singles = [run(one_of(problem, table, b), slice(b, b + 1)) for b in range(count)]
    np.testing.assert_allclose(whole, np.concatenate([part[0] for part in singles]), atol=1e-12)
    assert loss == pytest.approx(np.mean([part[1] for part in singles]), abs=1e-12)
    assert held.tolist() == [int(part[2][0]) for part in singles]
    if estimator == "mis-cached" and support != "prior":
        assert held.tolist() != starts.tolist()


def test_9_both_softmaxes_are_over_the_union() -> None:
    problem, vectors, _ = mixed_problem(10, 20)
    chosen = settings(estimator="exact")
    rows = union_rows(problem, chosen)
    scores = retriever_scores(problem, chosen, rows)
    assert scores.posterior_logp is not None
    for logp, queries in (
        (scores.prior_logp, problem.queries.prior),
        (scores.posterior_logp, problem.queries.posterior),
    ):
        assert queries is not None
        for b in range(10):
            members = rows[b][rows[b] >= 0].numpy()
            weights = np.exp(vectors[members] @ queries[b].numpy() / chosen.temperature)
            expected = np.log(weights / weights.sum())
            np.testing.assert_allclose(logp[b, : len(members)], expected, atol=1e-12)
            assert (logp[b, len(members) :] == -torch.inf).all()


# ---- item 11 --------------------------------------------------------------------------------


def chi_square_z(counts: np.ndarray, probability: np.ndarray) -> float:
    """(X² - df) / sqrt(2 df), classes of expectation below 10 merged into one."""
    expected = probability * counts.sum()
    small = expected < 10
    observed = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    keep = expected > 0
    statistic = ((observed[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    freedom = keep.sum() - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


@pytest.mark.usefixtures("bulk_uniforms")
@pytest.mark.parametrize(("passages", "exclude"), [(20, ()), (20, (0, 7)), (1300, (600,))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_11_draws_follow_the_softmax_over_all_passages(
    make_toy: Callable[..., Any], passages: int, exclude: tuple[int, ...], dtype: torch.dtype
) -> None:
    """20 passages, and 1,300 across three tiles; excluded ones never appear."""
    assert passages < ops.TILE or passages > 2 * ops.TILE
    toy = make_toy(passages, width=6, seed=7)
    toy.exclude, toy.temperature = exclude, 1.3
    problem, _ = toy.problem(2500)
    assert problem.queries.posterior is not None
    index = FlatIndex(torch.tensor(toy.passages, dtype=dtype))
    queries = QueryEmbeddings(
        problem.queries.prior.detach().to(dtype), problem.queries.posterior.detach().to(dtype)
    )
    problem = dataclasses.replace(
        problem, prior_index=index, posterior_index=index, queries=queries
    )
    candidates = propose(problem, toy.settings(estimator="snis", mis_steps=24))
    assert candidates.proposals is not None
    assert candidates.proposal_logp is not None
    rows = candidates.rows.gather(1, candidates.proposals).numpy().ravel()
    counts = np.bincount(rows, minlength=passages)
    q = toy.q()
    assert counts.sum() == 2500 * 24
    assert abs(chi_square_z(counts, q)) < 4
    assert (counts[list(exclude)] == 0).all()
    # The reported log-density is that of the passage drawn.
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(
        candidates.proposal_logp.numpy().ravel(), np.log(q[rows]), atol=tolerance
    )
    # Power: the prior instead of the posterior, or a wrong temperature, is rejected.
    assert chi_square_z(counts, toy.p()) > 100
    toy.temperature *= 1.15
    assert chi_square_z(counts, toy.q()) > 10


@pytest.mark.parametrize("passages", [20, 1300])
def test_11_log_partition_against_float64(passages: int) -> None:
    problem, vectors, _ = mixed_problem(16, passages, exclude=True)
    single = FlatIndex(torch.tensor(vectors, dtype=torch.float32))
    assert problem.queries.posterior is not None
    fast = dataclasses.replace(
        problem,
        prior_index=single,
        posterior_index=single,
        queries=QueryEmbeddings(problem.queries.prior.float(), problem.queries.posterior.float()),
    )
    chosen = settings(support="kb", estimator="exact", temperature=0.5)
    rows = union_rows(problem, chosen)
    exact, found = (retriever_scores(part, chosen, rows) for part in (problem, fast))
    assert problem.exclude is not None
    for queries, true, close in (
        (problem.queries.prior, exact.prior_logp, found.prior_logp),
        (problem.queries.posterior, exact.posterior_logp, found.posterior_logp),
    ):
        assert true is not None
        assert close is not None
        for b in range(16):
            scores = vectors @ queries[b].numpy() / 0.5
            kept = np.delete(scores, problem.exclude[b][problem.exclude[b] >= 0].unique())
            partition = np.log(np.exp(kept).sum())
            members = rows[b][rows[b] >= 0].numpy()
            np.testing.assert_allclose(
                true[b, : len(members)], scores[members] - partition, atol=1e-12
            )
            np.testing.assert_allclose(
                close[b, : len(members)], scores[members] - partition, atol=3e-5
            )
