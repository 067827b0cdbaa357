"""``row_errors``: how far each passage was rounded.

``scan(certify=True)`` turns these distances into certainty: results of the rounded passages that
equal, bit for bit, those of the vectors they were rounded from.
"""

from __future__ import annotations

import threading
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from jsarag.backends.native import row_errors as native
from jsarag.errors import DtypeError
from jsarag.ops.checks import AT_LEAST_1, Signature, Sized
from jsarag.ops.library import backend_of, register
from jsarag.ops.reference.row_errors import row_errors as reference_row_errors
from jsarag.ops.results import RowErrors
from jsarag.ops.search import KINDS, SUPPORTED, require_rows


class Rounded(NamedTuple):
    """See :func:`row_errors`."""

    passages: Annotated[Tensor, Sized("N D", KINDS)]
    exact_passages: Annotated[Tensor, Sized("N D", (torch.float32,))]
    scales: Annotated[Tensor | None, Sized("N", (torch.float32, torch.float64))]
    threads: Annotated[int, AT_LEAST_1]


def row_errors(passages: Tensor, exact_passages: Tensor, scales: Tensor | None = None) -> RowErrors:
    """How far each row was rounded, as upper bounds; one pass over both.

    Args:
        passages: [N, D] bf16, f16 or int8 with ``scales``.
        exact_passages: f32 [N, D], what they were rounded from.
        scales: f32 [N].

    Raises:
        ShapeError, DtypeError: an argument is not as above.
    """
    rounded = Rounded(passages, exact_passages, scales, torch.get_num_threads())
    arguments = _SIGNATURE.checked(rounded)
    require_rows("row_errors", passages, scales)
    return RowErrors(*_row_errors(*arguments))


def members(op: str, errors: RowErrors | None) -> tuple[Tensor | None, Tensor | None]:
    """error and norm, None for None.

    Raises:
        DtypeError: ``errors`` is something else.
    """
    if errors is None:
        return None, None
    if not isinstance(errors, RowErrors):
        raise DtypeError(
            f"{op}: row_errors expected RowErrors, found {type(errors).__name__}; "
            "jsarag.ops.row_errors makes them"
        )
    return errors.error, errors.norm


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


def _run(rounded: Rounded) -> tuple[Tensor, Tensor]:
    if backend_of("scan", SUPPORTED, rounded.passages) != "reference":
        return native.row_errors(*rounded)
    return reference_row_errors(*rounded[:3])


def _fake(rounded: Rounded) -> tuple[Tensor, Tensor]:
    passages = rounded.passages
    error = passages.new_empty((passages.shape[0],), dtype=torch.float32)
    return error, torch.empty_like(error)


_SIGNATURE = Signature("row_errors", Rounded)
_row_errors = register(_SIGNATURE, 2, _run, _fake)
