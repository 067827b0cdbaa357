"""``scan``, plain and certified."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from jsarag.backends.native import arguments
from jsarag.backends.native.arguments import Rows, SearchInputs, address
from jsarag.backends.native.compiled import module


class Certificate:
    """Exact passages f32 [N, D], and how far each row was rounded: f32 [N] each."""

    def __init__(self, exact: Tensor, row_error: Tensor, row_norm: Tensor) -> None:
        self.rows = Rows(exact)
        self.row_error, self.row_norm = row_error.contiguous(), row_norm.contiguous()


def scan(
    inputs: SearchInputs, k: int, tiles: int, certificate: Certificate | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """ids i64 [B, k], scores f32 [B, k] and tile_lse f32 [B, tiles], which is left out for 0."""
    batch, device = inputs.queries.shape[0], inputs.queries.device
    ids = torch.empty((batch, k), dtype=torch.int64, device=device)
    scores = torch.empty((batch, k), dtype=torch.float32, device=device)
    lse = torch.empty((batch, tiles), dtype=torch.float32, device=device)
    exact = None if certificate is None else certificate.rows.view
    kernel: Any = module().scan_cpu
    if arguments.on_cuda(inputs.queries):
        scratch_bytes = module().scan_cuda_scratch(
            inputs.record, k=k, tile_lse=bool(tiles), exact=exact, device=device.index or 0
        )
        call = arguments.CudaCall(device, scratch_bytes)
        kernel = partial(module().scan_cuda, call=call.record)
    kernel(
        inputs.record,
        k=k,
        ids=ids.data_ptr(),
        scores=scores.data_ptr(),
        tile_lse=lse.data_ptr() if tiles else 0,
        exact=exact,
        row_error=0 if certificate is None else address(certificate.row_error),
        row_norm=0 if certificate is None else address(certificate.row_norm),
    )
    return ids, scores, lse
