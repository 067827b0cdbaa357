"""A knowledge base's vectors and queries for the kernels that stream over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from jsarag_bench.cases import Case
from jsarag_bench.kernels.base import normal, unit_rows

INV_TEMPERATURE = 20.0
_NOISE = 1.0


class Int8Rows(NamedTuple):
    """values int8 [N, D] times scales f32 [N]."""

    values: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Passages:
    """Passages f32 [N, D] of unit length and, made when asked for, what they are rounded to."""

    exact: Tensor
    _rounded: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def as_dtype(self, name: str) -> Tensor:
        """The passages in ``float32``, ``bfloat16`` or ``float16``."""
        dtype: torch.dtype = getattr(torch, name)
        if dtype == torch.float32:
            return self.exact
        if dtype not in self._rounded:
            self._rounded[dtype] = self.exact.to(dtype)
        return self._rounded[dtype]

    @cached_property
    def int8(self) -> Int8Rows:
        """Each row scaled by its largest value."""
        scales = torch.empty(len(self.exact), device=self.exact.device)
        values = torch.empty(self.exact.shape, dtype=torch.int8, device=self.exact.device)
        block = 1 << 17
        for first in range(0, len(self.exact), block):
            part = self.exact[first : first + block]
            scale = part.abs().amax(dim=1).clamp(min=1e-30) / 127.0
            scales[first : first + block] = scale
            values[first : first + block] = (part / scale.unsqueeze(1)).round().to(torch.int8)
        return Int8Rows(values, scales)


@dataclass(frozen=True)
class ScanInputs:
    """Queries f32 [B, D] near some passages, and the passages."""

    queries: Tensor
    passages: Passages

    @cached_property
    def queries_numpy(self) -> object:
        """For rivals that take numpy."""
        return self.queries.numpy()


# One knowledge base at a time: the next shape's takes its memory.
@lru_cache(maxsize=1)
def _passages(rows: int, width: int, device: str) -> Passages:
    return Passages(unit_rows(rows, width, device, "passages", rows, width))


def forget_passages() -> None:
    """Free the knowledge base that is kept between cases."""
    _passages.cache_clear()


def make_scan_inputs(case: Case, device: str) -> ScanInputs:
    """Queries are passages with noise: their nearest passage stands out, as after training."""
    batch, rows, width = case.shape["B"], case.shape["N"], case.shape["D"]
    passages = _passages(rows, width, device)
    chosen = torch.arange(batch, device=device) * max(rows // max(batch, 1), 1) % rows
    noise = normal((batch, width), device, "queries", batch, rows, width)
    queries = passages.exact[chosen] + noise * (_NOISE / width**0.5)
    return ScanInputs(queries / queries.norm(dim=1, keepdim=True), passages)


def stored(case: Case, inputs: ScanInputs) -> tuple[Tensor, Tensor | None]:
    """What the case's op reads: passages [N, D] in its dtype, and scales for int8."""
    if case.dtype == "int8":
        return inputs.passages.int8
    return inputs.passages.as_dtype(case.dtype), None


def naive_scores(queries: Tensor, passages: Tensor, scales: Tensor | None) -> Tensor:
    """Inner products by one torch matmul in the passages' dtype, f32 [B, N].

    For int8 that means queries rounded to int8, too (the products are exact in f32).
    """
    if scales is not None:
        step = queries.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127.0
        return ((queries / step).round() @ passages.float().T) * scales * step
    return (queries.to(passages.dtype) @ passages.T).float()


def true_scores(queries: Tensor, passages: Tensor, scales: Tensor | None) -> Tensor:
    """The same in float64, block by block."""
    blocks = []
    for first in range(0, len(passages), 1 << 16):
        part = passages[first : first + (1 << 16)].double()
        blocks.append(queries.double() @ part.T)
    scores = torch.cat(blocks, dim=1)
    return scores if scales is None else scores * scales.double()


def streamed_bytes(passages: Tensor, scales: Tensor | None) -> float:
    """Bytes of one pass over the passages."""
    extra = 0 if scales is None else scales.numel() * scales.element_size()
    return float(passages.numel() * passages.element_size() + extra)


def rate_dtype(case: Case) -> str:
    """The matmul rate that bounds the case: bf16's for everything narrower than f32."""
    return "float32" if case.dtype == "float32" else "bfloat16"
