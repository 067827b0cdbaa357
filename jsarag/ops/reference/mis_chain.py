"""Reference of ``mis_chain``: Metropolis independence sampling, one step after the other.

This file is the definition; every other backend must agree with it bit for bit. It decides
nothing about what the weights mean: that is ``em``'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.ops.results import MisChainResult


def mis_chain(
    log_weight: Tensor, start_log_weight: Tensor | None, uniforms: Tensor
) -> MisChainResult:
    """Run the chains in float64; arguments and rules as :func:`jsarag.ops.mis_chain`."""
    batch, steps = log_weight.shape
    weights = log_weight.double()
    # One log for all steps: each backend's log() may differ from this one by one float64 ulp.
    log_uniforms = uniforms.double().log()
    rows = torch.arange(batch, device=log_weight.device)

    state = torch.full((batch, steps), -1, dtype=torch.int64, device=log_weight.device)
    accepted = torch.zeros(batch, steps, dtype=torch.bool, device=log_weight.device)
    visits = torch.zeros(batch, steps + 1, dtype=torch.float64, device=log_weight.device)
    recycled = torch.zeros_like(visits)

    held = torch.full((batch,), steps, dtype=torch.int64, device=log_weight.device)
    # A chain without a start takes its first proposal for free, as a NaN start would.
    has_start = start_log_weight is not None
    held_weight = (
        start_log_weight.double()
        if start_log_weight is not None
        else torch.full((batch,), torch.nan, dtype=torch.float64, device=log_weight.device)
    )
    for step in range(steps):
        proposed = weights[:, step]
        free = held_weight.isnan() & ~proposed.isnan()
        if step == 0 and not has_start:
            free = torch.ones_like(free)
        log_ratio = proposed - held_weight
        chance = log_ratio.clamp(max=0.0).exp().nan_to_num(nan=0.0).masked_fill(free, 1.0)
        move = (log_uniforms[:, step] < log_ratio) | free

        recycled[:, step] += chance
        recycled[rows, held] += 1.0 - chance
        held = torch.where(move, step, held)
        held_weight = torch.where(move, proposed, held_weight)
        visits[rows, held] += 1.0
        state[:, step] = held
        accepted[:, step] = move

    state.masked_fill_(state == steps, -1)
    dtype = torch.float64 if log_weight.dtype == torch.float64 else torch.float32
    return MisChainResult(state.int(), accepted, visits.to(dtype), recycled.to(dtype))
