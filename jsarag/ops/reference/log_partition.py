"""``log_partition`` in plain torch, and its gradient, one block of passages at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.ops.reference.scan import compute_dtype, score_blocks


def log_partition(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
) -> Tensor:
    """See :func:`jsarag.ops.log_partition`; this one has no gradient."""
    total = torch.full(
        (queries.shape[0],),
        float("-inf"),
        dtype=compute_dtype(queries, passages),
        device=queries.device,
    )
    for _, scores, excluded in score_blocks(queries, passages, scales, exclude):
        scaled = (scores * inv_temperature).masked_fill(excluded, float("-inf"))
        total = torch.logaddexp(total, scaled.logsumexp(1))
    return total


def log_partition_backward(
    grad: Tensor,
    lse: Tensor,
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
) -> Tensor:
    """grad [B] · inv_temperature · sum_h p(h) e(h): the gradient in queries, [B, D]."""
    dtype = compute_dtype(queries, passages)
    total = torch.zeros(queries.shape, dtype=dtype, device=queries.device)
    for first, scores, excluded in score_blocks(queries, passages, scales, exclude):
        scaled = (scores * inv_temperature).masked_fill(excluded, float("-inf"))
        # A row without mass has lse = -inf: its gradient is zero, not NaN.
        p = (scaled - lse.to(dtype).unsqueeze(1)).exp().masked_fill(excluded, 0.0)
        p = p.masked_fill((lse == float("-inf")).unsqueeze(1), 0.0)
        rows = passages[first : first + scores.shape[1]].to(dtype)
        if scales is not None:
            p = p * scales[first : first + scores.shape[1]].to(dtype)
        total += p @ rows
    return (total * (grad.to(dtype) * inv_temperature).unsqueeze(1)).to(queries.dtype)
