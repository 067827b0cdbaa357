"""A small batch of different examples, with a generator and an encoder that count their calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from jsarag.em.objectives import Objective, StepLoss, StepScores
from jsarag.em.problem import EMSettings, Problem
from jsarag.index.flat import FlatIndex
from jsarag.types import Candidates, QueryEmbeddings, ResponseLogp, Weights

PASSAGES, WIDTH = 30, 8


@dataclass
class Scorer:
    """log p(y|x,h) out of a table [B, K]; remembers what it was asked, and in which mode."""

    table: Tensor
    tokens: int = 4
    calls: list[tuple[list[tuple[int, int]], bool]] = field(default_factory=list)

    def __call__(self, example: Tensor, row: Tensor) -> ResponseLogp:
        pairs = list(zip(example.tolist(), row.tolist(), strict=True))
        self.calls.append((pairs, torch.is_grad_enabled()))
        return ResponseLogp(self.table[example, row], torch.full_like(row, self.tokens))


@dataclass
class Embedder:
    """Live passage vectors [K, D]; remembers the rows it was asked for."""

    vectors: Tensor
    calls: list[list[int]] = field(default_factory=list)

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls.append(rows.tolist())
        return self.vectors[rows]


@dataclass
class Bench:
    """A problem and the leaves behind it."""

    problem: Problem
    scorer: Scorer
    embedder: Embedder

    def replace(self, **changes: Any) -> Bench:
        return dataclasses.replace(self, problem=dataclasses.replace(self.problem, **changes))


@dataclass
class Taken:
    """What the four stations returned."""

    candidates: Candidates
    scores: StepScores
    weights: Weights
    loss: StepLoss


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def new_bench(
    count: int = 4, *, trained: bool = False, dtype: torch.dtype = torch.float32
) -> Bench:
    passages = random(PASSAGES, WIDTH, seed=1).to(dtype)
    index = FlatIndex(passages.clone())
    scorer = Scorer((random(count, PASSAGES, seed=2) - 6).to(dtype).requires_grad_())
    embedder = Embedder(passages.clone().requires_grad_(trained))
    problem = Problem(
        example_ids=[f"example-{b}" for b in range(count)],
        visits=[0] * count,
        queries=QueryEmbeddings(
            random(count, WIDTH, seed=3).to(dtype).requires_grad_(),
            random(count, WIDTH, seed=4).to(dtype).requires_grad_(),
        ),
        prior_index=index,
        posterior_index=index,
        embed_prior=embedder,
        embed_posterior=embedder,
        score_responses=scorer,
        exclude=None,
        passages_trained=trained,
    )
    return Bench(problem, scorer, embedder)


def new_settings(**changes: Any) -> EMSettings:
    values: dict[str, Any] = {
        "support": "kb",
        "estimator": "snis",
        "likelihood": "sum",
        "k": 4,
        "mis_steps": 6,
        "temperature": 1.0,
    }
    return EMSettings(**(values | changes))


def take_step(objective: Objective, problem: Problem) -> Taken:
    candidates = objective.candidates(problem)
    scores = objective.score(problem, candidates)
    weights = objective.weights(problem, candidates, scores)
    return Taken(candidates, scores, weights, objective.loss(problem, candidates, scores, weights))


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    return new_bench


@pytest.fixture
def settings() -> Callable[..., EMSettings]:
    return new_settings


@pytest.fixture
def take() -> Callable[[Objective, Problem], Taken]:
    return take_step
