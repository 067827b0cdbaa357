"""Silver labels: what the posterior retriever found for the training examples, with its weights.

The posterior read the response, so its passages are better labels than the prior's; the prior's
other finds are hard negatives. How they are written down is ``silver_formats``'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jsarag.export.request import Request, TrainedRun
from jsarag.index.flat import FlatIndex
from jsarag.index.rows import excluded_rows
from jsarag.models.prompts import render_context
from jsarag.types import Example, Passage

SPLIT = "train"
_BATCH = 32

Progress = Callable[[int, int], None]
"""Called with (done, total) examples."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A passage and q(h|x,y), normalised over the posterior's k best."""

    passage: Passage
    weight: float


@dataclass(frozen=True, slots=True)
class Label:
    """One example's silver labels.

    Attributes:
        id: the example's.
        context: as the prior retriever reads it.
        answers: the accepted ones.
        found: the posterior's passages, best first; their weights sum to 1.
        positives: how many of them, from the first, count as positive.
        negatives: what the prior finds and the posterior does not.
    """

    id: str
    context: str
    answers: tuple[str, ...]
    found: tuple[Weighted, ...]
    positives: int
    negatives: tuple[Passage, ...]

    @property
    def positive(self) -> tuple[Weighted, ...]:
        """The passages that count as right."""
        return self.found[: self.positives]


@dataclass(slots=True)
class Count:
    """What became of the examples."""

    examples: int = 0
    labelled: int = 0
    positives: int = 0
    without_negative: int = 0
    without_response: int = 0
    without_passage: int = 0

    def notes(self) -> tuple[str, ...]:
        """What was left out, and why."""
        said = (
            (self.without_response, "have no response for the posterior to read, left out"),
            (self.without_passage, "exclude every passage, left out"),
            (self.without_negative, "have no negative: the posterior finds all the prior does"),
        )
        return tuple(f"{n:,} of {self.examples:,} examples {why}" for n, why in said if n)


def silver_labels(
    run: TrainedRun, request: Request, count: Count, progress: Progress | None = None
) -> Iterator[Label]:
    """The labels of the training split, in order.

    Args:
        run: with a posterior.
        request: k, min_weight and negatives.
        count: told what was found and what was left out.
        progress: told about examples done.
    """
    examples = run.parts.dataset.splits[SPLIT]
    count.examples = len(examples)
    for start in range(0, len(examples), _BATCH):
        batch = [item for item in examples[start : start + _BATCH] if item.response.strip()]
        done = min(start + _BATCH, len(examples))
        count.without_response += done - start - len(batch)
        for label in _labels(run, request, batch):
            if not label.found:
                count.without_passage += 1
                continue
            count.labelled += 1
            count.positives += label.positives
            count.without_negative += not label.negatives
            yield label
        if progress is not None:
            progress(done, len(examples))


@torch.no_grad()
def _labels(run: TrainedRun, request: Request, batch: Sequence[Example]) -> list[Label]:
    if not batch:
        return []
    parts, data = run.parts, run.config.data
    retrievers = parts.retrievers
    queries = retrievers.encode_posterior(batch, data.posterior_turns)
    found = _search(run, parts.posterior_index, queries, batch, request.k)
    # As many more as could be the posterior's own.
    depth = request.k + request.negatives
    contexts = retrievers.encode_contexts(batch, data.context_turns)
    guesses = _search(run, parts.prior_index, contexts, batch, depth)
    kb = parts.dataset.kb
    labels = []
    for example, (rows, scores), (others, _) in zip(batch, found, guesses, strict=True):
        weights = (scores.double() / retrievers.temperature).softmax(dim=0).tolist()
        positives = max(1, sum(weight >= request.min_weight for weight in weights))
        own = set(rows)
        negatives = [row for row in others if row not in own][: request.negatives]
        labels.append(
            Label(
                example.id,
                render_context(example, data.context_turns),
                example.answers,
                tuple(Weighted(kb[row], one) for row, one in zip(rows, weights, strict=True)),
                min(positives, len(rows)),
                tuple(kb[row] for row in negatives),
            )
        )
    return labels


def _search(
    run: TrainedRun, index: FlatIndex, queries: Tensor, batch: Sequence[Example], k: int
) -> list[tuple[list[int], Tensor]]:
    """Rows and scores [n] of each query's best passages, the excluded ones left out."""
    exclude = excluded_rows(run.parts.dataset.kb, batch, queries.device)
    found = index.search(queries, k, exclude)
    pairs = zip(found.ids.cpu(), found.scores.cpu(), strict=True)
    return [(ids[ids >= 0].tolist(), scores[ids >= 0]) for ids, scores in pairs]
