"""``passage_logp``: sequence log-likelihood from hidden states without logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jsarag import ops, randomness
from jsarag.ops.reference.passage_logp import passage_logp as reference
from jsarag_bench.cases import Case
from jsarag_bench.kernels.base import Check, Workload, backend_of, compare, normal

_LENGTH = 64
_BLOCK_TOKENS = 512
_VERIFIED_TOKENS = 256


@dataclass(frozen=True)
class LogpInputs:
    """hidden [T, H], weight [V, H], targets int64 [T], cu_seqlens int32 [S + 1].

    ``gradient`` f32 [S] is what comes from above in backward.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    cu_seqlens: Tensor
    gradient: Tensor
    backward: bool

    @cached_property
    def segments(self) -> Tensor:
        """int64 [T]: the sequence of each token."""
        lengths = self.cu_seqlens.diff().long()
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def make_inputs(case: Case, device: str) -> LogpInputs:
    """Logits of about unit spread; answers of 64 tokens."""
    tokens, width, words = case.shape["T"], case.shape["H"], case.shape["V"]
    dtype: torch.dtype = getattr(torch, case.dtype)
    key = (tokens, width, words)
    hidden = normal((tokens, width), device, "hidden", *key).to(dtype)
    weight = (normal((words, width), device, "weight", *key) / width**0.5).to(dtype)
    integers = randomness.generator("bench", "targets", *key).integers(0, words, tokens)
    bounds = [*range(0, tokens, _LENGTH), tokens]
    backward = bool(case.options.get("backward"))
    return LogpInputs(
        hidden.requires_grad_(backward),
        weight.requires_grad_(backward),
        torch.from_numpy(integers).to(device),
        torch.tensor(bounds, dtype=torch.int32, device=device),
        normal((len(bounds) - 1,), device, "gradient", *key),
        backward,
    )


def build(case: Case, inputs: LogpInputs) -> Workload:
    """Forward, or forward and the gradients of hidden and weight."""

    def ours() -> tuple[Tensor, ...]:
        logp = ops.passage_logp(
            inputs.hidden, inputs.weight, inputs.targets, inputs.cu_seqlens
        ).logp
        return with_gradients(inputs, logp)

    tokens, width, words = case.shape["T"], case.shape["H"], case.shape["V"]
    size = inputs.hidden.element_size() * width * (tokens + words)
    return Workload(
        ours=ours,
        verify=lambda: _verify(inputs, ours()),
        bytes_read=float(size * (3 if inputs.backward else 1)),
        flops=2.0 * tokens * width * words * (3 if inputs.backward else 1),
        flops_dtype="float32" if case.dtype == "float32" else "bfloat16",
        backend=backend_of("passage_logp"),
    )


def with_gradients(inputs: LogpInputs, logp: Tensor) -> tuple[Tensor, ...]:
    """logp [S] and, if the case is with backward, the gradients of hidden and weight."""
    if not inputs.backward:
        return (logp,)
    loss = (logp * inputs.gradient).sum()
    return logp.detach(), *torch.autograd.grad(loss, [inputs.hidden, inputs.weight])


def eager_logp(inputs: LogpInputs, *, upcast: bool) -> Tensor:
    """logp f32 [S] with all logits in memory: what one writes in torch.

    Args:
        upcast: make the logits f32 first, as training scripts do to bf16 ones.
    """
    logits = torch.nn.functional.linear(inputs.hidden, inputs.weight)
    if upcast:
        logits = logits.float()
    token_logp = -torch.nn.functional.cross_entropy(logits, inputs.targets, reduction="none")
    sums = torch.zeros(len(inputs.gradient), dtype=torch.float32, device=logits.device)
    return sums.index_add(0, inputs.segments, token_logp.float())


def _verify(inputs: LogpInputs, found: tuple[Tensor, ...]) -> Sequence[Check]:
    """Forward on the first sequences; gradients on everything, a block of sequences at a time."""
    naive = with_gradients(inputs, eager_logp(inputs, upcast=False))
    if not inputs.backward:
        kept = max(min(_VERIFIED_TOKENS // _LENGTH, len(inputs.gradient)), 1)
        (truth,) = _truth(inputs, kept)
        rest = found[0][kept:]
        finite = Check("not finite", float((~rest.isfinite()).sum()), 0.0)
        return [finite, compare("logp", found[0][:kept], naive[0][:kept], truth)]
    truths = _truth(inputs, len(inputs.gradient))
    names = ("logp", "gradient of hidden", "gradient of weight")
    return [
        compare(name, *values) for name, *values in zip(names, found, naive, truths, strict=True)
    ]


def _truth(inputs: LogpInputs, sequences: int) -> tuple[Tensor, ...]:
    """The reference in float64 on the first sequences."""
    weight = inputs.weight.detach().double().requires_grad_(inputs.backward)
    logps, hidden_gradients = [], []
    total = torch.zeros_like(weight) if inputs.backward else None
    for first, last in _blocks(sequences):
        bounds = inputs.cu_seqlens[first : last + 1]
        tokens = slice(int(bounds[0]), int(bounds[-1]))
        hidden = inputs.hidden[tokens].detach().double().requires_grad_(inputs.backward)
        logp = reference(hidden, weight, inputs.targets[tokens], bounds - bounds[0]).logp
        logps.append(logp.detach())
        if total is not None:
            loss = (logp * inputs.gradient[first:last].double()).sum()
            of_hidden, of_weight = torch.autograd.grad(loss, [hidden, weight])
            hidden_gradients.append(of_hidden)
            total += of_weight
    if total is None:
        return (torch.cat(logps),)
    return torch.cat(logps), torch.cat(hidden_gradients), total.detach()


def _blocks(sequences: int) -> Iterator[tuple[int, int]]:
    step = _BLOCK_TOKENS // _LENGTH
    for first in range(0, sequences, step):
        yield first, min(first + step, sequences)
