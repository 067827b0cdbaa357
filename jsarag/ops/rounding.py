"""``quantise_rows``: passages rounded to int8, each with its own scale."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from jsarag.ops.checks import FLOATS, Signature, Sized
from jsarag.ops.tile import TILE

_LIMIT = 127
_BLOCK_ROWS = 128 * TILE


class QuantisedRows(NamedTuple):
    """values int8 [N, D] and scales f32 [N]: row n stands for scales[n] · values[n]."""

    values: Tensor
    scales: Tensor


class Exact(NamedTuple):
    """See :func:`quantise_rows`."""

    vectors: Annotated[Tensor, Sized("N D", FLOATS)]


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
    (vectors,) = _SIGNATURE.checked(Exact(vectors))
    values = torch.empty(vectors.shape, dtype=torch.int8, device=vectors.device)
    scales = torch.zeros(vectors.shape[0], dtype=torch.float32, device=vectors.device)
    if vectors.shape[1] == 0:
        return QuantisedRows(values, scales)
    for first in range(0, vectors.shape[0], _BLOCK_ROWS):
        rows = vectors[first : first + _BLOCK_ROWS].to(torch.float32)
        scale = rows.abs().amax(1) / _LIMIT
        scale = scale.masked_fill(~rows.isfinite().all(1), float("nan"))
        rounded = (rows / scale.unsqueeze(1)).nan_to_num(0.0, 0.0, 0.0).round()
        values[first : first + len(rows)] = rounded.clamp(-_LIMIT, _LIMIT).to(torch.int8)
        scales[first : first + len(rows)] = scale
    return QuantisedRows(values, scales)


_SIGNATURE = Signature("quantise_rows", Exact)
