"""Turns token lists of different lengths into tensors: micro-batches of like length, and padding.

Also the one place that says what bfloat16 training means here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor


def length_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices grouped so that each group holds at most ``size`` items of similar length.

    Args:
        lengths: one length per item.
        size: the largest group.

    Returns:
        Every index once; longest first, so that running out of memory happens at once and not in
        the middle. Ties keep their order: the grouping is a function of the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[first : first + size] for first in range(0, len(order), size)]


def budget_batches(widths: Sequence[tuple[int, ...]], budget: int) -> list[list[int]]:
    """Indices grouped so that each group, padded to its longest items, holds at most ``budget``.

    Args:
        widths: per item its tokens in each of the tensors it goes into, which are padded apart.
        budget: tokens of a group, padding included; a longer item is a group of its own.

    Returns:
        Every index once, longest first, as :func:`length_batches`.
    """
    groups: list[list[int]] = []
    longest: tuple[int, ...] = ()
    for index in sorted(range(len(widths)), key=lambda index: -sum(widths[index])):
        grown = tuple(map(max, longest, widths[index])) if groups else widths[index]
        if groups and (len(groups[-1]) + 1) * sum(grown) <= budget:
            groups[-1].append(index)
            longest = grown
        else:
            groups.append([index])
            longest = widths[index]
    return groups


def padded_tokens(widths: Sequence[tuple[int, ...]]) -> int:
    """Tokens of all items in one pass, each tensor padded to its longest row."""
    longest: int = sum(max(column) for column in zip(*widths, strict=True))
    return len(widths) * longest


def pad(
    rows: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
    *,
    side: Literal["left", "right"] = "right",
) -> tuple[Tensor, Tensor]:
    """Token ids int64 [n, T] and mask int64 [n, T] (1 on tokens), T the longest row."""
    width = max((len(row) for row in rows), default=0)
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        filler, zeros, ones = [pad_id] * gap, [0] * gap, [1] * len(row)
        ids.append([*filler, *row] if side == "left" else [*row, *filler])
        mask.append([*zeros, *ones] if side == "left" else [*ones, *zeros])
    shape = (len(rows), width)
    return (
        torch.tensor(ids, dtype=torch.int64, device=device).reshape(shape),
        torch.tensor(mask, dtype=torch.int64, device=device).reshape(shape),
    )


def precision(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Autocast to bfloat16, or nothing.

    Weights stay float32 in both cases and the optimizer steps them in float32: stepping bfloat16
    weights rounds most updates away.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
