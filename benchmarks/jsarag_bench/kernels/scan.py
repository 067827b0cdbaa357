"""``scan``: top-k of each query, and on request every tile's mass, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jsarag import ops
from jsarag.ops import ScanResult
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
_VERIFIED = 8


def build(case: Case, inputs: ScanInputs) -> Workload:
    """The op as the index calls it; certified where the case says so."""
    passages, scales = stored(case, inputs)
    tile_lse, certify = bool(case.options.get("tile_lse")), bool(case.options.get("certify"))
    arguments: dict[str, Any] = {
        "queries": inputs.queries,
        "passages": passages,
        "k": case.k,
        "inv_temperature": INV_TEMPERATURE,
        "scales": scales,
    }
    if certify:
        arguments |= {"certify": True, "exact_passages": inputs.passages.exact}
    plain = partial(ops.scan, **arguments)
    ours = partial(ops.scan, **arguments, tile_lse=tile_lse)
    batch, rows, width = case.shape["B"], case.shape["N"], case.shape["D"]
    return Workload(
        ours=ours,
        verify=lambda: _verify(case, inputs, ours()),
        companions={"without tile_lse": plain} if tile_lse else {},
        bytes_read=streamed_bytes(passages, scales),
        flops=2.0 * batch * rows * width,
        flops_dtype=rate_dtype(case),
        backend=backend_of("scan"),
    )


def _verify(case: Case, inputs: ScanInputs, found: ScanResult) -> Sequence[Check]:
    """All rows: order and range. A sample of rows: scores, nothing missed, the tiles' mass."""
    passages, scales = stored(case, inputs)
    certified = bool(case.options.get("certify"))
    exact = inputs.passages.exact
    sample = spread(case.shape["B"], _VERIFIED)
    queries = inputs.queries[sample]
    source, source_scales = (exact, None) if certified else (passages, scales)
    truth = true_scores(queries, source, source_scales)
    naive = naive_scores(queries, source, source_scales)
    checks = [_order(found, case), *_scores(found, sample, naive, truth)]
    if case.options.get("tile_lse"):
        if certified:
            truth = true_scores(queries, passages, scales)
            naive = naive_scores(queries, passages, scales)
        assert found.tile_lse is not None
        checks.append(
            compare("tile_lse", found.tile_lse[sample], tile_mass(naive), tile_mass(truth))
        )
    if certified:
        plain = ops.scan(inputs.queries, exact, case.k or 1, INV_TEMPERATURE)
        different = (plain.ids != found.ids) | (plain.scores != found.scores)
        checks.append(Check("differs from the f32 scan", float(different.sum()), 0.0))
    return checks


def _order(found: ScanResult, case: Case) -> Check:
    """Rows sorted by score, then id; ids distinct and in range."""
    ids, scores, n = found.ids, found.scores, case.shape["N"]
    k = case.k or 1
    kept = min(k, n)
    shaped = ids.shape == (case.shape["B"], k) and scores.shape == ids.shape
    if not shaped:
        return Check("shape", float("nan"), 0.0)
    down = (scores[:, : kept - 1] > scores[:, 1:kept]) | (
        (scores[:, : kept - 1] == scores[:, 1:kept]) & (ids[:, : kept - 1] < ids[:, 1:kept])
    )
    outside = (ids[:, :kept] < 0) | (ids[:, :kept] >= n) | ~scores[:, :kept].isfinite()
    by_id = ids[:, :kept].sort(dim=1).values
    repeated = by_id[:, 1:] == by_id[:, :-1]
    padding = (ids[:, kept:] != -1) | (scores[:, kept:] != float("-inf"))
    wrong = (~down).sum() + outside.sum() + repeated.sum() + padding.sum()
    return Check("order", float(wrong), 0.0)


def _scores(found: ScanResult, sample: list[int], naive: Tensor, truth: Tensor) -> list[Check]:
    """Scores of what was returned, and that no better passage was left out (ties allowed)."""
    kept = min(found.ids.shape[1], truth.shape[1])
    ids = found.ids[sample, :kept].clamp(min=0, max=truth.shape[1] - 1)
    own = truth.gather(1, ids)
    scores = compare("scores", found.scores[sample, :kept], naive.gather(1, ids), own)
    best = truth.topk(kept, dim=1).values
    missed = float((best[:, -1] - own.amin(dim=1)).max())
    # Two scores may each be off by the budget, and so may change places.
    return [scores, Check("missed", max(missed, 0.0), 2.0 * scores.budget)]


def tile_mass(scores: Tensor) -> Tensor:
    """Log-sum-exp of score x inv_temperature inside each tile, [B, ceil(N / TILE)]."""
    padding = -scores.shape[1] % ops.TILE
    padded = torch.nn.functional.pad(scores * INV_TEMPERATURE, (0, padding), value=float("-inf"))
    return padded.reshape(len(scores), -1, ops.TILE).logsumexp(dim=2)
