"""How many tokens may go through a network at once, with gradient: tried before the first step.

A chunk of the longest texts is scored and back-propagated at two sizes; a line through both says
what a chunk of any size takes, and the budget is the largest that leaves ample room. What was found
is kept with the run (``probe.json``): another budget would add up the gradient in another order, so
a continued run must not look again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from jsarag.data.registry import Dataset
from jsarag.errors import CheckpointError, MemoryForecastError
from jsarag.io.peak import peak_bytes
from jsarag.io.records import read_record, write_record
from jsarag.models.generator import Generator
from jsarag.models.prompts import passage_text, render_context
from jsarag.models.retrievers import RetrieverParts
from jsarag.train.back import Computation, Responses, Vectors
from jsarag.train.precision import Precision, find_precision
from jsarag.types import GeneratorInput

PROBE_FILE = "probe.json"
# Of what is free, one chunk may take this much: weights, optimizer and index want the rest.
_SHARE = 1 / 8
_LEAST = 256
# Larger chunks bring a CPU no speed; a GPU fills up at some ten thousand tokens.
_MOST = {"cpu": 2048, "cuda": 32_768}
_SIZES = (512, 1024)
# Enough to fill the largest chunk with ordinary texts.
_LONGEST = 48
_LOOKED_AT = 2000


@dataclass(frozen=True, slots=True)
class Budget:
    """A network's token budget and what one chunk of it takes.

    tokens: per chunk, padding included, at most. chunk_tokens: of the fullest chunk the longest
    texts make, where they were tried; rows of a fixed length seldom fill the budget.
    fixed_bytes, token_bytes: a chunk of n tokens with gradient takes fixed_bytes + n token_bytes at
    its height. checkpointing: whether activations are computed again inside the backward pass,
    because without a single pair did not fit.
    """

    tokens: int
    fixed_bytes: int = 0
    token_bytes: float = 0.0
    checkpointing: bool = False
    chunk_tokens: int | None = None

    @property
    def chunk_bytes(self) -> int:
        """One chunk's memory at its height."""
        return self.bytes_of(self.tokens if self.chunk_tokens is None else self.chunk_tokens)

    def bytes_of(self, tokens: int) -> int:
        """Memory at its height of one pass over ``tokens``, at most a chunk's."""
        return self.fixed_bytes + int(min(tokens, self.tokens) * self.token_bytes)


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found for the generator and for the encoders."""

    generator: Budget
    encoder: Budget
    precision: Precision = field(default=Precision())

    def activation_bytes(self, query_tokens: Sequence[int], *, passages_trained: bool) -> int:
        """Held at once: a chunk of the generator's on top of the queries' graphs.

        Args:
            query_tokens: of each retriever's queries in a batch, padding included.
            passages_trained: whether passages go through an encoder with gradient, too.
        """
        encoders = sum(map(self.encoder.bytes_of, query_tokens))
        if passages_trained:
            encoders += self.encoder.chunk_bytes
        return self.generator.chunk_bytes + encoders

    def serves(self, wanted_tokens: int | None, wanted_bf16: bool | None) -> bool:
        """Whether it holds what the user asks for; None asks for whatever was found."""
        return wanted_tokens in (None, self.generator.tokens) and wanted_bf16 in (
            None,
            self.precision.bf16,
        )

    def apply(self, retrievers: RetrieverParts, generator: Generator) -> None:
        """Set the networks' budgets and the generator's precision."""
        generator.bf16 = self.precision.bf16
        generator.budget_tokens = self.generator.tokens
        if self.generator.checkpointing:
            generator.checkpoint_activations()
        for encoder in retrievers.parts().values():
            encoder.budget_tokens = self.encoder.tokens

    def save(self, path: Path) -> None:
        """Keep it for a continued run."""
        write_record(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        fix = (
            "restore it from a copy, or set the size of chunks (--set train.chunk_tokens=N) and "
            "remove this file: gradients are then summed in another order than before"
        )
        content = read_record(path, fix=fix)
        try:
            return cls(
                Budget(**content["generator"]),
                Budget(**content["encoder"]),
                Precision(**content.get("precision", {})),
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: expected token budgets ({error!r}); {fix}") from error


def find_budgets(
    retrievers: RetrieverParts,
    generator: Generator,
    dataset: Dataset,
    *,
    turns: int,
    available_bytes: int,
    wanted_tokens: int | None = None,
    wanted_bf16: bool | None = None,
) -> Probe:
    """Try chunks of the longest training rows and passages on the models as they are.

    Args:
        retrievers: whose prior encoder is tried.
        generator: is tried where it trains.
        dataset: its first rows and passages are looked through for long ones.
        turns: of a context, as the generator reads it.
        available_bytes: memory that is free where the models are.
        wanted_tokens: the user's budget; None looks for one.
        wanted_bf16: the user's precision; None tries both on a language model.

    Raises:
        MemoryForecastError: a single pair does not fit, whatever is tried.
    """
    inputs = _longest_inputs(dataset, turns)
    room = int(available_bytes * _SHARE)
    most = _MOST.get(retrievers.prior.device.type, _MOST["cpu"])
    generating = Budget(wanted_tokens or most)
    precision = find_precision(generator, dataset, turns=turns, wanted=wanted_bf16)
    generator.bf16 = precision.bf16
    if generator.is_trainable:
        pairs = Responses(generator, inputs)
        generating = _budget(pairs, room, most, wanted_tokens)
        if not generating.tokens and generator.checkpoint_activations():
            generating = _budget(pairs, room, most, wanted_tokens, checkpointing=True)
    encoding = Budget(4 * (wanted_tokens or most))
    if retrievers.prior.is_trainable:
        texts = [passage_text(item.passages[0]) for item in inputs]
        vectors = Vectors(retrievers.prior, texts, "passage")
        encoding = _budget(vectors, room, 4 * most, wanted_tokens and 4 * wanted_tokens)
    for name, budget in (("generator", generating), ("encoder", encoding)):
        if not budget.tokens:
            raise MemoryForecastError(
                f"training: expected room for one chunk of {_LEAST} tokens of the {name} "
                f"({_gib(budget.fixed_bytes + int(_LEAST * budget.token_bytes))}) within an eighth "
                f"of the {_gib(available_bytes)} that are free. {_ADVICE[name]}"
            )
    return Probe(generating, encoding, precision)


_ADVICE = {
    "generator": "Use --freeze generator (it then only judges, without a backward pass), "
    "generator.lora, or a smaller model; --set train.chunk_tokens=N insists on a size",
    "encoder": "Use a smaller encoder, or freeze the retrievers",
}


def _budget(
    computation: Computation,
    room: int,
    most: int,
    wanted: int | None,
    *,
    checkpointing: bool = False,
) -> Budget:
    """The largest budget, a power of two, whose chunk fits the room; 0 tokens if none does."""
    _try(computation, _SIZES[0])  # what the first pass of a network allocates and keeps
    tried = [_try(computation, size) for size in _SIZES if size <= max(most, _SIZES[0])]
    (few, low), (many, high) = tried[0], tried[-1]
    slope = (high - low) / (many - few) if many > few else high / many
    slope = max(slope, 0.0)
    fixed = max(int(low - slope * few), 0)
    if wanted is not None:
        return Budget(wanted, fixed, slope, checkpointing, _fullest(computation, wanted))
    tokens = most
    while tokens >= _LEAST and fixed + tokens * slope > room:
        tokens //= 2
    if tokens < _LEAST:
        return Budget(0, fixed, slope, checkpointing)
    return Budget(tokens, fixed, slope, checkpointing, _fullest(computation, tokens))


def _fullest(computation: Computation, budget: int) -> int:
    """Tokens of the fullest chunk at a budget: all texts at once may be several chunks."""
    computation.network.budget_tokens = budget
    chunks = computation.chunks(range(len(computation)))
    return max(computation.tokens(chunk) for chunk in chunks)


def _try(computation: Computation, tokens: int) -> tuple[int, int]:
    """Tokens and bytes of one chunk, forward and backward."""
    computation.network.budget_tokens = tokens
    chunk = max(computation.chunks(range(len(computation))), key=computation.tokens)

    def work() -> None:
        torch.autograd.backward(computation(chunk).sum())

    try:
        taken = peak_bytes(work, computation.network.device)
    finally:
        for parameter in computation.network.parameters():
            parameter.grad = None
    return computation.tokens(chunk), taken


def _longest_inputs(dataset: Dataset, turns: int) -> list[GeneratorInput]:
    """The longest of the first training rows, each on one of the longest passages."""
    rows = dataset.splits["train"][:_LOOKED_AT]
    rows = sorted(rows, key=lambda row: -len(render_context(row, turns)) - len(row.response))
    kb = dataset.kb
    numbers = sorted(range(min(len(kb), _LOOKED_AT)), key=lambda row: -len(kb[row].text))
    return [
        GeneratorInput(
            render_context(example, turns), (kb[numbers[place % len(numbers)]],), example.response
        )
        for place, example in enumerate(rows[:_LONGEST])
    ]


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
