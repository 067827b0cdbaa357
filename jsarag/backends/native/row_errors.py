"""``row_errors``: how far rounding moved each passage."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from jsarag.backends.native import arguments
from jsarag.backends.native.compiled import module


def row_errors(
    passages: Tensor, exact: Tensor, scales: Tensor | None, threads: int
) -> tuple[Tensor, Tensor]:
    """‖e - e'‖ and ‖e'‖ of each row, rounded up: f32 [N] each; +inf where not finite."""
    rounded, original = arguments.Rows(passages, scales), arguments.Rows(exact)
    row_error = torch.empty(passages.shape[0], dtype=torch.float32, device=passages.device)
    row_norm = torch.empty_like(row_error)
    kernel: Any = partial(module().row_errors_cpu, threads=threads)
    if arguments.on_cuda(passages):
        call = arguments.CudaCall(passages.device)
        kernel = partial(module().row_errors_cuda, call=call.record)
    kernel(
        rounded=rounded.view,
        exact=original.view,
        row_error=row_error.data_ptr(),
        row_norm=row_norm.data_ptr(),
    )
    return row_error, row_norm
