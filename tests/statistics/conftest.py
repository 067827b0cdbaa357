"""An enumerable problem with its closed forms, written in numpy and apart from the package.

A toy has K passages, so every expectation is a sum over them. Replicates of its one example fill a
batch: row b is an independent repetition, with leaves of its own for the gradient to land on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from jsarag.em.objectives import Objective, StepLoss, StepScores, make_objective
from jsarag.em.problem import EMSettings, Problem
from jsarag.index.flat import FlatIndex
from jsarag.randomness import generator
from jsarag.types import Candidates, QueryEmbeddings, ResponseLogp, TokenLogp, Weights

torch.set_num_threads(1)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Plain exp and sum over the last axis; -inf is no member."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@dataclass
class Leaves:
    """All a gradient can reach: queries [B, D] and table [B, K] per replicate, passages [K, D]."""

    prior: Tensor
    posterior: Tensor
    table: Tensor
    passages: Tensor
    posterior_passages: Tensor


@dataclass
class Step:
    """One pass through an objective's stations, and the problem it was made on."""

    objective: Objective
    problem: Problem
    leaves: Leaves
    candidates: Candidates
    scores: StepScores
    weights: Weights
    loss: StepLoss

    def values_by_row(self, passages: int) -> np.ndarray:
        """v(h) [B, K] by passage row."""
        rows = self.candidates.rows
        full = torch.zeros(len(rows), passages, dtype=torch.float64)
        full.scatter_add_(1, rows.clamp(min=0), self.weights.values * (rows >= 0))
        return full.numpy()

    def commit(self) -> None:
        self.objective.commit(self.problem, self.candidates, self.weights)


