"""``draw``: passages by their tiles' masses."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from jsarag.backends.native import arguments
from jsarag.backends.native.arguments import SearchInputs, dense
from jsarag.backends.native.compiled import module


def draw(inputs: SearchInputs, tile_lse: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """ids i64 [B, M], logp f32 [B, M]."""
    tile_lse, uniforms = dense(tile_lse, torch.float32), dense(uniforms, torch.float64)
    ids = torch.empty(uniforms.shape, dtype=torch.int64, device=uniforms.device)
    logp = torch.empty(uniforms.shape, dtype=torch.float32, device=uniforms.device)
    draws = uniforms.shape[1]
    kernel: Any = module().draw_cpu
    if arguments.on_cuda(inputs.queries):
        scratch_bytes = module().draw_cuda_scratch(inputs.record, draws=draws)
        call = arguments.CudaCall(uniforms.device, scratch_bytes)
        kernel = partial(module().draw_cuda, call=call.record)
    kernel(
        inputs.record,
        tile_lse=tile_lse.data_ptr(),
        uniforms=uniforms.data_ptr(),
        draws=draws,
        ids=ids.data_ptr(),
        logp=logp.data_ptr(),
    )
    return ids, logp
