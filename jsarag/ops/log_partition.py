"""``log_partition``: log sum over all passages of exp(score · inv_temperature), differentiable.

Its gradient is inv_temperature · sum_h p(h) e(h): one more streaming pass (attention whose keys and
values are the passages). Neither pass stores the [B, N] scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jsarag.backends import native
from jsarag.errors import JsaragError
from jsarag.ops import checks
from jsarag.ops.library import LIBRARY, register
from jsarag.ops.reference.log_partition import log_partition as reference_forward
from jsarag.ops.reference.log_partition import log_partition_backward as reference_backward
from jsarag.ops.reference.scan import compute_dtype
from jsarag.ops.scan import choose_scan


def log_partition(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    *,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
    threads: int | None = None,
) -> Tensor:
    """log sum_h exp(q·e(h) · inv_temperature) over all passages, nats.

    Args:
        queries: [B, D]; gradient flows into them, once (no second derivative).
        passages: [N, D] f32, bf16, f16 or int8 with ``scales``; no gradient.
        inv_temperature: positive.
        scales: f32 [N] for int8 passages.
        exclude: int64 [B, E] passages to leave out; entries outside 0..N-1 (-1) are padding.
        threads: of the CPU kernel; the result does not depend on it.

    Returns:
        f32 [B] (f64 for f64 inputs); -inf, with gradient 0, where nothing is left.

    Raises:
        ShapeError, DtypeError: an argument is not as above.
        JsaragError: ``passages`` requires gradient.
    """
    checks.check_scan_inputs("log_partition", queries, passages, inv_temperature, scales, exclude)
    if passages.requires_grad:
        raise JsaragError(
            "log_partition: passages require gradient, but the op is differentiable in queries "
            "only; detach them and recompute the re-encoded tiles"
        )
    workers = torch.get_num_threads() if threads is None else threads
    result: Tensor = torch.ops.jsarag.log_partition(
        queries, passages, inv_temperature, scales, exclude, workers
    )
    return result


def _forward(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    threads: int,
) -> Tensor:
    backend = choose_scan("log_partition", queries, passages).backend
    if backend != "reference":
        inputs = native.ScanInputs(queries, passages, inv_temperature, scales, exclude, threads)
        run = native.log_partition_cuda if backend == "cuda" else native.log_partition_cpu
        return run(inputs)
    return reference_forward(queries, passages, inv_temperature, scales, exclude)


def _forward_fake(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    threads: int,
) -> Tensor:
    return queries.new_empty((queries.shape[0],), dtype=compute_dtype(queries, passages))


def _backward(
    grad: Tensor,
    lse: Tensor,
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    threads: int,
) -> Tensor:
    backend = choose_scan("log_partition", queries, passages).backend
    if backend != "reference":
        inputs = native.ScanInputs(queries, passages, inv_temperature, scales, exclude, threads)
        run = (
            native.log_partition_backward_cuda
            if backend == "cuda"
            else native.log_partition_backward_cpu
        )
        return run(inputs, lse, grad).to(queries.dtype)
    return reference_backward(grad, lse, queries, passages, inv_temperature, scales, exclude)


def _backward_fake(
    grad: Tensor,
    lse: Tensor,
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    threads: int,
) -> Tensor:
    return torch.empty_like(queries, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    queries, passages, inv_temperature, scales, exclude, threads = inputs
    ctx.save_for_backward(output, queries, passages, scales, exclude)
    ctx.inv_temperature, ctx.threads = inv_temperature, threads


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    lse, queries, passages, scales, exclude = ctx.saved_tensors
    if not ctx.needs_input_grad[0]:
        return None, None, None, None, None, None
    gradient = torch.ops.jsarag.log_partition_backward(
        grad, lse, queries, passages, ctx.inv_temperature, scales, exclude, ctx.threads
    )
    return gradient, None, None, None, None, None


register(
    "log_partition",
    "(Tensor queries, Tensor passages, float inv_temperature, Tensor? scales, Tensor? exclude, "
    "int threads) -> Tensor",
    _forward,
    _forward_fake,
)
register(
    "log_partition_backward",
    "(Tensor grad, Tensor lse, Tensor queries, Tensor passages, float inv_temperature, "
    "Tensor? scales, Tensor? exclude, int threads) -> Tensor",
    _backward,
    _backward_fake,
)
torch.library.register_autograd(
    "jsarag::log_partition", _autograd, setup_context=_setup_context, lib=LIBRARY
)