@dataclass
class Toy:
    """K passages of width D, one (x, y), and all that follows from them in closed form."""

    passages: np.ndarray
    prior_query: np.ndarray
    posterior_query: np.ndarray
    table: np.ndarray
    temperature: float = 1.0
    posterior_passages: np.ndarray | None = None
    exclude: tuple[int, ...] = ()
    tokens: np.ndarray = field(default_factory=lambda: np.array([]))
    gold: tuple[int, ...] = (1,)

    @property
    def count(self) -> int:
        return len(self.passages)

    @property
    def token_share(self) -> np.ndarray:
        """How a response's log-likelihood falls on its three tokens, [K, 3]; rows sum to 1."""
        return softmax(np.sin(np.arange(3 * self.count)).reshape(self.count, 3))

    def joined(self, rows: Sequence[int]) -> float:
        """The toy's log p(y | x, rows joined): the order matters."""
        return float(sum(self.table[row] / (place + 1) for place, row in enumerate(rows)))

    # ---- closed forms --------------------------------------------------------------------

    def members(self, support: Sequence[int] | None) -> np.ndarray:
        member = np.zeros(self.count, dtype=bool)
        member[list(range(self.count) if support is None else support)] = True
        member[list(self.exclude)] = False
        return member

    def p(self, support: Sequence[int] | None = None) -> np.ndarray:
        scores = self.passages @ self.prior_query / self.temperature
        return softmax(np.where(self.members(support), scores, -np.inf))

    def q(self, support: Sequence[int] | None = None) -> np.ndarray:
        passages = self.passages if self.posterior_passages is None else self.posterior_passages
        scores = passages @ self.posterior_query / self.temperature
        return softmax(np.where(self.members(support), scores, -np.inf))

    def w(self, support: Sequence[int] | None = None) -> np.ndarray:
        joint = self.p(support) * np.exp(self.table)
        return joint / joint.sum()

    def log_evidence(self, support: Sequence[int] | None = None) -> float:
        return float(np.log((self.p(support) * np.exp(self.table)).sum()))

    def transition(self, support: Sequence[int] | None = None) -> np.ndarray:
        """P[i, j] of Metropolis independence sampling, on the support's states."""
        keep = self.members(support)
        q, w = self.q(support)[keep], self.w(support)[keep]
        ratio = w / q
        accept = np.minimum(1, ratio[None, :] / ratio[:, None])
        moves = q[None, :] * accept
        np.fill_diagonal(moves, 0)
        inner = moves + np.diag(1 - moves.sum(axis=1))
        full = np.eye(self.count)
        full[np.ix_(keep, keep)] = inner
        return full

    def top(self, k: int, of: str) -> list[int]:
        density = self.p() if of == "prior" else self.q()
        return [int(row) for row in np.argsort(-density, kind="stable")[:k] if density[row] > 0]

    # ---- the package's view --------------------------------------------------------------

    def problem(
        self,
        count: int = 1,
        *,
        visit: int = 0,
        trained: bool = False,
        first_id: int = 0,
        index_passages: np.ndarray | None = None,
    ) -> tuple[Problem, Leaves]:
        """``count`` replicates; ``index_passages`` are stale vectors where they are to differ."""

        def leaf(values: np.ndarray, repeat: bool) -> Tensor:
            tensor = torch.tensor(values, dtype=torch.float64)
            return (tensor.repeat(count, 1) if repeat else tensor).requires_grad_()

        shared = self.posterior_passages is None
        leaves = Leaves(
            prior=leaf(self.prior_query, True),
            posterior=leaf(self.posterior_query, True),
            table=leaf(self.table, True),
            passages=leaf(self.passages, False),
            posterior_passages=leaf(
                self.passages if self.posterior_passages is None else self.posterior_passages, False
            ),
        )
        stored = self.passages if index_passages is None else index_passages
        prior_index = FlatIndex(torch.tensor(stored, dtype=torch.float64))
        posterior_index = (
            prior_index if shared else FlatIndex(leaves.posterior_passages.detach().clone())
        )
        tokens = torch.tensor(self.tokens) if len(self.tokens) else torch.ones(self.count)

        def score(example: Tensor, row: Tensor) -> ResponseLogp:
            if row.dim() == 1:
                return ResponseLogp(leaves.table[example, row], tokens[row].long())
            order = torch.arange(row.shape[1]) + 1
            each = leaves.table[example[:, None], row.clamp(min=0)] * (row >= 0) / order
            return ResponseLogp(each.sum(dim=1), tokens[row[:, 0]].long())

        def score_tokens(example: Tensor, row: Tensor) -> TokenLogp:
            share = torch.tensor(self.token_share)[row]
            logp = leaves.table[example, row][:, None] * share
            return TokenLogp(logp, torch.ones_like(logp, dtype=torch.bool))

        live = leaves.passages if shared else leaves.posterior_passages
        problem = Problem(
            example_ids=[f"e{first_id + number}" for number in range(count)],
            visits=[visit] * count,
            queries=QueryEmbeddings(leaves.prior, leaves.posterior),
            prior_index=prior_index,
            posterior_index=posterior_index,
            embed_prior=lambda rows: leaves.passages[rows],
            embed_posterior=lambda rows: live[rows],
            score_responses=score,
            exclude=torch.tensor([self.exclude] * count) if self.exclude else None,
            passages_trained=trained,
            score_tokens=score_tokens,
            gold=torch.tensor([self.gold] * count),
            start_rows=torch.tensor([self.top(self.count, "prior")] * count),
        )
        return problem, leaves

    def settings(self, **changes: object) -> EMSettings:
        values: dict[str, object] = {
            "support": "kb",
            "estimator": "exact",
            "likelihood": "sum",
            "k": self.count,
            "mis_steps": 4,
            "temperature": self.temperature,
        }
        return EMSettings(**(values | changes))  # type: ignore[arg-type]

    def step(
        self,
        objective: Objective | None = None,
        count: int = 1,
        *,
        name: str = "jsa",
        visit: int = 0,
        trained: bool = False,
        index_passages: np.ndarray | None = None,
        **settings: object,
    ) -> Step:
        """All four stations and the backward pass."""
        objective = objective or make_objective(name, self.settings(**settings))
        problem, leaves = self.problem(
            count, visit=visit, trained=trained, index_passages=index_passages
        )
        candidates = objective.candidates(problem)
        scores = objective.score(problem, candidates)
        weights = objective.weights(problem, candidates, scores)
        loss = objective.loss(problem, candidates, scores, weights)
        loss.total.backward()
        return Step(objective, problem, leaves, candidates, scores, weights, loss)


def new_toy(passages: int = 6, width: int = 4, seed: int = 21) -> Toy:
    """A toy whose p, q and w are all different, and none close to uniform.

    At the default seed max(w/q) is 2.9 over all six passages and 2.4 over the prior's best four, so
    chains mix; TV(q, w) is 0.33.
    """
    numbers = generator(seed, "toy", passages, width)
    vectors, prior = numbers.normal(size=(passages, width)), numbers.normal(size=width)
    return Toy(
        passages=vectors,
        prior_query=prior,
        posterior_query=(numbers.normal(size=width) + prior) / 2,
        table=numbers.normal(size=passages) - 5,
    )


@pytest.fixture
def make_toy() -> Callable[..., Toy]:
    return new_toy


@pytest.fixture
def toy() -> Toy:
    return new_toy()


@pytest.fixture
def bulk_uniforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniforms of a whole batch from one keyed stream: thousands of replicates in no time.

    That the real ones depend on nothing but (seed, purpose, id, visit) is tested elsewhere.
    """

    def bulk(seed: int, purpose: str, ids: Sequence[str], visits: Sequence[int], n: int) -> Tensor:
        stream = generator(seed, purpose, ids[0], visits[0], n)
        return torch.from_numpy(stream.random((len(ids), n)))

    monkeypatch.setattr("jsarag.em.proposals.uniforms", bulk)
