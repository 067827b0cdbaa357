"""``draw``: exact categorical draws over the whole knowledge base from the tiles' mass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from jsarag import ops, randomness
from jsarag.ops import DrawResult
from jsarag_bench.cases import Case
from jsarag_bench.kernels.base import Check, Workload, backend_of, largest_error, spread
from jsarag_bench.kernels.inputs import (
    INV_TEMPERATURE,
    Passages,
    ScanInputs,
    make_scan_inputs,
    naive_scores,
    rate_dtype,
    stored,
    streamed_bytes,
    true_scores,
)

_VERIFIED = 4


@dataclass(frozen=True)
class DrawInputs:
    """A scan's inputs, and uniforms f64 [B, M]."""

    case: Case
    scan: ScanInputs
    uniforms: Tensor

    @property
    def queries(self) -> Tensor:
        """f32 [B, D]."""
        return self.scan.queries

    @property
    def passages(self) -> Passages:
        """Passages [N, D]."""
        return self.scan.passages

    @cached_property
    def tile_lse(self) -> Tensor:
        """f32 [B, tiles] of our scan; rivals do not read it."""
        passages, scales = stored(self.case, self.scan)
        found = ops.scan(
            self.queries, passages, 1, INV_TEMPERATURE, scales=scales, tile_lse=True
        ).tile_lse
        assert found is not None
        return found


def make_inputs(case: Case, device: str) -> DrawInputs:
    """Uniforms are keyed like an epoch's."""
    scan = make_scan_inputs(case, device)
    batch = case.shape["B"]
    names = [f"bench-{row}" for row in range(batch)]
    uniforms = randomness.uniforms(1, "bench", names, [0] * batch, case.shape["M"])
    return DrawInputs(case, scan, uniforms.to(device))


def build(case: Case, inputs: DrawInputs) -> Workload:
    """The draws alone, or with ``after_scan`` the pass that makes them possible, too."""
    passages, scales = stored(case, inputs.scan)
    scan = partial(
        ops.scan,
        inputs.queries,
        passages,
        case.k or 1,
        INV_TEMPERATURE,
        scales=scales,
        tile_lse=True,
    )

    def draw(tile_lse: Tensor | None) -> DrawResult:
        assert tile_lse is not None
        return ops.draw(
            inputs.queries, passages, INV_TEMPERATURE, tile_lse, inputs.uniforms, scales=scales
        )

    after_scan = bool(case.options.get("after_scan"))
    mass = None if after_scan else inputs.tile_lse

    def ours() -> DrawResult:
        return draw(scan().tile_lse if after_scan else mass)

    batch, rows, width = case.shape["B"], case.shape["N"], case.shape["D"]
    return Workload(
        ours=ours,
        verify=lambda: _verify(case, inputs, ours()),
        # Alone it reads a tile per draw, and which ones is chance: no ceiling is claimed for that.
        bytes_read=streamed_bytes(passages, scales) if after_scan else 0.0,
        flops=2.0 * batch * rows * width if after_scan else 0.0,
        flops_dtype=rate_dtype(case),
        backend=backend_of("draw"),
    )


def _verify(case: Case, inputs: DrawInputs, found: DrawResult) -> Sequence[Check]:
    """Each draw's uniform must lie in its passage's interval of the true cumulative mass."""
    passages, scales = stored(case, inputs.scan)
    sample = spread(case.shape["B"], _VERIFIED)
    queries, uniforms = inputs.queries[sample], inputs.uniforms[sample]
    truth = true_scores(queries, passages, scales) * INV_TEMPERATURE
    naive = naive_scores(queries, passages, scales) * INV_TEMPERATURE
    true_logp, naive_logp = truth.log_softmax(dim=1), naive.log_softmax(dim=1)
    true_cdf, naive_cdf = true_logp.exp().cumsum(1), naive_logp.double().exp().cumsum(1)

    ids = found.ids[sample]
    outside = float(((ids < 0) | (ids >= case.shape["N"])).sum())
    if outside or ids.shape != uniforms.shape:
        return [Check("ids outside 0 .. N-1", outside or float("nan"), 0.0)]
    high = true_cdf.gather(1, ids)
    low = high - true_logp.gather(1, ids).exp()
    distance = torch.maximum(low - uniforms, uniforms - high).clamp(min=0.0)
    # Probabilities move by the relative error of exp, which is the absolute error of its argument.
    epsilon = torch.finfo(torch.float32).eps * float(truth.abs().max())
    return [
        Check(
            "uniform outside its passage's interval",
            float(distance.max()),
            largest_error(naive_cdf, true_cdf) + epsilon,
        ),
        Check(
            "logp",
            largest_error(found.logp[sample], true_logp.gather(1, ids)),
            largest_error(naive_logp.gather(1, ids), true_logp.gather(1, ids)) + epsilon,
        ),
    ]
