"""The generator p(y | x, h) as the rest of the package sees it, whatever computes it.

Rendering, tokenising, truncating and batching are an implementation's business; estimators,
objectives and decoding strategies only ever call the methods below. Equation (3) of
``docs/math.md`` reads :meth:`Generator.response_logp`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from jsarag.models.digests import tensors_digest
from jsarag.models.padding import budget_batches, padded_tokens
from jsarag.models.prompts import TruncationCounter
from jsarag.types import GeneratorInput, ResponseLogp, TokenLogp


class Generator(nn.Module, ABC):
    """A conditional language model of responses given a context and the passages to ground on.

    Every method takes any number of inputs (zero included) and batches inside: scoring by
    :meth:`chunks`, decoding by length and at most ``micro_batch`` at a time; results never depend
    on which inputs share a call. Gradients flow where torch's gradient mode and the parameters'
    ``requires_grad`` allow. Implementations run their network without dropout unless asked, so that
    a probability scored without gradient and the one back-propagated are the same number.

    Attributes:
        truncation: counts what the token limits cut, per field.
        micro_batch: how many inputs go through the network at once in decoding.
        budget_tokens: how many tokens, padding included, go through it at once in scoring.
        bf16: run the network under bfloat16 autocast (weights and sums stay float32), where
            ``supports_bf16``.
    """

    truncation: TruncationCounter
    micro_batch: int
    budget_tokens: int
    bf16: bool

    def __init__(self, *, micro_batch: int = 32, budget_tokens: int = 4096) -> None:
        super().__init__()
        self.truncation = TruncationCounter()
        self.micro_batch = micro_batch
        self.budget_tokens = budget_tokens
        self.bf16 = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What the user asked for: 'copy', 'query-likelihood', a folder or a hub id."""

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """The token id that ends every response."""

    @abstractmethod
    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response exactly as it is scored: truncated, ``eos_id`` last."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids up to the first ``eos_id``, special tokens left out."""

    def chunks(self, inputs: Sequence[GeneratorInput], budget_tokens: int) -> list[list[int]]:
        """Inputs that go through the network together when scored.

        A function of the inputs alone. The pass over a group, with ``budget_tokens`` set to this
        budget, is one pass: its graph is what back-propagation must hold at once.

        Args:
            inputs: P pairs.
            budget_tokens: tokens of a group, padding included, as :meth:`tokens` counts them.

        Returns:
            Every position in ``inputs`` once; an input that alone exceeds the budget is alone. By
            default for networks that read padded responses and no more.
        """
        return budget_batches(self._widths_of(inputs), budget_tokens)

    def tokens(self, inputs: Sequence[GeneratorInput]) -> int:
        """Tokens of one pass over the inputs, padding included.

        Within ``budget_tokens``, this is what scoring the inputs puts through the network; beyond,
        scoring takes several passes, each narrower.
        """
        return padded_tokens(self._widths_of(inputs))

    def _widths_of(self, inputs: Sequence[GeneratorInput]) -> list[tuple[int, ...]]:
        return [(len(self.encode_response(item.response)),) for item in inputs]

    @abstractmethod
    def token_logp(self, inputs: Sequence[GeneratorInput]) -> TokenLogp:
        """log p(y_t | x, h, y_<t) of every response token, the end of sequence included.

        Args:
            inputs: P pairs; the tokens scored are ``encode_response(input.response)``.

        Returns:
            logp f32 [P, T] in nats (0 where padded) and mask bool [P, T], T the longest response.
        """

    def response_logp(self, inputs: Sequence[GeneratorInput]) -> ResponseLogp:
        """log p(y | x, h): the sum over the response's tokens, the end of sequence included.

        Args:
            inputs: P pairs.

        Returns:
            logp f32 [P] in nats and tokens int64 [P].
        """
        scored = self.token_logp(inputs)
        return ResponseLogp(logp=scored.logp.sum(dim=1), tokens=scored.mask.sum(dim=1))

    @abstractmethod
    def next_token_logp(
        self, inputs: Sequence[GeneratorInput], prefixes: Sequence[Sequence[int]]
    ) -> Tensor:
        """log p(. | x, h, prefix) over the whole vocabulary, without gradient.

        Args:
            inputs: P pairs; their responses are ignored.
            prefixes: P response prefixes as token ids, possibly empty.

        Returns:
            f32 [P, V] in nats. Column v is the same token in every row, so rows of different
            passages may be mixed.
        """

    @abstractmethod
    def generate(self, inputs: Sequence[GeneratorInput], *, max_new_tokens: int) -> list[str]:
        """Greedy responses, one per input, in order; the inputs' responses are ignored."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that is needed to load this generator again; nothing is pickled."""

    @property
    def device(self) -> torch.device:
        """Where the network lives (the CPU for a generator without parameters)."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def is_trainable(self) -> bool:
        """Whether any parameter takes gradient."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def supports_bf16(self) -> bool:
        """Whether setting ``bf16`` changes anything."""
        return False

    @property
    def has_dropout(self) -> bool:
        """Whether passes with gradient are random, so that two of them give different numbers."""
        return False

    def checkpoint_activations(self) -> bool:
        """Hold fewer activations, computing them again in the backward pass; whether it can."""
        return False

    def checkpoint_state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to continue training; frozen borrowed parts are left out."""
        return self.state_dict()

    def load_checkpoint_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`checkpoint_state` returned."""
        self.load_state_dict(state)

    def digest(self) -> str:
        """Hex digest of everything :meth:`checkpoint_state` holds, equal for equal weights."""
        return tensors_digest(self.checkpoint_state())
