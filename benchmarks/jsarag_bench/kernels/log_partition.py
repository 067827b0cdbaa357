"""``log_partition``: the exact log-partition over all passages, forward or with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jsarag import ops
from jsarag_bench.cases import Case
from jsarag_bench.kernels.base import Check, Workload, backend_of, compare, spread
from jsarag_bench.kernels.inputs import (
    INV_TEMPERATURE,
    ScanInputs,
    make_scan_inputs,
    naive_scores,
    rate_dtype,
    stored,
    streamed_bytes,
    true_scores,
)

make_inputs = make_scan_inputs
_VERIFIED = 4


def build(case: Case, inputs: ScanInputs) -> Workload:
    """Forward, or with ``backward`` the gradient of the sum in the queries as well."""
    passages, scales = stored(case, inputs)
    backward = bool(case.options.get("backward"))
    queries = inputs.queries.clone().requires_grad_(backward)

    def ours() -> tuple[Tensor, ...]:
        value = ops.log_partition(queries, passages, INV_TEMPERATURE, scales=scales)
        if not backward:
            return (value,)
        return value.detach(), *torch.autograd.grad(value.sum(), queries)

    batch, rows, width = case.shape["B"], case.shape["N"], case.shape["D"]
    passes = 2 if backward else 1
    return Workload(
        ours=ours,
        verify=lambda: _verify(case, inputs, ours()),
        bytes_read=passes * streamed_bytes(passages, scales),
        # Backward needs the scores again and the weighted sum of passages.
        flops=2.0 * batch * rows * width * (3 if backward else 1),
        flops_dtype=rate_dtype(case),
        backend=backend_of("log_partition"),
    )


def _verify(case: Case, inputs: ScanInputs, found: tuple[Tensor, ...]) -> Sequence[Check]:
    passages, scales = stored(case, inputs)
    sample = spread(case.shape["B"], _VERIFIED)
    queries = inputs.queries[sample]
    truth = true_scores(queries, passages, scales) * INV_TEMPERATURE
    naive = naive_scores(queries, passages, scales) * INV_TEMPERATURE
    checks = [compare("value", found[0][sample], naive.logsumexp(dim=1), truth.logsumexp(dim=1))]
    if len(found) > 1:
        checks.append(
            compare(
                "gradient",
                found[1][sample],
                _mean_passage(naive.softmax(dim=1), passages, scales, passages.dtype),
                _mean_passage(truth.softmax(dim=1), passages, scales, torch.float64),
            )
        )
    return checks


def _mean_passage(
    weights: Tensor, passages: Tensor, scales: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """inv_temperature x sum_h p(h) e(h), [B, D], computed in ``dtype`` (int8: in f32)."""
    if scales is not None:
        weights = weights * scales.to(weights.dtype)
    wide = torch.float32 if dtype == torch.int8 else dtype
    total = torch.zeros(len(weights), passages.shape[1], dtype=torch.float64, device=weights.device)
    for first in range(0, len(passages), 1 << 16):
        part = weights[:, first : first + (1 << 16)].to(wide)
        total += (part @ passages[first : first + (1 << 16)].to(wide)).double()
    return total * INV_TEMPERATURE
