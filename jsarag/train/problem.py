"""From a batch of examples to the tensors and callables the objectives see.

The seam between models and mathematics: behind a :class:`~jsarag.em.problem.Problem` there are
encoders, texts and a generator; in front of it only embeddings, rows and log-probabilities. All
that a model computes with gradient is recorded on the batch's tape (``back.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jsarag import randomness
from jsarag.assemble import Parts
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.em.objectives import Objective
from jsarag.em.problem import Problem
from jsarag.index.flat import FlatIndex
from jsarag.index.rows import excluded_rows, rows_of
from jsarag.models.encoder import TextEncoder
from jsarag.models.prompts import passage_text, render_context
from jsarag.models.retrievers import PartName
from jsarag.train.back import Responses, Tape, Thinning, Tokens, Vectors
from jsarag.types import Example, GeneratorInput, QueryEmbeddings, ResponseLogp, TokenLogp

# Keys the uniforms of the pairs that are walked back through the generator.
WALKED_BACK = "em/mstep"


@dataclass(frozen=True, slots=True)
class Windows:
    """How many of a dialogue's last turns each part reads."""

    context_turns: int
    posterior_turns: int
    generator_turns: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one step and how often each was seen before (which keys its random draws).

    ``indices``: their positions in the training split.
    """

    examples: list[Example]
    visits: list[int]
    indices: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The examples' ids."""
        return [example.id for example in self.examples]


@dataclass(frozen=True, slots=True)
class WalkBack:
    """How the generator's gradient is walked back: see :class:`~jsarag.train.back.Thinning`."""

    draws: int
    cutoff: float
    seed: int


class BatchScorer:
    """log p(y | x, h) for pairs of a batch's examples and passages; a ``ResponseScorer``."""

    def __init__(
        self, parts: Parts, batch: Batch, turns: int, tape: Tape, walk_back: WalkBack
    ) -> None:
        self._generator, self._kb = parts.generator, parts.dataset.kb
        self._contexts = [render_context(example, turns) for example in batch.examples]
        self._responses = [example.response for example in batch.examples]
        self._tape, self._walk_back = tape, walk_back
        self._coins = randomness.uniforms(
            walk_back.seed, WALKED_BACK, batch.ids, batch.visits, 1
        ).flatten()

    def __call__(self, example: Tensor, row: Tensor) -> ResponseLogp:
        """Args: int64 [P] positions in the batch, int64 [P] or [P, J] passage rows, -1 pads."""
        responses = Responses(self._generator, self._inputs(example, row))
        logp = self._record(responses, example)
        return ResponseLogp(logp, responses.lengths.to(logp.device))

    def tokens(self, example: Tensor, row: Tensor) -> TokenLogp:
        """The same, token by token; a ``TokenScorer``."""
        tokens = Tokens(self._generator, self._inputs(example, row))
        logp = self._record(tokens, example)
        positions = torch.arange(logp.shape[1])
        mask = positions < tokens.lengths[:, None]
        return TokenLogp(logp, mask.to(logp.device))

    def _inputs(self, example: Tensor, row: Tensor) -> list[GeneratorInput]:
        rows = (row if row.dim() == 2 else row[:, None]).tolist()  # sync: texts live on the host
        return [
            GeneratorInput(
                self._contexts[b], tuple(self._kb[h] for h in group if h >= 0), self._responses[b]
            )
            for b, group in zip(example.tolist(), rows, strict=True)
        ]

    def _record(self, scored: Responses, example: Tensor) -> Tensor:
        walk_back = self._walk_back
        return self._tape.record(
            scored,
            trains=self._generator.is_trainable,
            thinning=Thinning(example, walk_back.draws, walk_back.cutoff, self._coins),
        )


