"""The one door to the compiled module: the only file that turns tensors into addresses.

Its callers (``jsarag.ops``) have checked shapes and dtypes; here tensors are made contiguous where
a kernel needs it, kept alive for the call, and handed over as integers. Without the compiled module
everything runs on the reference; :data:`MISSING` says why it is not there.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

MISSING = ""
_module: ModuleType | None = None
try:
    _module = importlib.import_module("jsarag._native")
except ImportError as error:
    MISSING = f"the compiled module is not there ({error}); reinstall jsarag"

CPU_OPS: frozenset[str] = frozenset(getattr(_module, "CPU_OPS", ()))
CUDA_OPS: frozenset[str] = frozenset(getattr(_module, "CUDA_OPS", ()))


# bf16 products by mma.sync and asynchronous copies: older GPUs run the reference.
_LEAST_CAPABILITY = (8, 0)


def native_ops(device: str) -> frozenset[str]:
    """Ops the compiled module has for ``cpu`` or ``cuda``."""
    if device != "cuda":
        return CPU_OPS
    return CUDA_OPS if CUDA_OPS and _capability() >= _LEAST_CAPABILITY else frozenset()


@functools.cache
def _capability() -> tuple[int, int]:
    """Of the current CUDA device; (0, 0) without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


def module() -> Any:
    """The compiled module; only where :data:`MISSING` is empty."""
    assert _module is not None, MISSING
    return _module


def tile() -> int | None:
    """TILE as compiled, None without the module."""
    return None if _module is None else int(_module.TILE)


def cpu_features() -> list[str]:
    """Instruction sets the running CPU offers and the kernels know, weakest first."""
    return [] if _module is None else list(_module.cpu_features())


def cuda_architectures() -> list[str]:
    """Architectures the CUDA kernels were compiled for; empty where they were not built."""
    return [] if _module is None else list(_module.cuda_architectures())


def cuda_device() -> str | None:
    """Name of the CUDA device, None where there is none or no CUDA kernels."""
    return (_module.cuda_device_name() or None) if _module is not None else None


