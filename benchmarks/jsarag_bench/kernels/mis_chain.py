"""``mis_chain``: all steps of all Metropolis chains of a batch in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from jsarag import ops, randomness
from jsarag.ops import MisChainResult
from jsarag.ops.reference.mis_chain import mis_chain as reference
from jsarag_bench.cases import Case
from jsarag_bench.kernels.base import Check, Workload, backend_of, compare, normal

_WEIGHT_SPREAD_NATS = 3.0


@dataclass(frozen=True)
class MisChainInputs:
    """log_weight f32 [B, M] nats, start_log_weight f32 [B], uniforms f64 [B, M]."""

    log_weight: Tensor
    start_log_weight: Tensor
    uniforms: Tensor


def make_inputs(case: Case, device: str) -> MisChainInputs:
    """Weights a few nats apart: about a third of the proposals is accepted."""
    batch, steps = case.shape["B"], case.shape["M"]
    weights = _WEIGHT_SPREAD_NATS * normal((batch, steps + 1), device, "mis_chain", batch, steps)
    names = [f"bench-{row}" for row in range(batch)]
    uniforms = randomness.uniforms(1, "bench", names, [0] * batch, steps).to(device)
    return MisChainInputs(weights[:, :steps].contiguous(), weights[:, steps].contiguous(), uniforms)


def build(case: Case, inputs: MisChainInputs) -> Workload:
    """Latency is all there is: no ceiling of memory or arithmetic is claimed."""

    def ours() -> MisChainResult:
        return ops.mis_chain(inputs.log_weight, inputs.start_log_weight, inputs.uniforms)

    return Workload(
        ours=ours,
        verify=lambda: _verify(inputs, ours()),
        bytes_read=0.0,
        flops=0.0,
        flops_dtype="float32",
        backend=backend_of("mis_chain"),
    )


def _verify(inputs: MisChainInputs, found: MisChainResult) -> Sequence[Check]:
    """Same states, moves and visits as the float64 reference; ``recycled`` to rounding."""
    naive = reference(inputs.log_weight, inputs.start_log_weight, inputs.uniforms)
    truth = reference(inputs.log_weight.double(), inputs.start_log_weight.double(), inputs.uniforms)
    return [
        Check("state", float((found.state != truth.state).sum()), 0.0),
        Check("accepted", float((found.accepted != truth.accepted).sum()), 0.0),
        Check("visits", float((found.visits != truth.visits).sum()), 0.0),
        compare("recycled", found.recycled, naive.recycled, truth.recycled),
    ]
