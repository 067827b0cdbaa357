"""Refuses wrong arguments at the ops' doors, in the user's words; inside, kernels trust."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from jsarag.errors import DtypeError, JsaragError, ShapeError

QUERY_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PASSAGE_DTYPES = (*QUERY_DTYPES, torch.int8)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def require_dtype(op: str, name: str, tensor: Tensor, allowed: Collection[torch.dtype]) -> None:
    """Refuse a tensor of another dtype.

    Raises:
        DtypeError: names the argument and what it may be.
    """
    if tensor.dtype not in allowed:
        expected = ", ".join(dtype_name(dtype) for dtype in allowed)
        raise DtypeError(
            f"{op}: {name} expected {expected}, found {dtype_name(tensor.dtype)}; convert it"
        )


def require_shape(op: str, name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Refuse a tensor of another shape; None in ``shape`` is free.

    Raises:
        ShapeError: names the argument and both shapes.
    """
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, found, strict=True)
    )
    if not fits:
        expected = ", ".join("*" if size is None else str(size) for size in shape)
        raise ShapeError(f"{op}: {name} expected shape [{expected}], found {list(found)}")


def require_same_device(op: str, tensors: dict[str, Tensor | None]) -> None:
    """Refuse tensors on different devices.

    Raises:
        ShapeError: names who is where.
    """
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ShapeError(f"{op}: expected all tensors on one device, found {where}")


def check_scan_inputs(
    op: str,
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    scales: Tensor | None,
    exclude: Tensor | None,
) -> None:
    """What ``scan``, ``draw`` and ``log_partition`` have in common.

    Raises:
        ShapeError, DtypeError: names the argument.
        JsaragError: ``inv_temperature`` is not positive and finite.
    """
    require_dtype(op, "queries", queries, QUERY_DTYPES)
    require_dtype(op, "passages", passages, PASSAGE_DTYPES)
    require_shape(op, "queries", queries, (None, None))
    require_shape(op, "passages", passages, (None, queries.shape[1]))
    if passages.shape[0] >= 2**31:
        raise ShapeError(
            f"{op}: passages expected fewer than 2^31 rows, found {passages.shape[0]:,}; scan "
            "shards and merge their results"
        )
    if (passages.dtype == torch.int8) != (scales is not None):
        found = "missing" if scales is None else "given"
        raise DtypeError(
            f"{op}: scales belong to int8 passages, and only to them; passages are "
            f"{dtype_name(passages.dtype)} and scales are {found}"
        )
    if scales is not None:
        require_dtype(op, "scales", scales, (torch.float32, torch.float64))
        require_shape(op, "scales", scales, (passages.shape[0],))
    if exclude is not None:
        require_dtype(op, "exclude", exclude, (torch.int64,))
        require_shape(op, "exclude", exclude, (queries.shape[0], None))
    if not (math.isfinite(inv_temperature) and inv_temperature > 0):
        raise JsaragError(
            f"{op}: inv_temperature expected a positive finite number, found {inv_temperature}"
        )
    require_same_device(
        op, {"queries": queries, "passages": passages, "scales": scales, "exclude": exclude}
    )
