"""``log_partition`` and its gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from jsarag.backends.native import arguments
from jsarag.backends.native.arguments import SearchInputs, dense
from jsarag.backends.native.compiled import module


def log_partition(inputs: SearchInputs) -> Tensor:
    """f32 [B]."""
    batch, device = inputs.queries.shape[0], inputs.queries.device
    lse = torch.empty(batch, dtype=torch.float32, device=device)
    kernel: Any = module().log_partition_cpu
    if arguments.on_cuda(inputs.queries):
        scratch_bytes = module().log_partition_cuda_scratch(inputs.record, device=device.index or 0)
        call = arguments.CudaCall(device, scratch_bytes)
        kernel = partial(module().log_partition_cuda, call=call.record)
    kernel(inputs.record, lse=lse.data_ptr())
    return lse


def log_partition_backward(inputs: SearchInputs, lse: Tensor, grad: Tensor) -> Tensor:
    """The gradient in the queries, f32 [B, D], from that on the results, [B]."""
    lse, grad = dense(lse, torch.float32), dense(grad, torch.float32)
    gradient = torch.empty_like(inputs.queries)
    kernel: Any = module().log_partition_backward_cpu
    if arguments.on_cuda(inputs.queries):
        scratch_bytes = module().log_partition_backward_cuda_scratch(inputs.record)
        call = arguments.CudaCall(gradient.device, scratch_bytes)
        kernel = partial(module().log_partition_backward_cuda, call=call.record)
    kernel(inputs.record, lse=lse.data_ptr(), grad=grad.data_ptr(), gradient=gradient.data_ptr())
    return gradient
