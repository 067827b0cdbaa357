"""One way forward, one way back: what the models computed for a batch, and the gradient through it.

Objectives see numbers only: query vectors, passage vectors and log p(y|x,h), each recorded here as
a leaf. Back-propagating the loss leaves a coefficient on every leaf; :meth:`Tape.back` then walks
the coefficients back through the models. What fits one chunk of the token budget keeps its graph
and is computed once; what does not is computed without a graph, and a second time, chunk by chunk,
on the way back. So memory is one chunk's whatever the batch, and the gradient is the same: given
the coefficients it is a sum over rows (``docs/math.md``, M-step; for encoders: gradient caching).

The one file that knows of chunks: no objective, no model and not the loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from jsarag.em.mstep import draw_pairs, drop_light
from jsarag.models.encoder import Role, TextEncoder
from jsarag.models.generator import Generator
from jsarag.models.padding import budget_batches, padded_tokens
from jsarag.types import GeneratorInput


class Network(Protocol):
    """A model with a budget: an encoder or a generator."""

    budget_tokens: int

    @property
    def device(self) -> torch.device:
        """Where it lives."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""


class Computation(Protocol):
    """Rows that a network computes independently of each other."""

    @property
    def network(self) -> Network:
        """Whose ``budget_tokens``, padding included, go through at once with a graph."""

    @property
    def repeats(self) -> bool:
        """Whether two passes over a row give the same number (LoRA's dropout does not)."""

    def __len__(self) -> int:
        """How many rows."""

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of one pass over rows."""

    def chunks(self, rows: Sequence[int]) -> list[list[int]]:
        """The rows in groups that each fit the budget; a row that alone exceeds it is alone."""

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Values [n, ...] of rows, in the caller's gradient mode."""


@dataclass(frozen=True, slots=True)
class Thinning:
    """Which pairs the generator's gradient is walked back through.

    example: int64 [P], the example of each pair, ascending.
    draws: pairs drawn per example, without bias; 0 takes all that are heavy enough.
    cutoff: share of an example's coefficients below which a pair is left out, where none are drawn.
    coins: f64 [B] uniforms keyed by example and visit, for the draws.
    """

    example: Tensor
    draws: int
    cutoff: float
    coins: Tensor

    def __call__(self, coefficients: Tensor) -> Tensor:
        """Coefficients [P] or [P, T] with zeros for pairs that are not to be walked back."""
        if coefficients.dim() == 1:
            return self._of_pairs(coefficients)
        # Token by token: a pair counts as much as its tokens do, and is kept or dropped whole.
        size = coefficients.abs().sum(dim=1)
        factor = self._of_pairs(size) / size.where(size > 0, 1)
        return coefficients * factor[:, None]

    def _of_pairs(self, coefficients: Tensor) -> Tensor:
        example = self.example.to(coefficients.device)
        if self.draws:
            coins = self.coins.to(coefficients.device)
            return draw_pairs(coefficients, example, coins, self.draws)
        return drop_light(coefficients, example, self.cutoff)


@dataclass(slots=True)
class _Recorded:
    leaf: Tensor
    graph: Tensor | None
    computation: Computation
    thinning: Thinning | None


