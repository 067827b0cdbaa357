"""``passage_logp`` backwards on a GPU: a chunk of words at a time.

The kernel writes the gradient on the chunk's logits; torch's matrix products, which need no kernel
of ours, spread it over hidden states and words. So [T, V] is never in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.backends.native.passage_logp import LogitGradient, PassageLogpInputs


def backward(
    inputs: PassageLogpInputs, lse: Tensor, grad_logp: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients on hidden, weight and bias; an unwanted one has no elements.

    Args:
        inputs: of the forward pass.
        lse: f64 [T], of the forward pass.
        grad_logp: [S], the gradient on its results.
        wanted: which gradients.

    Numerics: sums over the vocabulary are kept in f32.
    """
    hidden, weight = inputs.hidden, inputs.weight
    (tokens, width), vocabulary = hidden.shape, weight.shape[0]
    want_hidden, want_weight, want_bias = wanted
    on_hidden = hidden.new_zeros((tokens, width) if want_hidden else (0,), dtype=torch.float32)
    on_weight = weight.new_empty((vocabulary, width) if want_weight else (0,))
    on_bias = weight.new_empty((vocabulary,) if want_bias else (0,))
    # An ignored token may hold anything, and 0 * NaN is NaN.
    dead = (inputs.targets == inputs.ignore_index)[:, None]
    counted = hidden.masked_fill(dead, 0.0) if want_weight else hidden
    most = _words_at_once(tokens, vocabulary)
    space = hidden.new_empty(tokens * _stride(most))
    on_logits = LogitGradient(inputs, lse, grad_logp)
    for first in range(0, vocabulary if any(wanted) else 0, most):
        words = min(most, vocabulary - first)
        rows = space[: tokens * _stride(words)].view(tokens, _stride(words))
        on_logits.write(rows, first, words)
        chunk = rows[:, :words]
        if want_hidden:
            on_hidden += _product_in_f32(chunk, weight[first : first + words])
        if want_weight:
            torch.mm(chunk.T, counted, out=on_weight[first : first + words])
        if want_bias:
            on_bias[first : first + words] = chunk.sum(0, dtype=torch.float32)
    return on_hidden.to(hidden.dtype), on_weight, on_bias


def _words_at_once(tokens: int, vocabulary: int) -> int:
    """Words whose logits' gradient [tokens, words] is in memory at once.

    A sixteenth of the vocabulary, but enough for two waves of 128 x 256 tiles on a large GPU (32 MB
    in bf16), where that is more: few tokens have few logits.
    """
    enough = max(vocabulary // 16, (1 << 24) // max(tokens, 1))
    return max(min(-(-enough // 256) * 256, vocabulary), 1)


def _stride(words: int) -> int:
    """Rows of so many numbers begin on 16 bytes."""
    return -(-words // 8) * 8


def _product_in_f32(left: Tensor, right: Tensor) -> Tensor:
    """left @ right as f32: the sums of a bf16 product are not rounded to bf16."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
