"""The torch.library namespace ``jsarag``: operators torch's dispatcher, compiler and autograd know.

Each op registers its signature, one implementation for CPU and CUDA tensors (which chooses between
the compiled kernel and the reference) and a fake one that only computes shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from jsarag.backends import native
from jsarag.backends.select import VARIABLE, Backend, choose
from jsarag.ops.checks import Signature, dtype_name

# torch leaves this class unannotated.
LIBRARY: Any = torch.library.Library("jsarag", "FRAGMENT")  # type: ignore[no-untyped-call]

# What runs does not change while a process lives, unless the environment does.
_chosen: dict[tuple[object, ...], Backend] = {}


def register(
    signature: Signature,
    results: int,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
) -> Any:
    """Register ``jsarag::<op>`` and return it.

    Args:
        signature: its arguments.
        results: how many tensors it returns.
        implementation: takes the signature's records, with tensors of the CPU or a GPU; must not
            return or change its inputs.
        fake: takes the same and returns empty tensors of the right shapes and dtypes.
    """

    def run(*values: Any) -> Any:
        signature.require_aligned(values)
        return implementation(*signature.split(values))

    name = signature.op
    returned = f"({', '.join(['Tensor'] * results)})" if results > 1 else "Tensor"
    LIBRARY.define(f"{name}({signature.schema}) -> {returned}", tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, run, key)
    torch.library.register_fake(
        f"jsarag::{name}", lambda *values: fake(*signature.split(values)), lib=LIBRARY
    )
    return getattr(torch.ops.jsarag, name).default


def backend_of(op: str, supported: Collection[str], *tensors: Tensor) -> Backend:
    """The implementation of ``op`` for these tensors, whose dtypes decide.

    Args:
        supported: names of the dtypes that its kernels take.
    """
    device = tensors[0].device.type
    asked = (op, device, *[tensor.dtype for tensor in tensors], os.environ.get(VARIABLE))
    if asked not in _chosen:
        _chosen[asked] = choose(
            op,
            device,
            [dtype_name(tensor.dtype) for tensor in tensors],
            native_ops=native.native_ops(device),
            supported=supported,
            missing=native.MISSING,
        ).backend
    return _chosen[asked]


def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep for :func:`saved` an op's inputs and the result that its gradient is computed from."""
    tensors = [value if isinstance(value, Tensor) else None for value in inputs]
    ctx.save_for_backward(output, *tensors)
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]


def saved(ctx: Any) -> tuple[Tensor, list[Any]]:
    """The result and the inputs of :func:`save`."""
    result, *tensors = ctx.saved_tensors
    pairs = zip(tensors, ctx.others, strict=True)
    return result, [other if tensor is None else tensor for tensor, other in pairs]
