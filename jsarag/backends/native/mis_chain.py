"""``mis_chain``: all steps of all chains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jsarag.backends.native import arguments
from jsarag.backends.native.arguments import address
from jsarag.backends.native.compiled import module


def mis_chain(
    log_weight: Tensor, start_log_weight: Tensor | None, uniforms: Tensor, threads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For f32 weights: state i32, accepted bool [B, M], visits and recycled f32 [B, M + 1]."""
    (batch, steps), device = log_weight.shape, log_weight.device
    log_weight, uniforms = log_weight.contiguous(), uniforms.contiguous()
    start = None if start_log_weight is None else start_log_weight.contiguous()
    state = torch.empty((batch, steps), dtype=torch.int32, device=device)
    accepted = torch.empty((batch, steps), dtype=torch.bool, device=device)
    visits = torch.empty((batch, steps + 1), dtype=torch.float32, device=device)
    recycled = torch.empty((batch, steps + 1), dtype=torch.float32, device=device)
    kernel: Any = module().mis_chain_cpu
    where: Any = threads
    if arguments.on_cuda(log_weight):
        kernel, where = module().mis_chain_cuda, arguments.CudaCall(device).record
    kernel(
        batch,
        steps,
        log_weight.data_ptr(),
        address(start),
        uniforms.data_ptr(),
        uniforms.dtype == torch.float64,
        state.data_ptr(),
        accepted.data_ptr(),
        visits.data_ptr(),
        recycled.data_ptr(),
        where,
    )
    return state, accepted, visits, recycled
