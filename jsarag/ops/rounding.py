"""Rounded passages: int8 rows with scales, and how far each row moved.

``scan(certify=True)`` turns these distances into certainty: results of the rounded passages that
equal, bit for bit, those of the vectors they were rounded from.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from jsarag.backends import native
from jsarag.ops import checks
from jsarag.ops.tile import TILE

_LIMIT = 127
_BLOCK_ROWS = 128 * TILE
# Bounds are computed in float64 and stored in f32: rounded up by more than both roundings.
_INFLATE = 1.000001


class QuantisedRows(NamedTuple):
    """values int8 [N, D] and scales f32 [N]: row n stands for scales[n] · values[n]."""

    values: Tensor
    scales: Tensor


class RowErrors(NamedTuple):
    """error f32 [N] at least ‖e - e'‖ and norm f32 [N] at least ‖e'‖; +inf where not finite."""

    error: Tensor
    norm: Tensor


def quantise_rows(vectors: Tensor) -> QuantisedRows:
    """Round rows to int8, each with its own scale max|e| / 127.

    Args:
        vectors: [N, D] f32 (or any float).

    Returns:
        :class:`QuantisedRows`; a row of zeros gets scale 0, one that is not finite scale NaN and
        zeros.

    Raises:
        ShapeError, DtypeError: ``vectors`` is something else.
    """
    checks.require_dtype("quantise_rows", "vectors", vectors, checks.QUERY_DTYPES)
    checks.require_shape("quantise_rows", "vectors", vectors, (None, None))
    values = torch.empty(vectors.shape, dtype=torch.int8, device=vectors.device)
    scales = torch.zeros(vectors.shape[0], dtype=torch.float32, device=vectors.device)
    if vectors.shape[1] == 0:
        return QuantisedRows(values, scales)
    for first in range(0, vectors.shape[0], _BLOCK_ROWS):
        rows = vectors[first : first + _BLOCK_ROWS].detach().to(torch.float32)
        scale = rows.abs().amax(1) / _LIMIT
        scale = scale.masked_fill(~rows.isfinite().all(1), float("nan"))
        rounded = (rows / scale.unsqueeze(1)).nan_to_num(0.0, 0.0, 0.0).round()
        values[first : first + len(rows)] = rounded.clamp(-_LIMIT, _LIMIT).to(torch.int8)
        scales[first : first + len(rows)] = scale
    return QuantisedRows(values, scales)


def row_errors(passages: Tensor, exact_passages: Tensor, scales: Tensor | None = None) -> RowErrors:
    """How far each row was rounded, as upper bounds; one pass over both.

    Args:
        passages: [N, D] bf16, f16 or int8 with ``scales``.
        exact_passages: f32 [N, D], what they were rounded from.
        scales: f32 [N].
    """
    device = passages.device.type
    if device not in ("cpu", "cuda") or "scan" not in native.native_ops(device):
        return _reference_row_errors(passages, exact_passages, scales)
    if device == "cuda":
        return RowErrors(*native.row_errors_cuda(passages, scales, exact_passages))
    threads = torch.get_num_threads()
    return RowErrors(*native.row_errors_cpu(passages, scales, exact_passages, threads))


def cached_row_errors(passages: Tensor, exact_passages: Tensor, scales: Tensor | None) -> RowErrors:
    """:func:`row_errors`, computed once for the same storages as long as they live unchanged.

    A change that torch does not count (through numpy, in a mapped file) goes unseen.
    """
    tensors = (passages, exact_passages, scales)
    key = tuple(None if tensor is None else _identity(tensor) for tensor in tensors)
    with _lock:
        known = _cache.get(key)
        if known is not None:
            return known.errors
        for stale in [old for old, entry in _cache.items() if entry.expired()]:
            del _cache[stale]
    # Outside the lock: other threads go on with what they know.
    errors = row_errors(passages, exact_passages, scales)
    entry = _Entry(errors, [_watch(tensor) for tensor in tensors if tensor is not None])
    with _lock:
        _cache[key] = entry
    return errors


class _Entry(NamedTuple):
    errors: RowErrors
    # While these live, no other storage gets the same address. torch leaves them unannotated.
    owners: list[Any]

    def expired(self) -> bool:
        return any(owner.expired() for owner in self.owners)


_cache: dict[tuple[tuple[object, ...] | None, ...], _Entry] = {}
_lock = threading.Lock()


def _watch(tensor: Tensor) -> Any:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _identity(tensor: Tensor) -> tuple[object, ...]:
    # An inference tensor has no version; torch refuses to change it outside inference mode.
    version = None if tensor.is_inference() else tensor._version
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, version


def _reference_row_errors(
    passages: Tensor, exact_passages: Tensor, scales: Tensor | None
) -> RowErrors:
    error = torch.empty(passages.shape[0], dtype=torch.float32, device=passages.device)
    norm = torch.empty_like(error)
    for first in range(0, passages.shape[0], _BLOCK_ROWS):
        part = slice(first, first + _BLOCK_ROWS)
        rounded = passages[part].to(torch.float64)
        if scales is not None:
            rounded = rounded * scales[part].to(torch.float64).unsqueeze(1)
        exact = exact_passages[part].to(torch.float64)
        for to, vectors in ((error, exact - rounded), (norm, rounded)):
            length = (vectors.square().sum(1).sqrt() * _INFLATE).to(torch.float32)
            to[part] = length.nan_to_num(float("inf"), float("inf"))
    return RowErrors(error, norm)
