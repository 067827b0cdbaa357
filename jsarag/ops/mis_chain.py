"""``mis_chain``: all steps of all chains in one call.

Checks arguments, chooses the implementation, and registers the operator; the steps are in
``reference/mis_chain.py`` and ``csrc/*/mis_chain*``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.backends import native
from jsarag.backends.select import choose
from jsarag.ops import checks
from jsarag.ops.library import register
from jsarag.ops.reference.mis_chain import mis_chain as reference_mis_chain
from jsarag.ops.results import MisChainResult

_FLOATS = (torch.float32, torch.float64)


def mis_chain(
    log_weight: Tensor, start_log_weight: Tensor | None, uniforms: Tensor
) -> MisChainResult:
    """Run M steps of Metropolis independence sampling on B chains, given all proposals' weights.

    Step t accepts its proposal when ``log u_t < log_weight_t - log_weight_held``, compared in
    float64 (docs/math.md, equation 3: log W(h) = log p(h|x) + log p(y|x,h) - log q(h|x,y)). Without
    a start the first proposal *is* the start: ``uniforms[:, 0]`` is unused, ``accepted[:, 0]`` is
    True and is no part of an acceptance rate.

    Weights that are not finite, the same in every backend:

    ========  ========================  ==========================================================
    held      proposal                  outcome
    ========  ========================  ==========================================================
    any       NaN                       never accepted
    NaN       not NaN                   always accepted, whatever the uniform
    -inf      above -inf                always accepted
    -inf      -inf                      never accepted: nothing tells them apart
    finite    +inf                      always accepted
    +inf      finite, -inf or +inf      never accepted
    finite    -inf                      never accepted
    ========  ========================  ==========================================================

    So in a batch where some chains have a stored state and some have none, give the latter a NaN
    start: their first usable proposal is taken for free. A free *first* step without a start
    (``start_log_weight`` None) is taken even if that proposal's weight is NaN.

    Args:
        log_weight: f32 or f64 [B, M], nats, of each proposal. Detached.
        start_log_weight: [B] of the held states, same dtype, or None for fresh chains. Detached.
        uniforms: f32 or f64 [B, M] in [0, 1). A NaN uniform accepts only what is always accepted
            because the held weight is NaN.

    Returns:
        MisChainResult(state, accepted, visits, recycled).

    Raises:
        ShapeError, DtypeError: an argument is not as above.

    Notes:
        Same numbers from every backend, batch size and thread count: one chain reads only its own
        row. ``state``, ``accepted`` and ``visits`` could differ between two maths libraries only
        where log u lies within one float64 ulp of the difference; ``recycled`` is summed in
        float64 and rounded once.
    """
    _check(log_weight, start_log_weight, uniforms)
    start = None if start_log_weight is None else start_log_weight.detach()
    return MisChainResult(
        *torch.ops.jsarag.mis_chain(
            log_weight.detach(), start, uniforms.detach(), torch.get_num_threads()
        )
    )


def _check(log_weight: Tensor, start: Tensor | None, uniforms: Tensor) -> None:
    checks.require_dtype("mis_chain", "log_weight", log_weight, _FLOATS)
    checks.require_dtype("mis_chain", "uniforms", uniforms, _FLOATS)
    checks.require_shape("mis_chain", "log_weight", log_weight, (None, None))
    checks.require_shape("mis_chain", "uniforms", uniforms, tuple(log_weight.shape))
    if start is not None:
        checks.require_dtype("mis_chain", "start_log_weight", start, (log_weight.dtype,))
        checks.require_shape("mis_chain", "start_log_weight", start, (log_weight.shape[0],))
    checks.require_same_device(
        "mis_chain", {"log_weight": log_weight, "start_log_weight": start, "uniforms": uniforms}
    )


def _run(
    log_weight: Tensor, start: Tensor | None, uniforms: Tensor, threads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = log_weight.device.type
    # Uniforms of either width are read as they are; the weights' dtype decides.
    choice = choose(
        "mis_chain",
        device,
        (checks.dtype_name(log_weight.dtype),),
        native_ops=native.native_ops(device),
        supported=("float32",),
        missing=native.MISSING,
    )
    if choice.backend == "cpu":
        return native.mis_chain_cpu(log_weight, start, uniforms, threads)
    if choice.backend == "cuda":
        return native.mis_chain_cuda(log_weight, start, uniforms)
    return reference_mis_chain(log_weight, start, uniforms)


def _fake(
    log_weight: Tensor, start: Tensor | None, uniforms: Tensor, threads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, steps = log_weight.shape
    return (
        log_weight.new_empty((batch, steps), dtype=torch.int32),
        log_weight.new_empty((batch, steps), dtype=torch.bool),
        log_weight.new_empty((batch, steps + 1)),
        log_weight.new_empty((batch, steps + 1)),
    )


register(
    "mis_chain",
    "(Tensor log_weight, Tensor? start_log_weight, Tensor uniforms, int threads) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