def mis_chain_cpu(
    log_weight: Tensor, start_log_weight: Tensor | None, uniforms: Tensor, threads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``mis_chain`` for f32 weights: state, accepted, visits, recycled."""
    return _mis_chain(module().mis_chain_cpu, threads, log_weight, start_log_weight, uniforms)


def mis_chain_cuda(
    log_weight: Tensor, start_log_weight: Tensor | None, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``mis_chain`` for f32 weights: state, accepted, visits, recycled."""
    call, _scratch = _cuda_call(log_weight.device, 0)
    return _mis_chain(module().mis_chain_cuda, call, log_weight, start_log_weight, uniforms)


def _mis_chain(
    kernel: Any,
    where: Any,
    log_weight: Tensor,
    start_log_weight: Tensor | None,
    uniforms: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, steps = log_weight.shape
    log_weight, uniforms = log_weight.contiguous(), uniforms.contiguous()
    start = None if start_log_weight is None else start_log_weight.contiguous()
    device = log_weight.device
    state = torch.empty((batch, steps), dtype=torch.int32, device=device)
    accepted = torch.empty((batch, steps), dtype=torch.bool, device=device)
    visits = torch.empty((batch, steps + 1), dtype=torch.float32, device=device)
    recycled = torch.empty((batch, steps + 1), dtype=torch.float32, device=device)
    kernel(
        batch,
        steps,
        log_weight.data_ptr(),
        0 if start is None else start.data_ptr(),
        uniforms.data_ptr(),
        uniforms.dtype == torch.float64,
        state.data_ptr(),
        accepted.data_ptr(),
        visits.data_ptr(),
        recycled.data_ptr(),
        where,
    )
    return state, accepted, visits, recycled


class PassageLogpInputs:
    """What both directions of ``passage_logp`` read, in the layout the kernels take."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        cu_seqlens: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        logit_scale: float,
        ignore_index: int,
    ) -> None:
        self.hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
        self.weight = weight if weight.stride(1) == 1 else weight.contiguous()
        self.bias = None if bias is None else bias.contiguous()
        self.targets = targets.to(torch.int64).contiguous()
        self.cu_seqlens = cu_seqlens.to(torch.int64).contiguous()
        self.sequences = cu_seqlens.numel() - 1
        self.ignore_index = ignore_index
        self.record = module().PassageLogpInputs(
            tokens=hidden.shape[0],
            width=hidden.shape[1],
            vocabulary=weight.shape[0],
            sequences=self.sequences,
            bf16=hidden.dtype == torch.bfloat16,
            hidden=self.hidden.data_ptr(),
            hidden_stride=self.hidden.stride(0),
            weight=self.weight.data_ptr(),
            weight_stride=self.weight.stride(0),
            bias=0 if self.bias is None else self.bias.data_ptr(),
            targets=self.targets.data_ptr(),
            cu_seqlens=self.cu_seqlens.data_ptr(),
            ignore_index=ignore_index,
            logit_scale=logit_scale,
            softcap=softcap or 0.0,
        )


def passage_logp_cpu(inputs: PassageLogpInputs, threads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``passage_logp`` for f32 and bf16: logp f32 [S], tokens i32 [S], lse f64 [T]."""
    return _passage_logp(module().passage_logp_cpu, threads, inputs)


def passage_logp_backward_cpu(
    inputs: PassageLogpInputs,
    lse: Tensor,
    grad_logp: Tensor,
    wanted: tuple[bool, bool, bool],
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients on hidden, weight and bias; an unwanted one comes back with no elements."""
    vocabulary, width = inputs.weight.shape
    shapes = (tuple(inputs.hidden.shape), (vocabulary, width), (vocabulary,))
    grads = [
        inputs.hidden.new_empty(shape if want else (0,))
        for shape, want in zip(shapes, wanted, strict=True)
    ]
    lse, grad_logp = lse.contiguous(), grad_logp.contiguous()
    module().passage_logp_backward_cpu(
        inputs.record,
        lse.data_ptr(),
        grad_logp.data_ptr(),
        *(grad.data_ptr() if want else 0 for grad, want in zip(grads, wanted, strict=True)),
        threads,
    )
    return grads[0], grads[1], grads[2]


def passage_logp_cuda(inputs: PassageLogpInputs) -> tuple[Tensor, Tensor, Tensor]:
    """``passage_logp`` for f32 and bf16: logp f32 [S], tokens i32 [S], lse f64 [T]."""
    device = inputs.hidden.device
    scratch_bytes = module().passage_logp_cuda_scratch(inputs.record, device.index or 0)
    call, _scratch = _cuda_call(device, scratch_bytes)
    return _passage_logp(module().passage_logp_cuda, call, inputs)


def _passage_logp(
    kernel: Any, where: Any, inputs: PassageLogpInputs
) -> tuple[Tensor, Tensor, Tensor]:
    device = inputs.hidden.device
    logp = torch.empty(inputs.sequences, dtype=torch.float32, device=device)
    tokens = torch.empty(inputs.sequences, dtype=torch.int32, device=device)
    lse = torch.empty(inputs.hidden.shape[0], dtype=torch.float64, device=device)
    kernel(inputs.record, logp.data_ptr(), tokens.data_ptr(), lse.data_ptr(), where)
    return logp, tokens, lse


def passage_logp_backward_cuda(
    inputs: PassageLogpInputs,
    lse: Tensor,
    grad_logp: Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients on hidden, weight and bias; an unwanted one comes back with no elements.

    A chunk of words at a time: the kernel leaves the gradient on the chunk's logits, and torch's
    matrix products spread it. Sums over the vocabulary are kept in f32.
    """
    hidden, weight = inputs.hidden, inputs.weight
    (tokens, width), vocabulary = hidden.shape, weight.shape[0]
    want_hidden, want_weight, want_bias = wanted
    lse, grad_logp = lse.contiguous(), grad_logp.to(torch.float32).contiguous()
    on_hidden = hidden.new_zeros((tokens, width) if want_hidden else (0,), dtype=torch.float32)
    on_weight = weight.new_empty((vocabulary, width) if want_weight else (0,))
    on_bias = weight.new_empty((vocabulary,) if want_bias else (0,))
    # An ignored token may hold anything, and 0 * NaN is NaN.
    dead = (inputs.targets == inputs.ignore_index)[:, None]
    counted = hidden.masked_fill(dead, 0.0) if want_weight else hidden
    most = gradient_words(tokens, vocabulary)
    space = hidden.new_empty(tokens * (-(-most // 8) * 8))
    scratch_bytes = module().passage_logp_gradient_cuda_scratch(inputs.record)
    call, _scratch = _cuda_call(hidden.device, scratch_bytes)
    for first in range(0, vocabulary if any(wanted) else 0, most):
        words = min(most, vocabulary - first)
        stride = -(-words // 8) * 8
        module().passage_logp_gradient_cuda(
            inputs.record,
            lse=lse.data_ptr(),
            grad_logp=grad_logp.data_ptr(),
            first_word=first,
            words=words,
            gradient=space.data_ptr(),
            stride=stride,
            call=call,
        )
        chunk = space[: tokens * stride].view(tokens, stride)[:, :words]
        if want_hidden:
            on_hidden += _product_in_f32(chunk, weight[first : first + words])
        if want_weight:
            torch.mm(chunk.T, counted, out=on_weight[first : first + words])
        if want_bias:
            on_bias[first : first + words] = chunk.sum(0, dtype=torch.float32)
    return on_hidden.to(hidden.dtype), on_weight, on_bias


def gradient_words(tokens: int, vocabulary: int) -> int:
    """Words whose logits' gradient [tokens, words] is in memory at once.

    A sixteenth of the vocabulary, but enough for two waves of 128 x 256 tiles on a large GPU (32 MB
    in bf16), where that is more: few tokens have few logits.
    """
    enough = max(vocabulary // 16, (1 << 24) // max(tokens, 1))
    return max(min(-(-enough // 256) * 256, vocabulary), 1)


def _product_in_f32(left: Tensor, right: Tensor) -> Tensor:
    """left @ right as f32: the sums of a bf16 product are not rounded to bf16."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


_SCALARS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}


class ScanInputs:
    """What ``scan``, ``draw`` and ``log_partition`` read; keeps the tensors alive.

    Queries become f32. Passages stay where they are (a memory-mapped file is streamed); only rows
    whose numbers are not adjacent are copied.
    """

    def __init__(
        self,
        queries: Tensor,
        passages: Tensor,
        inv_temperature: float,
        scales: Tensor | None,
        exclude: Tensor | None,
        threads: int,
    ) -> None:
        self.queries = queries.to(torch.float32).contiguous()
        self.passages, self.view, self.scales = passages_view(passages, scales)
        self.exclude = None if exclude is None else exclude.contiguous()
        self.record = module().ScanInputs(
            queries=self.queries.data_ptr(),
            batch=queries.shape[0],
            passages=self.view,
            exclude=0 if self.exclude is None else self.exclude.data_ptr(),
            per_query=0 if self.exclude is None else self.exclude.shape[1],
            inv_temperature=inv_temperature,
            threads=max(threads, 1),
        )


def passages_view(passages: Tensor, scales: Tensor | None) -> tuple[Tensor, Any, Tensor | None]:
    """(the tensor to keep alive, its view for the kernels, scales to keep alive)."""
    if passages.stride(1) != 1 and passages.shape[1] > 1:
        passages = passages.contiguous()
    if scales is not None:
        scales = scales.to(torch.float32).contiguous()
    view = module().PassagesView(
        data=passages.data_ptr(),
        type=_SCALARS[passages.dtype],
        row_bytes=passages.stride(0) * passages.element_size(),
        scales=0 if scales is None else scales.data_ptr(),
        count=passages.shape[0],
        width=passages.shape[1],
    )
    return passages, view, scales


class Certificate:
    """Exact passages and how far each row was rounded; keeps the tensors alive."""

    def __init__(self, exact: Tensor, row_error: Tensor, row_norm: Tensor) -> None:
        self.exact, self.view, _ = passages_view(exact, None)
        self.row_error, self.row_norm = row_error.contiguous(), row_norm.contiguous()


def scan_cpu(
    inputs: ScanInputs, k: int, tiles: int | None, certificate: Certificate | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``scan``: ids i64 [B, k], scores f32 [B, k], tile_lse f32 [B, tiles] ([B, 0] for None)."""
    batch = inputs.queries.shape[0]
    ids = torch.empty((batch, k), dtype=torch.int64)
    scores = torch.empty((batch, k), dtype=torch.float32)
    lse = torch.empty((batch, tiles or 0), dtype=torch.float32)
    module().scan_cpu(
        inputs.record,
        k=k,
        ids=ids.data_ptr(),
        scores=scores.data_ptr(),
        tile_lse=lse.data_ptr() if tiles else 0,
        exact=None if certificate is None else certificate.view,
        row_error=0 if certificate is None else certificate.row_error.data_ptr(),
        row_norm=0 if certificate is None else certificate.row_norm.data_ptr(),
    )
    return ids, scores, lse


def _cuda_call(device: torch.device, scratch_bytes: int) -> tuple[Any, Tensor]:
    """(device, stream and scratch for one CUDA call, the scratch to keep alive)."""
    scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=device)
    record = module().CudaCall(
        device=device.index or 0,
        stream=torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0,
        scratch=scratch.data_ptr(),
        scratch_bytes=scratch_bytes,
    )
    return record, scratch


def scan_cuda(
    inputs: ScanInputs, k: int, tiles: int | None, certificate: Certificate | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``scan``: ids i64 [B, k], scores f32 [B, k], tile_lse f32 [B, tiles] ([B, 0] for None)."""
    batch, device = inputs.queries.shape[0], inputs.queries.device
    ids = torch.empty((batch, k), dtype=torch.int64, device=device)
    scores = torch.empty((batch, k), dtype=torch.float32, device=device)
    lse = torch.empty((batch, tiles or 0), dtype=torch.float32, device=device)
    exact = None if certificate is None else certificate.view
    scratch_bytes = module().scan_cuda_scratch(
        inputs.record, k=k, tile_lse=bool(tiles), exact=exact, device=device.index or 0
    )
    call, _scratch = _cuda_call(device, scratch_bytes)
    module().scan_cuda(
        inputs.record,
        k=k,
        ids=ids.data_ptr(),
        scores=scores.data_ptr(),
        tile_lse=lse.data_ptr() if tiles else 0,
        exact=exact,
        row_error=0 if certificate is None else certificate.row_error.data_ptr(),
        row_norm=0 if certificate is None else certificate.row_norm.data_ptr(),
        call=call,
    )
    return ids, scores, lse


def row_errors_cpu(
    passages: Tensor, scales: Tensor | None, exact: Tensor, threads: int
) -> tuple[Tensor, Tensor]:
    """‖e - e'‖ and ‖e'‖ of each row, rounded up: f32 [N] each; +inf where not finite."""
    passages, view, scales = passages_view(passages, scales)
    exact, exact_view, _ = passages_view(exact, None)
    row_error = torch.empty(passages.shape[0], dtype=torch.float32)
    row_norm = torch.empty(passages.shape[0], dtype=torch.float32)
    module().row_errors_cpu(
        rounded=view,
        exact=exact_view,
        threads=max(threads, 1),
        row_error=row_error.data_ptr(),
        row_norm=row_norm.data_ptr(),
    )
    return row_error, row_norm


def row_errors_cuda(
    passages: Tensor, scales: Tensor | None, exact: Tensor
) -> tuple[Tensor, Tensor]:
    """‖e - e'‖ and ‖e'‖ of each row, rounded up: f32 [N] each; +inf where not finite."""
    passages, view, scales = passages_view(passages, scales)
    exact, exact_view, _ = passages_view(exact, None)
    row_error = torch.empty(passages.shape[0], dtype=torch.float32, device=passages.device)
    row_norm = torch.empty_like(row_error)
    call, _scratch = _cuda_call(passages.device, 0)
    module().row_errors_cuda(
        rounded=view,
        exact=exact_view,
        row_error=row_error.data_ptr(),
        row_norm=row_norm.data_ptr(),
        call=call,
    )
    return row_error, row_norm


def draw_cpu(inputs: ScanInputs, tile_lse: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """``draw``: ids i64 [B, M], logp f32 [B, M]."""
    tile_lse = tile_lse.to(torch.float32).contiguous()
    uniforms = uniforms.to(torch.float64).contiguous()
    ids = torch.empty(uniforms.shape, dtype=torch.int64)
    logp = torch.empty(uniforms.shape, dtype=torch.float32)
    module().draw_cpu(
        inputs.record,
        tile_lse=tile_lse.data_ptr(),
        uniforms=uniforms.data_ptr(),
        draws=uniforms.shape[1],
        ids=ids.data_ptr(),
        logp=logp.data_ptr(),
    )
    return ids, logp


def draw_cuda(inputs: ScanInputs, tile_lse: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """``draw``: ids i64 [B, M], logp f32 [B, M]."""
    tile_lse = tile_lse.to(torch.float32).contiguous()
    uniforms = uniforms.to(torch.float64).contiguous()
    ids = torch.empty(uniforms.shape, dtype=torch.int64, device=uniforms.device)
    logp = torch.empty(uniforms.shape, dtype=torch.float32, device=uniforms.device)
    draws = uniforms.shape[1]
    scratch_bytes = module().draw_cuda_scratch(inputs.record, draws=draws)
    call, _scratch = _cuda_call(uniforms.device, scratch_bytes)
    module().draw_cuda(
        inputs.record,
        tile_lse=tile_lse.data_ptr(),
        uniforms=uniforms.data_ptr(),
        draws=draws,
        ids=ids.data_ptr(),
        logp=logp.data_ptr(),
        call=call,
    )
    return ids, logp


def log_partition_cpu(inputs: ScanInputs) -> Tensor:
    """``log_partition``: f32 [B]."""
    lse = torch.empty(inputs.queries.shape[0], dtype=torch.float32)
    module().log_partition_cpu(inputs.record, lse=lse.data_ptr())
    return lse


def log_partition_backward_cpu(inputs: ScanInputs, lse: Tensor, grad: Tensor) -> Tensor:
    """Gradient of ``log_partition`` in the queries: f32 [B, D]."""
    lse = lse.to(torch.float32).contiguous()
    grad = grad.to(torch.float32).contiguous()
    gradient = torch.empty(inputs.queries.shape, dtype=torch.float32)
    module().log_partition_backward_cpu(
        inputs.record, lse=lse.data_ptr(), grad=grad.data_ptr(), gradient=gradient.data_ptr()
    )
    return gradient


def log_partition_cuda(inputs: ScanInputs) -> Tensor:
    """``log_partition``: f32 [B]."""
    device = inputs.queries.device
    lse = torch.empty(inputs.queries.shape[0], dtype=torch.float32, device=device)
    scratch_bytes = module().log_partition_cuda_scratch(inputs.record, device=device.index or 0)
    call, _scratch = _cuda_call(device, scratch_bytes)
    module().log_partition_cuda(inputs.record, lse=lse.data_ptr(), call=call)
    return lse


def log_partition_backward_cuda(inputs: ScanInputs, lse: Tensor, grad: Tensor) -> Tensor:
    """Gradient of ``log_partition`` in the queries: f32 [B, D]."""
    lse = lse.to(torch.float32).contiguous()
    grad = grad.to(torch.float32).contiguous()
    gradient = torch.empty_like(inputs.queries)
    scratch_bytes = module().log_partition_backward_cuda_scratch(inputs.record)
    call, _scratch = _cuda_call(gradient.device, scratch_bytes)
    module().log_partition_backward_cuda(
        inputs.record,
        lse=lse.data_ptr(),
        grad=grad.data_ptr(),
        gradient=gradient.data_ptr(),
        call=call,
    )
    return gradient
