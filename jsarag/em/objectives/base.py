"""What every objective is: four stations, called in order, and a commit after the step was taken.

The trainer calls them, times each, and takes the optimizer's step between ``loss`` and ``commit``.
No station changes the objective, so a failed or skipped step leaves the chains where they were.

An objective is a pure function of scores. What it is handed as query embeddings, passage vectors
and log p(y|x,h) may be numbers without a history: differentiating the loss leaves a coefficient on
each of them, and walking those back through the models, in whatever pieces fit, is the trainer's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from jsarag.em.problem import EMSettings, Problem
from jsarag.errors import ConfigError
from jsarag.types import Candidates, RetrieverScores, Support, TokenLogp, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from jsarag.em.chains import ChainStore


@dataclass(frozen=True, slots=True)
class StepScores:
    """Scores of a step's candidates.

    retriever: log p and log q, with gradient.
    response_logp f32 [B, C]: log p(y|x,h), a sum or a mean per token, with gradient where the
        generator trains; -inf on padding and where it was not needed.
    tokens: int64 [B] tokens of the responses, where one passage or prompt each was scored.
    token_logp: log p(y_t|x,h,y_<t) [B, C, T], 0 where not scored, and its mask [B, T]; only for an
        objective that asks token by token.
    joined_logp: f32 [B], log p(y|x, the candidates joined in one prompt); only where asked for.
    """

    retriever: RetrieverScores
    response_logp: Tensor
    tokens: Tensor | None = None
    token_logp: TokenLogp | None = None
    joined_logp: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StepLoss:
    """What a step minimises.

    total: a scalar, mean over the batch; it has gradient unless every part is frozen.
    parts: its summands by name (``prior``, ``posterior``, ``generator``), detached scalars.
    diagnostics: numbers for the log.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    diagnostics: Mapping[str, Tensor | float] = field(default_factory=dict)


class Objective(ABC):
    """One training objective; state is only what ``chains`` holds.

    Args:
        settings: of the method.
        chains: stored chain states; made here where the estimator needs them and none is given.

    Attributes:
        name: what the user calls it; its file is named alike.
        needs_prior, needs_posterior: whether queries (and an index) of that retriever are read.
        uses_generator: whether responses are scored.
        needs_gold: whether labelled passages are read; every other objective never sees them.
        needs_start: whether what the prior found before training is read.
        supports: where it is defined.

    Raises:
        ConfigError: the settings' support is not one of ``supports``.
    """

    name: ClassVar[str]
    needs_prior: ClassVar[bool] = True
    needs_posterior: ClassVar[bool]
    uses_generator: ClassVar[bool] = True
    needs_gold: ClassVar[bool] = False
    needs_start: ClassVar[bool] = False
    supports: ClassVar[tuple[Support, ...]] = ("prior", "union", "kb")

    def __init__(self, settings: EMSettings, chains: ChainStore | None = None) -> None:
        if settings.support not in self.supports:
            raise ConfigError(
                f"objective.support: '{self.name}' is defined on {', '.join(self.supports)}; "
                f"found {settings.support!r}; use --support {self.supports[0]}"
            )
        self.settings = settings
        self.chains = chains

    @abstractmethod
    def candidates(self, problem: Problem) -> Candidates:
        """Search, union, draws: which passages this batch looks at."""

    @abstractmethod
    def score(self, problem: Problem, candidates: Candidates) -> StepScores:
        """Log-probabilities of the candidates under retrievers and generator."""

    @abstractmethod
    def weights(self, problem: Problem, candidates: Candidates, scores: StepScores) -> Weights:
        """The E-step: v(h), detached."""

    @abstractmethod
    def loss(
        self, problem: Problem, candidates: Candidates, scores: StepScores, weights: Weights
    ) -> StepLoss:
        """The M-step: what to back-propagate."""

    def commit(self, problem: Problem, candidates: Candidates, weights: Weights) -> None:
        """Keep the chains' last states; to be called once the optimizer's step was really taken."""
        if self.chains is None or weights.held is None:
            return
        held = weights.held[:, None]
        rows = candidates.rows.gather(1, held.clamp(min=0)).masked_fill(held < 0, -1)
        self.chains.put(problem.example_ids, rows[:, 0])