class Tape:
    """Everything computed for one batch, in order; :meth:`back` uses it up."""

    def __init__(self) -> None:
        self._recorded: list[_Recorded] = []
        self._rows: Counter[int] = Counter()

    def record(
        self, computation: Computation, *, trains: bool, thinning: Thinning | None = None
    ) -> Tensor:
        """Compute all rows and remember how.

        Args:
            computation: of a network.
            trains: whether the network takes gradient.
            thinning: leaves some rows out on the way back.

        Returns:
            [rows, ...]: a leaf that collects its coefficients, or plain numbers where nothing
            trains.
        """
        rows = range(len(computation))
        if not (trains and torch.is_grad_enabled()):
            with torch.no_grad():
                return self._compute(computation, rows)
        # Where few pairs are drawn, a graph over all of them would cost more than a second pass.
        drawn = thinning is not None and thinning.draws > 0
        keeps = not drawn and computation.repeats
        keeps = keeps and computation.tokens(rows) <= computation.network.budget_tokens
        with torch.set_grad_enabled(keeps):
            values = self._compute(computation, rows)
        leaf = values.detach().requires_grad_()
        self._recorded.append(_Recorded(leaf, values if keeps else None, computation, thinning))
        return leaf

    def back(self) -> None:
        """Walk every leaf's coefficients back into the models' parameters, and forget all."""
        recorded, self._recorded = self._recorded, []
        for item in recorded:
            coefficients, item.leaf.grad = item.leaf.grad, None
            if coefficients is None:
                continue
            if item.graph is not None:
                torch.autograd.backward(item.graph, coefficients)
                item.graph = None
                continue
            if item.thinning is not None:
                coefficients = item.thinning(coefficients)
            self._walk(item.computation, coefficients)

    def rows_through(self, network: Network) -> int:
        """Rows that a network has computed so far, on the way back included."""
        return self._rows[id(network)]

    def _compute(self, computation: Computation, rows: Sequence[int]) -> Tensor:
        self._rows[id(computation.network)] += len(rows)
        return computation(rows)

    def _walk(self, computation: Computation, coefficients: Tensor) -> None:
        """Forward and backward over the rows that have a coefficient, in chunks."""
        heavy = coefficients.flatten(1) if coefficients.dim() > 1 else coefficients[:, None]
        # sync: which rows are walked decides what is computed.
        rows = (heavy != 0).any(dim=1).nonzero().flatten().tolist()
        for chunk in computation.chunks(rows):
            values = self._compute(computation, chunk)
            places = torch.tensor(chunk, device=coefficients.device)
            torch.autograd.backward(values, coefficients[places].to(values.device))


class Responses:
    """log p(y|x,h) of generator inputs; a :class:`Computation`.

    ``lengths`` int64 [P] is filled as rows are computed: the responses' tokens.
    """

    def __init__(self, generator: Generator, inputs: Sequence[GeneratorInput]) -> None:
        self.network = generator
        self._inputs = inputs
        self.lengths = torch.zeros(len(inputs), dtype=torch.int64)

    @property
    def repeats(self) -> bool:
        """Whether no dropout runs in passes with gradient."""
        return not self.network.has_dropout

    def __len__(self) -> int:
        return len(self._inputs)

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of one pass over rows."""
        return self.network.tokens([self._inputs[row] for row in rows])

    def chunks(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows that go through the network together."""
        chosen = [self._inputs[row] for row in rows]
        groups = self.network.chunks(chosen, self.network.budget_tokens)
        return [[rows[place] for place in group] for group in groups]

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """f32 [n] in nats."""
        scored = self.network.response_logp([self._inputs[row] for row in rows])
        self.lengths[list(rows)] = scored.tokens.cpu()
        return scored.logp


class Tokens(Responses):
    """log p(y_t|x,h,y_<t) of generator inputs, padded alike whichever rows are computed."""

    def __init__(self, generator: Generator, inputs: Sequence[GeneratorInput]) -> None:
        super().__init__(generator, inputs)
        lengths = [len(generator.encode_response(item.response)) for item in inputs]
        self.lengths = torch.tensor(lengths, dtype=torch.int64)
        self._width = max(lengths, default=0)

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """f32 [n, T] in nats, 0 where padded."""
        scored = self.network.token_logp([self._inputs[row] for row in rows]).logp
        return nn.functional.pad(scored, (0, self._width - scored.shape[1]))


class Vectors:
    """Embeddings of texts; a :class:`Computation`. Encoders run without dropout."""

    repeats = True

    def __init__(self, encoder: TextEncoder, texts: Sequence[str], role: Role) -> None:
        self.network = encoder
        self._rows = encoder.tokenise(texts, role)

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of one pass over rows."""
        return padded_tokens(self._widths(rows))

    def chunks(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows that go through the network together."""
        groups = budget_batches(self._widths(rows), self.network.budget_tokens)
        return [[rows[place] for place in group] for group in groups]

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """f32 [n, D]."""
        return self.network.vectors([self._rows[row] for row in rows])

    def _widths(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        return [(len(self._rows[row]),) for row in rows]
