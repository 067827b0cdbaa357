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
from jsarag.ops.rounding import RowErrors, cached_row_errors
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
    row_errors: RowErrors | None = None,
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
        row_errors: of :func:`jsarag.ops.row_errors`, stored beside the passages; without it they
            are computed at the first call and kept while both tensors live unchanged.
        threads: of the CPU kernel; default torch's number. The result does not depend on it.

    Returns:
        :class:`ScanResult`.

    Raises:
        ShapeError, DtypeError: an argument is not as above.
        JsaragError: k or inv_temperature out of range.

    Numerics: products are summed in f32 in one fixed order per (query, passage), so a score does
    not depend on the batch, the position or the number of threads. A score that is NaN or -inf is
    never returned; a tile with a NaN score that is not excluded has a NaN ``tile_lse``. With
    int8 passages a query that is not finite has no scale: all its scores are NaN.
    """
    checks.check_scan_inputs("scan", queries, passages, inv_temperature, scales, exclude)
    if not 1 <= k <= MAX_K:
        raise JsaragError(f"scan: k expected 1 to {MAX_K}, found {k}")
    workers = torch.get_num_threads() if threads is None else threads
    if certify:
        exact = _exact_source(queries, passages, exact_passages)
        if exact is not passages:
            errors = row_errors or cached_row_errors(passages, exact, scales)
            for name, tensor in errors._asdict().items():
                checks.require_dtype("scan", f"row_errors.{name}", tensor, (torch.float32,))
                checks.require_shape("scan", f"row_errors.{name}", tensor, (len(passages),))
            ids, scores, lse = torch.ops.jsarag.scan_certified(
                queries.detach(),
                passages.detach(),
                exact.detach(),
                errors.error,
                errors.norm,
                k,
                inv_temperature,
                scales,
                exclude,
                tile_lse,
                workers,
            )
            return ScanResult(ids, scores, lse if tile_lse else None)
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
    backend = choose_scan("scan", queries, passages).backend
    if backend != "reference":
        inputs = native.ScanInputs(queries, passages, inv_temperature, scales, exclude, threads)
        run = native.scan_cuda if backend == "cuda" else native.scan_cpu
        return run(inputs, k, tile_count(passages.shape[0]) if tile_lse else None)
    result = reference_scan(queries, passages, k, inv_temperature, scales, exclude, tile_lse)
    lse = result.scores.new_empty((queries.shape[0], 0))
    return result.ids, result.scores, lse if result.tile_lse is None else result.tile_lse


def _run_certified(
    queries: Tensor,
    passages: Tensor,
    exact: Tensor,
    row_error: Tensor,
    row_norm: Tensor,
    k: int,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    tile_lse: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    backend = choose_scan("scan", queries, passages).backend
    # The bound speaks of finite queries; the CUDA kernels tell the others by themselves, unwaited.
    if backend == "cuda" or (backend == "cpu" and bool(queries.isfinite().all())):
        inputs = native.ScanInputs(queries, passages, inv_temperature, scales, exclude, threads)
        tiles = tile_count(passages.shape[0]) if tile_lse else None
        run = native.scan_cuda if backend == "cuda" else native.scan_cpu
        return run(inputs, k, tiles, native.Certificate(exact, row_error, row_norm))
    ids, scores, lse = _run(queries, exact, k, inv_temperature, None, exclude, False, threads)
    if tile_lse:
        lse = _run(queries, passages, 1, inv_temperature, scales, exclude, True, threads)[2]
    return ids, scores, lse


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


def _fake_certified(
    queries: Tensor,
    passages: Tensor,
    exact: Tensor,
    row_error: Tensor,
    row_norm: Tensor,
    k: int,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
    tile_lse: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake(queries, passages, k, inv_temperature, scales, exclude, tile_lse, threads)


register(
    "scan_certified",
    "(Tensor queries, Tensor passages, Tensor exact, Tensor row_error, Tensor row_norm, int k, "
    "float inv_temperature, Tensor? scales, Tensor? exclude, bool tile_lse, int threads) "
    "-> (Tensor, Tensor, Tensor)",
    _run_certified,
    _fake_certified,
)
