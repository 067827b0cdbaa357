"""The sum of all processes' gradients, in buckets.

Not torch's ``DistributedDataParallel``: its hooks sum a parameter's gradient when the backward pass
of *one* forward pass has filled it. Here a step's gradient comes out of many backward passes, chunk
by chunk through a hand-written tape (``train/back.py``), as many as a process's rows need, and a
parameter may get none on one process. So the sum is made once, when the step's gradient is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

# Large enough to hide what a call costs, small enough that two copies are nothing beside the model.
_BUCKET_BYTES = 32 * 2**20


class Handle(Protocol):
    """A sum that is under way."""

    def wait(self) -> object:
        """Return when it is made."""


Sum = Callable[[Tensor], Handle]
"""Begins to replace a tensor by its sum over all processes."""


def present(parameters: Sequence[nn.Parameter]) -> str:
    """Which parameters have a gradient here, one hexadecimal digit for four of them."""
    bits = sum(1 << place for place, p in enumerate(parameters) if p.grad is not None)
    return f"{bits:x}"


def sum_gradients(parameters: Sequence[nn.Parameter], found: Iterable[str], begin_sum: Sum) -> None:
    """Replace every gradient by its sum over the processes.

    Args:
        parameters: the same on every process, in one order.
        found: every process's :func:`present`; a gradient that is missing here counts as zero, one
            that is missing everywhere stays missing, as it would in a run of one process.
        begin_sum: of one flat tensor.
    """
    bits = 0
    for text in found:
        bits |= int(text, 16)
    chosen = [p for place, p in enumerate(parameters) if bits >> place & 1]
    # One bucket travels while the one before is put back.
    waiting: tuple[list[Tensor], Tensor, Handle] | None = None
    for bucket in _buckets(chosen):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        begun = (bucket, flat, begin_sum(flat))
        if waiting is not None:
            _put_back(*waiting)
        waiting = begun
    if waiting is not None:
        _put_back(*waiting)


def _buckets(parameters: Iterable[nn.Parameter]) -> list[list[Tensor]]:
    """Gradients in groups of one kind and at most a bucket's size, in order."""
    groups: list[list[Tensor]] = []
    size, kind = 0, None
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        own = gradient.numel() * gradient.element_size()
        if kind != (gradient.dtype, gradient.device) or size + own > _BUCKET_BYTES:
            groups.append([])
            size, kind = 0, (gradient.dtype, gradient.device)
        groups[-1].append(gradient)
        size += own
    return groups


def _put_back(gradients: Sequence[Tensor], flat: Tensor, handle: Handle) -> None:
    handle.wait()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