class LiveEmbedder:
    """Passage vectors as the passage encoder gives them now; a passage is encoded once a call."""

    def __init__(self, parts: Parts, part: PartName, tape: Tape) -> None:
        self._encoder, self._kb, self._tape = parts.retrievers.parts()[part], parts.dataset.kb, tape

    def __call__(self, rows: Tensor) -> Tensor:
        """f32 [n, D] of rows int64 [n], with gradient where the encoder trains."""
        distinct, position = torch.unique(rows, return_inverse=True)
        # sync: texts live on the host
        texts = [passage_text(self._kb[row]) for row in distinct.tolist()]
        vectors = Vectors(self._encoder, texts, "passage")
        recorded = self._tape.record(vectors, trains=self._encoder.is_trainable)
        return recorded[position]


class StoredEmbedder:
    """Passage vectors out of the index: what a frozen encoder would give again."""

    def __init__(self, index: FlatIndex) -> None:
        self._index = index

    def __call__(self, rows: Tensor) -> Tensor:
        """f32 [n, D] of rows int64 [n]."""
        return self._index.vectors(rows)


def make_problem(
    parts: Parts,
    batch: Batch,
    windows: Windows,
    tape: Tape,
    walk_back: WalkBack,
    objective: Objective,
    start_rows: Tensor | None = None,
) -> Problem:
    """Encode a batch and hand it over.

    Args:
        parts: the run's models and indexes.
        batch: the examples.
        windows: turns read by each part.
        tape: records what is computed, for the way back.
        walk_back: which pairs the generator's gradient takes.
        objective: says which queries it reads, and whether it may see labels.
        start_rows: int64 [B, n] what the prior found before training, where the objective asks.
    """
    retrievers, kb = parts.retrievers, parts.dataset.kb
    scorer = BatchScorer(parts, batch, windows.generator_turns, tape, walk_back)
    trained = retrievers.passages.is_trainable

    def embedder(part: PartName, index: FlatIndex) -> LiveEmbedder | StoredEmbedder:
        return LiveEmbedder(parts, part, tape) if trained else StoredEmbedder(index)

    embed_prior = embedder("passages", parts.prior_index)
    embed_posterior = (
        embedder("posterior_passages", parts.posterior_index)
        if retrievers.has_separate_passages
        else embed_prior
    )
    return Problem(
        example_ids=batch.ids,
        visits=batch.visits,
        queries=_encode(parts, batch, windows, tape, objective),
        prior_index=parts.prior_index,
        posterior_index=parts.posterior_index,
        embed_prior=embed_prior,
        embed_posterior=embed_posterior,
        score_responses=scorer,
        score_tokens=scorer.tokens,
        exclude=excluded_rows(kb, batch.examples, parts.device),
        passages_trained=trained,
        gold=gold_rows(kb, batch.examples, parts.device) if objective.needs_gold else None,
        start_rows=start_rows,
    )


def _encode(
    parts: Parts,
    batch: Batch,
    windows: Windows,
    tape: Tape,
    objective: Objective,
) -> QueryEmbeddings:
    """The queries the objective reads; where it reads none of the prior's, NaN that would show."""
    retrievers, examples = parts.retrievers, batch.examples

    def encode(encoder: TextEncoder, texts: list[str]) -> Tensor:
        trains = encoder.is_trainable
        return tape.record(Vectors(encoder, texts, "query"), trains=trains)

    if objective.needs_prior:
        contexts = [render_context(example, windows.context_turns) for example in examples]
        prior = encode(retrievers.prior, contexts)
    else:
        prior = torch.full((len(examples), retrievers.prior.width), torch.nan, device=parts.device)
    posterior = None
    if objective.needs_posterior:
        assert retrievers.posterior is not None
        texts = retrievers.posterior_texts(examples, windows.posterior_turns)
        posterior = encode(retrievers.posterior, texts)
    return QueryEmbeddings(prior, posterior)


def gold_rows(kb: KnowledgeBase, examples: Sequence[Example], device: torch.device) -> Tensor:
    """Rows int64 [B, G] labelled as right, G at least 1, -1 pads."""
    rows = rows_of(kb, [example.gold_passages for example in examples], device)
    return rows if rows.shape[1] else rows.new_full((len(examples), 1), -1)
