"""Every argument of every op, wrong in every way: refused by name, before anything is computed."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from jsarag import ops
from jsarag.backends import native
from jsarag.errors import JsaragError
from jsarag.ops.checks import Signature

Arguments = dict[str, Any]
PUBLIC = [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))]
# Sizes that no other argument has to agree with.
FREE = {
    *(("scan", "exclude", 1), ("draw", "exclude", 1), ("log_partition", "exclude", 1)),
    *(("draw", "uniforms", 1), ("passage_logp", "cu_seqlens", 0)),
    *(("quantise_rows", "vectors", 0), ("quantise_rows", "vectors", 1)),
}


def sound(op: str) -> Arguments:
    """Every argument of an op, all of them given."""
    torch.manual_seed(0)
    if op == "mis_chain":
        weights = {"log_weight": torch.randn(4, 6), "start_log_weight": torch.randn(4)}
        return {**weights, "uniforms": torch.rand(4, 6, dtype=torch.float64)}
    if op == "passage_logp":
        tokens = {"hidden": torch.randn(5, 7), "weight": torch.randn(9, 7)}
        tokens |= {"targets": torch.arange(5), "cu_seqlens": torch.tensor([0, 2, 5])}
        numbers = {"softcap": 2.0, "logit_scale": 0.5, "ignore_index": -1}
        return {**tokens, "bias": torch.randn(9), **numbers}
    exact = torch.randn(11, 7)
    if op == "quantise_rows":
        return {"vectors": exact}
    passages, scales = ops.quantise_rows(exact)
    if op == "row_errors":
        return {"passages": passages, "exact_passages": exact, "scales": scales}
    search = {"queries": torch.randn(3, 7), "passages": passages, "inv_temperature": 0.5}
    search |= {"scales": scales, "exclude": torch.tensor([[1, 2], [3, -1], [5, 6]]), "threads": 1}
    if op == "log_partition":
        return search
    tile_lse = ops.scan(**search, k=1, tile_lse=True).tile_lse
    if op == "draw":
        return {**search, "tile_lse": tile_lse, "uniforms": torch.rand(3, 4, dtype=torch.float64)}
    errors = ops.row_errors(passages, exact, scales)
    certificate = {"certify": True, "exact_passages": exact, "row_errors": errors}
    return {**search, "k": 2, "tile_lse": True, **certificate}


def longer(tensor: Tensor, dim: int) -> Tensor:
    return torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)


def askew(tensor: Tensor) -> Tensor:
    """The same numbers, beginning inside a number's own bytes."""
    size = tensor.numel() * tensor.element_size()
    raw = bytearray(size + 1)
    view = torch.frombuffer(raw, dtype=tensor.dtype, offset=1, count=tensor.numel())
    return view.view(tensor.shape).copy_(tensor)


def wrong_tensors(op: str, name: str, tensor: Tensor) -> Iterator[tuple[str, Any]]:
    """(the way, the tensor wrong in that way)."""
    yield "a list", tensor.tolist()
    yield "sparse", tensor.to_sparse()
    if op != "quantise_rows":  # which takes one tensor, wherever it is
        yield "elsewhere", tensor.to("meta")
    yield "dtype", tensor.to(torch.complex64)
    yield "rank", tensor.unsqueeze(0)
    for dim in range(tensor.ndim):
        if (op, name, dim) not in FREE:
            yield f"size {dim}", longer(tensor, dim)
    # Nothing begins inside a byte, and quantise_rows has no kernel.
    if tensor.element_size() > 1 and op != "quantise_rows":
        yield "askew", askew(tensor)


def wrong_values(op: str, name: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """(the name an error gives it, the way, the argument wrong in that way)."""
    if isinstance(value, Tensor):
        yield from ((name, way, wrong) for way, wrong in wrong_tensors(op, name, value))
    elif isinstance(value, tuple):
        yield name, "a plain tuple", tuple(value)
        for member, tensor in value._asdict().items():
            inner = f"{name}.{member}"
            for way, wrong in wrong_tensors(op, inner, tensor):
                yield inner, way, value._replace(**{member: wrong})
    elif not isinstance(value, bool):
        yield name, "a text", str(value)
        yield name, "NaN", math.nan
        if name in ("k", "threads"):
            yield name, "none", 0


def wrong_calls() -> Iterator[Any]:
    for op in PUBLIC:
        given = sound(op)
        required = inspect.signature(getattr(ops, op)).parameters
        for name, value in given.items():
            cases = list(wrong_values(op, name, value))
            if required[name].default is inspect.Parameter.empty and name != "start_log_weight":
                cases.append((name, "missing", None))
            for called, way, wrong in cases:
                yield pytest.param(op, name, called, way, wrong, id=f"{op}-{called}-{way}")


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu" and native.MISSING:
        pytest.skip(native.MISSING)
    monkeypatch.setenv("JSARAG_BACKEND", request.param)
    return str(request.param)


@pytest.mark.parametrize("op", PUBLIC)
def test_every_argument_is_tried(op: str, backend: str) -> None:
    given = sound(op)
    assert set(given) == set(inspect.signature(getattr(ops, op)).parameters)
    assert None not in given.values()
    getattr(ops, op)(**given)


@pytest.mark.parametrize(("op", "name", "called", "way", "wrong"), list(wrong_calls()))
def test_it_is_refused_by_name_and_nothing_runs(
    op: str,
    name: str,
    called: str,
    way: str,
    wrong: Any,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if way == "askew" and backend == "reference":
        pytest.skip("torch reads such addresses")
    given = {**sound(op), name: wrong}

    def ran(*args: Any, **options: Any) -> None:
        pytest.fail("an implementation was called")

    # What every implementation gets its arguments from, and the one that is no operator.
    monkeypatch.setattr(Signature, "split", ran)
    home = importlib.import_module("jsarag.ops.passage_logp")
    monkeypatch.setattr(home, "reference_passage_logp", ran)
    with pytest.raises(JsaragError, match=rf"^{op}: .*(?<!\w){re.escape(called)}(?!\w)"):
        getattr(ops, op)(**given)
