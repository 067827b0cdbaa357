"""``mis_chain``: all steps of all chains in one call.

Declares and checks arguments, chooses the implementation, and registers the operator; the steps are
in ``reference/mis_chain.py`` and ``csrc/*/mis_chain*``.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from jsarag.backends.native import mis_chain as native
from jsarag.ops.checks import AT_LEAST_1, Signature, Sized
from jsarag.ops.library import backend_of, register
from jsarag.ops.reference.mis_chain import mis_chain as reference_mis_chain
from jsarag.ops.results import MisChainResult

_FLOATS = (torch.float32, torch.float64)


class Chains(NamedTuple):
    """See :func:`mis_chain`."""

    log_weight: Annotated[Tensor, Sized("B M", _FLOATS)]
    start_log_weight: Annotated[Tensor | None, Sized("B", "log_weight")]
    uniforms: Annotated[Tensor, Sized("B M", _FLOATS)]
    threads: Annotated[int, AT_LEAST_1]


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
    chains = Chains(log_weight, start_log_weight, uniforms, torch.get_num_threads())
    return MisChainResult(*_mis_chain(*_SIGNATURE.checked(chains)))


def _run(chains: Chains) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Uniforms of either width are read as they are; the weights' dtype decides.
    if backend_of("mis_chain", ("float32",), chains.log_weight) != "reference":
        return native.mis_chain(*chains)
    return reference_mis_chain(*chains[:3])


def _fake(chains: Chains) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_weight = chains.log_weight
    batch, steps = log_weight.shape
    return (
        log_weight.new_empty((batch, steps), dtype=torch.int32),
        log_weight.new_empty((batch, steps), dtype=torch.bool),
        log_weight.new_empty((batch, steps + 1)),
        log_weight.new_empty((batch, steps + 1)),
    )


_SIGNATURE = Signature("mis_chain", Chains)
_mis_chain = register(_SIGNATURE, 4, _run, _fake)
