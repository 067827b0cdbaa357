"""``mis_chain``: check the arguments, choose a backend, run all steps of all chains at once."""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.errors import DtypeError, ShapeError
from jsarag.ops.reference import mis_chain as reference
from jsarag.ops.reference.mis_chain import MisChainResult

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
    log_weight, uniforms = log_weight.detach(), uniforms.detach()
    start = None if start_log_weight is None else start_log_weight.detach()
    return reference.mis_chain(log_weight, start, uniforms)


def _check(log_weight: Tensor, start: Tensor | None, uniforms: Tensor) -> None:
    if log_weight.dim() != 2:
        raise ShapeError(
            f"mis_chain log_weight: expected [B, M], found shape {tuple(log_weight.shape)}"
        )
    if uniforms.shape != log_weight.shape:
        raise ShapeError(
            f"mis_chain uniforms: expected {tuple(log_weight.shape)} like log_weight, "
            f"found shape {tuple(uniforms.shape)}"
        )
    if start is not None and start.shape != log_weight.shape[:1]:
        raise ShapeError(
            f"mis_chain start_log_weight: expected [{log_weight.shape[0]}], one per chain, "
            f"found shape {tuple(start.shape)}"
        )
    if log_weight.dtype not in _FLOATS or uniforms.dtype not in _FLOATS:
        raise DtypeError(
            "mis_chain: expected float32 or float64 log_weight and uniforms, found "
            f"{log_weight.dtype} and {uniforms.dtype}; bf16 cannot resolve a weight ratio"
        )
    if start is not None and start.dtype != log_weight.dtype:
        raise DtypeError(
            f"mis_chain start_log_weight: expected {log_weight.dtype} like log_weight, found "
            f"{start.dtype}"
        )
    devices = {tensor.device for tensor in (log_weight, uniforms, start) if tensor is not None}
    if len(devices) > 1:
        raise ShapeError(
            f"mis_chain: expected all arguments on one device, found {sorted(map(str, devices))}"
        )
