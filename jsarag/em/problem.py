"""What one E- and M-step reads: the settings of the method and one batch as tensors and callables.

Nothing here computes. Encoders, generator, texts and files stay with whoever builds a
:class:`Problem`; here they are a few callables and an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args

from jsarag.errors import ConfigError, ShapeError
from jsarag.types import (
    Estimator,
    Likelihood,
    PassageEmbedder,
    QueryEmbeddings,
    ResponseScorer,
    Support,
    TokenScorer,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class EMSettings:
    """The two axes of the method (support and estimator) and its numbers.

    support: where p and q are normalised and proposals may fall.
    estimator: how w(h) = p(h|x,y) is estimated on it.
    likelihood: log p(y|x,h) as the sum over tokens (the true one) or their mean.
    k: passages taken from each retriever.
    mis_steps: M, draws per example.
    temperature: T of both retrievers' softmax.
    evidence_weight: factor on log p(y|x,h) in the weights; 0 turns the evidence off.
    detach_posterior_from_passages: log q gives no gradient to a passage encoder both share.
    seed: of the run; draws are keyed by (seed, purpose, example id, visit).

    Raises:
        ConfigError: a value outside its range.
    """

    support: Support
    estimator: Estimator
    likelihood: Likelihood
    k: int
    mis_steps: int
    temperature: float
    evidence_weight: float = 1.0
    detach_posterior_from_passages: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        _require_one_of("support", self.support, get_args(Support))
        _require_one_of("estimator", self.estimator, get_args(Estimator))
        _require_one_of("likelihood", self.likelihood, get_args(Likelihood))
        _require("k", self.k, self.k >= 1, "at least 1")
        _require("mis_steps", self.mis_steps, self.mis_steps >= 1, "at least 1")
        _require("temperature", self.temperature, self.temperature > 0, "more than 0")
        _require("evidence_weight", self.evidence_weight, self.evidence_weight >= 0, "at least 0")

    @property
    def inv_temperature(self) -> float:
        """1 / T, the factor on inner products."""
        return 1.0 / self.temperature


class Scan(Protocol):
    """One pass over an index: the k best rows, and the log-sum-exp of every tile on request."""

    @property
    def ids(self) -> Tensor:
        """int64 [B, k], -1 pads."""

    @property
    def scores(self) -> Tensor:
        """f32 [B, k], inner products; -inf on padding."""

    @property
    def tile_lse(self) -> Tensor | None:
        """f32 [B, tiles]."""

    @property
    def generation(self) -> int:
        """The index generation the pass was made on."""


class Draws(Protocol):
    """Draws from the softmax over a whole index."""

    @property
    def ids(self) -> Tensor:
        """int64 [B, M]."""

    @property
    def logp(self) -> Tensor:
        """f32 [B, M], the log-density of each draw."""


class PassageIndex(Protocol):
    """The part of ``index.FlatIndex`` the method uses; see there."""

    @property
    def generation(self) -> int:
        """Counts rebuilds."""

    def __len__(self) -> int:
        """K."""

    def scan(
        self,
        queries: Tensor,
        k: int,
        inv_temperature: float,
        tile_lse: bool = True,
        exclude: Tensor | None = None,
    ) -> Scan:
        """The k best rows of each query, and the tiles' log-sum-exp."""

    def draw(
        self,
        queries: Tensor,
        inv_temperature: float,
        tile_lse: Tensor,
        uniforms: Tensor,
        exclude: Tensor | None = None,
        *,
        generation: int | None = None,
    ) -> Draws:
        """Exact draws from the softmax over all rows."""

    def log_partition(
        self, queries: Tensor, inv_temperature: float, exclude: Tensor | None = None
    ) -> Tensor:
        """log sum exp(score / T) over all rows, [B], differentiable in the queries."""

    def vectors(self, rows: Tensor) -> Tensor:
        """Stored embeddings f32 [n, D] of rows int64 [n]."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One batch, as the method sees it.

    example_ids, visits: [B], which example and how many times it was seen before; key the draws.
    queries: live embeddings of the batch; NaN for a retriever the objective does not read.
    prior_index, posterior_index: the same object where both retrievers share one passage encoder;
        the posterior's is None for an objective without a posterior.
    embed_prior, embed_posterior: live passage embeddings; called only if ``passages_trained``.
    score_responses: log p(y|x,h) of pairs, with gradient where the generator trains.
    exclude: int64 [B, E] rows each example may not use, -1 pads; or None.
    passages_trained: whether the passage encoder takes gradient; if not, the index's vectors are
        the live ones and nothing is re-encoded.
    score_tokens: the same as ``score_responses``, token by token.
    gold: int64 [B, G] the passages labelled as right, -1 pads; None unless the objective says that
        it reads labels (``needs_gold``).
    start_rows: int64 [B, n] what was found before training, best first, -1 pads; None unless
        the objective asks for it (``needs_start``).
    """

    example_ids: Sequence[str]
    visits: Sequence[int]
    queries: QueryEmbeddings
    prior_index: PassageIndex
    posterior_index: PassageIndex | None
    embed_prior: PassageEmbedder
    embed_posterior: PassageEmbedder | None
    score_responses: ResponseScorer
    exclude: Tensor | None
    passages_trained: bool
    score_tokens: TokenScorer | None = None
    gold: Tensor | None = None
    start_rows: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.queries.prior)
        sizes = {
            "example_ids": len(self.example_ids),
            "visits": len(self.visits),
            "queries.posterior": count
            if self.queries.posterior is None
            else len(self.queries.posterior),
            "exclude": count if self.exclude is None else len(self.exclude),
        }
        for name, size in sizes.items():
            if size != count:
                raise ShapeError(
                    f"Problem.{name}: expected {count} rows, as queries.prior has; found {size}"
                )

    @property
    def passages_shared(self) -> bool:
        """Whether both retrievers use one passage encoder, hence one index."""
        return self.posterior_index is self.prior_index


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"objective.{name}: expected {expected}, found {value!r}")


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    _require(name, value, value in known, f"one of {', '.join(known)}")
