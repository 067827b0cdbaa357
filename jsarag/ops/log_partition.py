"""``log_partition``: log sum over all passages of exp(score · inv_temperature), differentiable.

Its gradient is inv_temperature · sum_h p(h) e(h): one more streaming pass (attention whose keys and
values are the passages). Neither pass stores the [B, N] scores.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from jsarag.backends.native import log_partition as native
from jsarag.errors import JsaragError
from jsarag.ops.checks import Signature, Sized
from jsarag.ops.library import LIBRARY, register, save, saved
from jsarag.ops.reference.log_partition import log_partition as reference_forward
from jsarag.ops.reference.log_partition import log_partition_backward as reference_backward
from jsarag.ops.reference.scan import compute_dtype
from jsarag.ops.search import Search, require_rows

_WIDE = (torch.float32, torch.float64)


class Gradient(NamedTuple):
    """The forward pass's result and the gradient on it."""

    lse: Annotated[Tensor, Sized("B", _WIDE)]
    grad: Annotated[Tensor, Sized("B", _WIDE)]


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
    workers = torch.get_num_threads() if threads is None else threads
    search = Search(queries, passages, inv_temperature, scales, exclude, workers)
    arguments = _FORWARD.checked(search)
    require_rows("log_partition", passages, scales)
    if passages.requires_grad:
        raise JsaragError(
            "log_partition: passages require gradient, but the op is differentiable in queries "
            "only; detach them and recompute the re-encoded tiles"
        )
    result: Tensor = _log_partition(*arguments)
    return result


def _run(search: Search) -> Tensor:
    if search.backend("log_partition") != "reference":
        return native.log_partition(search.inputs())
    return reference_forward(*search[:5])


def _fake(search: Search) -> Tensor:
    dtype = compute_dtype(search.queries, search.passages)
    return search.queries.new_empty((search.queries.shape[0],), dtype=dtype)


def _run_backward(search: Search, given: Gradient) -> Tensor:
    if search.backend("log_partition") != "reference":
        gradient = native.log_partition_backward(search.inputs(), *given)
        return gradient.to(search.queries.dtype)
    return reference_backward(given.grad, given.lse, *search[:5])


def _fake_backward(search: Search, given: Gradient) -> Tensor:
    return torch.empty_like(search.queries, memory_format=torch.contiguous_format)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    others = [None] * (len(Search._fields) - 1)
    if not ctx.needs_input_grad[0]:
        return None, *others
    lse, inputs = saved(ctx)
    return _log_partition_backward(*inputs, lse, grad), *others


_FORWARD = Signature("log_partition", Search, differentiable=True)
_log_partition = register(_FORWARD, 1, _run, _fake)
_log_partition_backward = register(
    Signature("log_partition_backward", Search, Gradient), 1, _run_backward, _fake_backward
)
torch.library.register_autograd("jsarag::log_partition", _autograd, setup_context=save, lib=LIBRARY)
