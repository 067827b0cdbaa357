"""``scan``: the best passages of each query and the mass of every tile, in one pass.

Checks arguments, chooses the implementation, and registers the operator; the arithmetic is in
``reference/scan.py`` and ``csrc/*/scan*``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.backends import native
from jsarag.backends.select import Choice, choose
from jsarag.errors import DtypeError, JsaragError
from jsarag.ops import checks
from jsarag.ops.library import register
from jsarag.ops.reference.scan import compute_dtype
from jsarag.ops.reference.scan import scan as reference_scan
from jsarag.ops.results import ScanResult
from jsarag.ops.tile import tile_count

MAX_K = 2048
_SUPPORTED = ("float32", "bfloat16", "float16", "int8")


def scan(
    queries: Tensor,
    passages: Tensor,
    k: int,
    inv_temperature: float,
    *,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
    tile_lse: bool = False,
    certify: bool = False,
    exact_passages: Tensor | None = None,
    threads: int | None = None,
) -> ScanResult:
    """The k passages with the largest inner product, in one streaming pass.

    The [B, N] score matrix is never stored. No gradient flows through the result.

    Args:
        queries: [B, D] f32 (bf16 and f16 are widened; f64 runs the reference).
        passages: [N, D] f32, bf16, f16 or int8, rows contiguous; memory-mapped rows are streamed
            without a copy.
        k: 1 to 2,048; may exceed N.
        inv_temperature: positive factor on the scores inside ``tile_lse``; scores stay unscaled.
        scales: f32 [N], the factor of each int8 row.
        exclude: int64 [B, E] passages to leave out; entries outside 0..N-1 (-1) are padding.
        tile_lse: also return the log-sum-exp of each tile of TILE passages.
        certify: for int8 and bf16 passages: return the ids and scores a scan of
            ``exact_passages`` would return, bit for bit (``tile_lse`` stays that of ``passages``).
        exact_passages: f32 [N, D], what ``passages`` was rounded from.
        threads: of the CPU kernel; default torch's number. The result does not depend on it.

    Returns:
        :class:`ScanResult`.

    Raises:
        ShapeError, DtypeError: an argument is not as above.
        JsaragError: k or inv_temperature out of range.

    Numerics: products are summed in f32 in one fixed order per (query, passage), so a score does
    not depend on the batch, the position or the number of threads. A score that is NaN or -inf is
    never returned; a tile with a NaN score that is not excluded has a NaN ``tile_lse``.
    """
    checks.check_scan_inputs("scan", queries, passages, inv_temperature, scales, exclude)
    if not 1 <= k <= MAX_K:
        raise JsaragError(f"scan: k expected 1 to {MAX_K}, found {k}")
    workers = torch.get_num_threads() if threads is None else threads
    if certify:
        source = _exact_source(queries, passages, exact_passages)
        exact = scan(queries, source, k, inv_temperature, exclude=exclude, threads=threads)
        if not tile_lse:
            return exact
        lse = scan(
            queries,
            passages,
            1,
            inv_temperature,
            scales=scales,
            exclude=exclude,
            tile_lse=True,
            threads=threads,
        ).tile_lse
        return ScanResult(exact.ids, exact.scores, lse)
    ids, scores, lse = torch.ops.jsarag.scan(
        queries.detach(), passages.detach(), k, inv_temperature, scales, exclude, tile_lse, workers
    )
    return ScanResult(ids, scores, lse if tile_lse else None)


def choose_scan(op: str, queries: Tensor, passages: Tensor) -> Choice:
    """The implementation of a scan-like op for these tensors."""
    device = queries.device.type
    return choose(
        op,
        device,
        (checks.dtype_name(queries.dtype), checks.dtype_name(passages.dtype)),
        native_ops=native.native_ops(device),
        supported=_SUPPORTED,
        missing=native.MISSING,
    )


def _exact_source(queries: Tensor, passages: Tensor, exact_passages: Tensor | None) -> Tensor:
    if passages.dtype in (torch.float32, torch.float64):
        return passages
    if exact_passages is None:
        raise JsaragError(
            "scan: certify=True expected exact_passages, the f32 vectors that passages were "
            "rounded from; pass them or leave certify out"
        )
    if exact_passages.dtype != torch.float32:
        raise DtypeError(
            "scan: exact_passages expected float32, found "
            f"{checks.dtype_name(exact_passages.dtype)}; convert it"
        )
    checks.require_shape("scan", "exact_passages", exact_passages, tuple(passages.shape))
    checks.require_same_device("scan", {"queries": queries, "exact_passages": exact_passages})
    return exact_passages


def _run(
    queries: Tensor,
    passages: Tensor,
    k: int,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    tile_lse: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    if choose_scan("scan", queries, passages).backend == "cpu":
        inputs = native.ScanInputs(queries, passages, inv_temperature, scales, exclude, threads)
        return native.scan_cpu(inputs, k, tile_count(passages.shape[0]) if tile_lse else None)
    result = reference_scan(queries, passages, k, inv_temperature, scales, exclude, tile_lse)
    lse = result.scores.new_empty((queries.shape[0], 0))
    return result.ids, result.scores, lse if result.tile_lse is None else result.tile_lse


def _fake(
    queries: Tensor,
    passages: Tensor,
    k: int,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    tile_lse: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, dtype = queries.shape[0], compute_dtype(queries, passages)
    tiles = tile_count(passages.shape[0]) if tile_lse else 0
    return (
        queries.new_empty((batch, k), dtype=torch.int64),
        queries.new_empty((batch, k), dtype=dtype),
        queries.new_empty((batch, tiles), dtype=dtype),
    )


register(
    "scan",
    "(Tensor queries, Tensor passages, int k, float inv_temperature, Tensor? scales, "
    "Tensor? exclude, bool tile_lse, int threads) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
