"""``scan``: the best passages of each query and the mass of every tile, in one pass.

Declares and checks arguments, chooses the implementation, and registers the operator; the
arithmetic is in ``reference/scan.py`` and ``csrc/*/scan*``.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from jsarag.backends.native import scan as native
from jsarag.errors import JsaragError
from jsarag.ops.checks import Number, Signature, Sized
from jsarag.ops.library import register
from jsarag.ops.reference.scan import compute_dtype
from jsarag.ops.reference.scan import scan as reference_scan
from jsarag.ops.results import RowErrors, ScanResult
from jsarag.ops.row_errors import cached_row_errors, members
from jsarag.ops.search import Search, require_rows
from jsarag.ops.tile import tile_count

MAX_K = 2048
_UP_TO_MAX_K = Number(f"1 to {MAX_K}", lambda value: 1 <= value <= MAX_K)


class Wanted(NamedTuple):
    """What a scan returns."""

    k: Annotated[int, _UP_TO_MAX_K]
    tile_lse: bool


class Certificate(NamedTuple):
    """What makes the results of rounded passages those of the exact ones; None in a plain scan."""

    exact_passages: Annotated[Tensor | None, Sized("N D", (torch.float32,))]
    row_error: Annotated[Tensor | None, Sized("N", (torch.float32,), "row_errors.error")]
    row_norm: Annotated[Tensor | None, Sized("N", (torch.float32,), "row_errors.norm")]


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
    workers = torch.get_num_threads() if threads is None else threads
    search = Search(queries, passages, inv_temperature, scales, exclude, workers)
    wanted = Wanted(k, tile_lse)
    certificate = Certificate(exact_passages, *members("scan", row_errors))
    arguments = _SIGNATURE.checked(search, wanted, certificate)
    require_rows("scan", passages, scales)
    if not certify or passages.dtype in (torch.float32, torch.float64):
        arguments[-3:] = None, None, None
    elif exact_passages is None:
        raise JsaragError(
            "scan: certify=True expected exact_passages, the f32 vectors that passages were "
            "rounded from; pass them or leave certify out"
        )
    elif row_errors is None:
        arguments[-2:] = cached_row_errors(passages, exact_passages, scales)
    ids, scores, lse = _scan(*arguments)
    return ScanResult(ids, scores, lse if tile_lse else None)


def _run(search: Search, wanted: Wanted, certificate: Certificate) -> tuple[Tensor, Tensor, Tensor]:
    backend = search.backend("scan")
    exact, row_error, row_norm = certificate
    tiles = tile_count(search.passages.shape[0]) if wanted.tile_lse else 0
    if exact is None or row_error is None or row_norm is None:
        if backend != "reference":
            return native.scan(search.inputs(), wanted.k, tiles)
        return _run_reference(search, wanted)
    # The bound speaks of finite queries; the CUDA kernels tell the others by themselves, unwaited.
    if backend == "cuda" or (backend == "cpu" and bool(search.queries.isfinite().all())):
        certain = native.Certificate(exact, row_error, row_norm)
        return native.scan(search.inputs(), wanted.k, tiles, certain)
    plain = Certificate(None, None, None)
    ids, scores, lse = _run(
        search._replace(passages=exact, scales=None), Wanted(wanted.k, False), plain
    )
    if wanted.tile_lse:
        lse = _run(search, Wanted(1, True), plain)[2]
    return ids, scores, lse


def _run_reference(search: Search, wanted: Wanted) -> tuple[Tensor, Tensor, Tensor]:
    queries, passages, inv_temperature, scales, exclude, _ = search
    found = reference_scan(
        queries, passages, wanted.k, inv_temperature, scales, exclude, wanted.tile_lse
    )
    lse = found.scores.new_empty((queries.shape[0], 0))
    return found.ids, found.scores, lse if found.tile_lse is None else found.tile_lse


def _fake(
    search: Search, wanted: Wanted, certificate: Certificate
) -> tuple[Tensor, Tensor, Tensor]:
    queries, batch = search.queries, search.queries.shape[0]
    dtype = compute_dtype(queries, search.passages)
    tiles = tile_count(search.passages.shape[0]) if wanted.tile_lse else 0
    return (
        queries.new_empty((batch, wanted.k), dtype=torch.int64),
        queries.new_empty((batch, wanted.k), dtype=dtype),
        queries.new_empty((batch, tiles), dtype=dtype),
    )


_SIGNATURE = Signature("scan", Search, Wanted, Certificate)
_scan = register(_SIGNATURE, 3, _run, _fake)
