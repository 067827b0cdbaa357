"""Frozen records that cross layers, with the shape of every tensor they hold.

Shape legend, used across ``ops/`` and ``em/``: B examples, K passages in the knowledge base,
C candidate slots, M draws, T tokens, D width, P (example, passage) pairs.

A *row* is a passage's position in the knowledge base (an int, the same in every index built from
it); a *slot* is a position in one example's candidate set; an *id* is the user's string.
Nothing here computes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


# Where p and q are normalised and proposals may fall: the prior's top k, both retrievers' top k,
# the positives of the batch, or the whole knowledge base.
Support = Literal["prior", "union", "batch", "kb"]
# How p(h|x,y) is estimated on it.
Estimator = Literal["mis", "mis-cached", "mis-recycled", "snis", "exact"]
# log p(y|x,h): the sum over tokens, or their mean.
Likelihood = Literal["sum", "mean"]

Start = Literal["prior", "bm25", "bm25-with-response"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of a dialogue."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable unit of the knowledge base."""

    id: str
    text: str
    title: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """One question or dialogue context with its accepted answers.

    Exactly one of ``question`` and ``history`` is set. ``answers[0]`` is the training response.
    ``gold_passages`` are ids for evaluation and supervised baselines only; no label-free objective
    reads them. ``dialogue_id`` groups rows cut from one dialogue (intervals resample whole groups).
    """

    id: str
    answers: tuple[str, ...]
    question: str | None = None
    history: tuple[Turn, ...] = ()
    gold_passages: tuple[str, ...] = ()
    exclude_passages: tuple[str, ...] = ()
    dialogue_id: str = ""

    @property
    def response(self) -> str:
        """The response the likelihood is computed on."""
        return self.answers[0]


@dataclass(frozen=True, slots=True)
class GeneratorInput:
    """What a generator reads: a rendered context, the passage(s) to ground on, and a response.

    ``response`` is the target for scoring and is ignored by decoding. More than one passage means
    passage concatenation.
    """

    context: str
    passages: tuple[Passage, ...]
    response: str = ""


@dataclass(frozen=True, slots=True)
class ResponseLogp:
    """Log-likelihood of whole responses: ``logp`` f32 [P] in nats (a sum), ``tokens`` int64 [P]."""

    logp: Tensor
    tokens: Tensor


@dataclass(frozen=True, slots=True)
class TokenLogp:
    """Per-token log-likelihood: ``logp`` f32 [P, T] (0 where padded), ``mask`` bool [P, T]."""

    logp: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class QueryEmbeddings:
    """Live query embeddings of one batch; ``posterior`` is None where an objective needs none.

    prior f32 [B, D] = e_eta(x); posterior f32 [B, D] = e_phi(x, y).
    """

    prior: Tensor
    posterior: Tensor | None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Each example's candidate passages, and the draws expressed as slots into them.

    rows int64 [B, C]: passage rows, each at most once per example, -1 pads on the right.
    proposals int64 [B, M] or None: the slot each draw fell on.
    proposal_logp f32 [B, M] or None: the log-density each draw was really drawn from.
    start int64 [B] or None: the slot of the stored chain state, -1 where there is none.
    slot_logp f32 [B, C] or None: ``proposal_logp`` by slot, defined where a draw or the start lies.
    retriever or None: the candidates' scores, where drawing already needed them.
    """

    rows: Tensor
    proposals: Tensor | None = None
    proposal_logp: Tensor | None = None
    start: Tensor | None = None
    slot_logp: Tensor | None = None
    retriever: RetrieverScores | None = None

    @property
    def mask(self) -> Tensor:
        """bool [B, C], True where a slot holds a passage."""
        return self.rows >= 0


@dataclass(frozen=True, slots=True)
class RetrieverScores:
    """Normalised log-probabilities of the candidates under both retrievers, with gradient.

    prior_logp f32 [B, C] = log p(h|x) and posterior_logp f32 [B, C] = log q(h|x,y) (or None), in
    nats, normalised over the support (the candidates for ``prior`` and ``union``, the whole
    knowledge base for ``kb``); -inf on padding.
    """

    prior_logp: Tensor
    posterior_logp: Tensor | None


@dataclass(frozen=True, slots=True)
class Weights:
    """An estimate v(h) of w(h) = p(h|x,y) on the candidate slots, detached, and its diagnostics.

    values f32 [B, C], rows sum to 1, 0 on padding.
    held int64 [B] or None: the slot a cached chain ended on.
    diagnostics: per-batch means (``acceptance_rate``, ``ess``, ...) ready for the log.
    """

    values: Tensor
    held: Tensor | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)


class ResponseScorer(Protocol):
    """Scores (example, passage) pairs of the current batch with the generator.

    Args: the example's position in the batch, int64 [P], and the passage's row, int64 [P]; rows
    int64 [P, J] join several passages in one prompt, in order, -1 pads. The result has gradient
    where the generator trains and the caller's gradient mode allows.
    """

    def __call__(self, example: Tensor, row: Tensor) -> ResponseLogp: ...


class TokenScorer(Protocol):
    """Scores pairs as :class:`ResponseScorer` does, token by token.

    Returns :class:`TokenLogp`, logp f32 [P, T] with gradient where the generator trains.
    """

    def __call__(self, example: Tensor, row: Tensor) -> TokenLogp: ...


class PassageEmbedder(Protocol):
    """Live passage embeddings f32 [n, D] of knowledge-base rows int64 [n] (gradient if trained)."""

    def __call__(self, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; ``meta`` is what the passage's row carries besides."""

    id: str
    score: float
    rank: int
    title: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)


Rows = Sequence[int]
