"""What ``scan``, ``draw`` and ``log_partition`` have in common: queries over passages."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from jsarag.backends.native.arguments import SearchInputs
from jsarag.backends.select import Backend
from jsarag.errors import DtypeError, ShapeError
from jsarag.ops.checks import AT_LEAST_1, FLOATS, POSITIVE, Sized, dtype_name
from jsarag.ops.library import backend_of

KINDS = (*FLOATS, torch.int8)
SUPPORTED = ("float32", "bfloat16", "float16", "int8")


class Search(NamedTuple):
    """See :func:`jsarag.ops.scan`."""

    queries: Annotated[Tensor, Sized("B D", FLOATS)]
    passages: Annotated[Tensor, Sized("N D", KINDS)]
    inv_temperature: Annotated[float, POSITIVE]
    scales: Annotated[Tensor | None, Sized("N", (torch.float32, torch.float64))]
    exclude: Annotated[Tensor | None, Sized("B E", (torch.int64,))]
    threads: Annotated[int, AT_LEAST_1]

    def backend(self, op: str) -> Backend:
        """The implementation of ``op`` that these tensors run on."""
        return backend_of(op, SUPPORTED, self.queries, self.passages)

    def inputs(self) -> SearchInputs:
        """For the kernels."""
        return SearchInputs(*self)


def require_rows(op: str, passages: Tensor, scales: Tensor | None) -> None:
    """Refuse what no kernel streams: rows it cannot count, int8 without scales, scales of others.

    Raises:
        ShapeError: there are 2^31 passages or more.
        DtypeError: scales are given where they do not belong, or missing.
    """
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
