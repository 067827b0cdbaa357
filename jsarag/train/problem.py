"""From a batch of examples to the tensors and callables the objectives see.

The seam between models and mathematics: behind a :class:`~jsarag.em.problem.Problem` there are
encoders, texts and a generator; in front of it only embeddings, rows and log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jsarag.assemble import Parts
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.em.problem import Problem
from jsarag.index.flat import FlatIndex
from jsarag.models.generator import Generator
from jsarag.models.prompts import render_context
from jsarag.models.retrievers import PartName
from jsarag.types import Example, GeneratorInput, QueryEmbeddings, ResponseLogp


@dataclass(frozen=True, slots=True)
class Windows:
    """How many of a dialogue's last turns each part reads."""

    context_turns: int
    posterior_turns: int
    generator_turns: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one step and how often each was seen before (which keys its random draws)."""

    examples: list[Example]
    visits: list[int]

    @property
    def ids(self) -> list[str]:
        """The examples' ids."""
        return [example.id for example in self.examples]


class BatchScorer:
    """log p(y | x, h) for pairs of a batch's examples and passages; a ``ResponseScorer``."""

    def __init__(
        self, generator: Generator, kb: KnowledgeBase, examples: Sequence[Example], turns: int
    ) -> None:
        self._generator, self._kb = generator, kb
        self._contexts = [render_context(example, turns) for example in examples]
        self._responses = [example.response for example in examples]

    def __call__(self, example: Tensor, row: Tensor) -> ResponseLogp:
        """Args are int64 [P]: positions in the batch and passage rows."""
        pairs = zip(example.tolist(), row.tolist(), strict=True)  # sync: texts live on the host
        return self._generator.response_logp(
            [
                GeneratorInput(self._contexts[b], (self._kb[h],), self._responses[b])
                for b, h in pairs
            ]
        )


class LiveEmbedder:
    """Passage vectors as the passage encoder gives them now; a passage is encoded once a call."""

    def __init__(self, parts: Parts, part: PartName) -> None:
        self._retrievers, self._kb, self._part = parts.retrievers, parts.dataset.kb, part

    def __call__(self, rows: Tensor) -> Tensor:
        """f32 [n, D] of rows int64 [n], with gradient where the encoder trains."""
        distinct, position = torch.unique(rows, return_inverse=True)
        passages = [self._kb[row] for row in distinct.tolist()]  # sync: texts live on the host
        return self._retrievers.encode_passages(passages, part=self._part)[position]


class StoredEmbedder:
    """Passage vectors out of the index: what a frozen encoder would give again."""

    def __init__(self, index: FlatIndex) -> None:
        self._index = index

    def __call__(self, rows: Tensor) -> Tensor:
        """f32 [n, D] of rows int64 [n]."""
        return self._index.vectors(rows)


def make_problem(parts: Parts, batch: Batch, windows: Windows, *, posterior: bool) -> Problem:
    """Encode a batch and hand it over.

    Args:
        parts: the run's models and indexes.
        batch: the examples.
        windows: turns read by each part.
        posterior: whether the objective has a posterior.
    """
    retrievers = parts.retrievers
    prior = retrievers.encode_contexts(batch.examples, windows.context_turns)
    encoded = (
        retrievers.encode_posterior(batch.examples, windows.posterior_turns) if posterior else None
    )
    trained = retrievers.passages.is_trainable
    embed_prior = LiveEmbedder(parts, "passages") if trained else StoredEmbedder(parts.prior_index)
    embed_posterior: LiveEmbedder | StoredEmbedder = embed_prior
    if retrievers.has_separate_passages:
        embed_posterior = (
            LiveEmbedder(parts, "posterior_passages")
            if trained
            else StoredEmbedder(parts.posterior_index)
        )
    return Problem(
        example_ids=batch.ids,
        visits=batch.visits,
        queries=QueryEmbeddings(prior, encoded),
        prior_index=parts.prior_index,
        posterior_index=parts.posterior_index,
        embed_prior=embed_prior,
        embed_posterior=embed_posterior,
        score_responses=BatchScorer(
            parts.generator, parts.dataset.kb, batch.examples, windows.generator_turns
        ),
        exclude=excluded_rows(parts.dataset.kb, batch.examples, parts.device),
        passages_trained=trained,
        generator_trained=parts.generator.is_trainable,
    )


def excluded_rows(
    kb: KnowledgeBase, examples: Sequence[Example], device: torch.device
) -> Tensor | None:
    """Rows int64 [B, E] that each example must not retrieve, -1 pads; None where there are none."""
    excluded = [[kb.row_of(id) for id in example.exclude_passages] for example in examples]
    width = max(map(len, excluded), default=0)
    if width == 0:
        return None
    padded = [rows + [-1] * (width - len(rows)) for rows in excluded]
    return torch.tensor(padded, dtype=torch.int64, device=device)
