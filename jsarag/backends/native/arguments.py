"""What the ops hand over alike: rows to be streamed, a search's inputs, where a CUDA op runs.

Each object keeps alive the tensors whose addresses it holds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.backends.native.compiled import module

_SCALARS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}


def on_cuda(tensor: Tensor) -> bool:
    """Whether the CUDA kernels run on this tensor, and not the CPU's."""
    return tensor.is_cuda


def address(tensor: Tensor | None) -> int:
    """Where a contiguous tensor begins; 0, a null pointer, for None."""
    return 0 if tensor is None else tensor.data_ptr()


def dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers as ``dtype``, one behind the other; the tensor itself if it is so."""
    return tensor.to(dtype).contiguous()


class Rows:
    """[N, D] passages, read where they lie (a memory-mapped file is streamed).

    Only rows whose numbers are not adjacent are copied.
    """

    def __init__(self, passages: Tensor, scales: Tensor | None = None) -> None:
        if passages.stride(1) != 1 and passages.shape[1] > 1:
            passages = passages.contiguous()
        self.passages = passages
        self.scales = None if scales is None else dense(scales, torch.float32)
        self.view = module().PassagesView(
            data=passages.data_ptr(),
            type=_SCALARS[passages.dtype],
            row_bytes=passages.stride(0) * passages.element_size(),
            scales=address(self.scales),
            count=passages.shape[0],
            width=passages.shape[1],
        )


class SearchInputs:
    """What ``scan``, ``draw`` and ``log_partition`` read; queries become f32."""

    def __init__(
        self,
        queries: Tensor,
        passages: Tensor,
        inv_temperature: float,
        scales: Tensor | None,
        exclude: Tensor | None,
        threads: int,
    ) -> None:
        self.queries = dense(queries, torch.float32)
        self.rows = Rows(passages, scales)
        self.exclude = None if exclude is None else exclude.contiguous()
        self.record = module().ScanInputs(
            queries=self.queries.data_ptr(),
            batch=queries.shape[0],
            passages=self.rows.view,
            exclude=address(self.exclude),
            per_query=0 if self.exclude is None else self.exclude.shape[1],
            inv_temperature=inv_temperature,
            threads=threads,
        )


class CudaCall:
    """Device, stream and scratch of one CUDA call: all of its work is queued on that stream."""

    def __init__(self, device: torch.device, scratch_bytes: int = 0) -> None:
        self.scratch = (
            torch.empty(scratch_bytes, dtype=torch.uint8, device=device) if scratch_bytes else None
        )
        self.record = module().CudaCall(
            device=device.index or 0,
            stream=torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0,
            scratch=address(self.scratch),
            scratch_bytes=scratch_bytes,
        )
