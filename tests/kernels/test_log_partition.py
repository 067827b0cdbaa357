"""log_partition: value and gradient against float64, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch

from jsarag import ops
from jsarag.backends import native
from jsarag.errors import JsaragError

INF = math.inf
needs_kernel = pytest.mark.skipif(
    "log_partition" not in native.CPU_OPS, reason=native.MISSING or "no compiled log_partition"
)


BACKENDS = [
    "reference",
    pytest.param("cpu", marks=needs_kernel),
    "emulated",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=BACKENDS)
def backend(request, chosen_backend):
    return chosen_backend(request.param)


def problem(batch, count, width, dtype="float32", seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, width, generator=generator)
    exact = torch.randn(count, width, generator=generator)
    if dtype == "int8":
        return queries, *ops.quantise_rows(exact)
    return queries, exact.to(getattr(torch, dtype)), None


def value_and_gradient(queries, weights, function):
    leaf = queries.detach().clone().requires_grad_()
    value = function(leaf)
    (value * weights).sum().backward()
    return value.detach(), leaf.grad


def dense(queries, passages, scales, inv_temperature, exclude):
    scores = queries @ passages.to(queries.dtype).T
    if scales is not None:
        scores = scores * scales.to(queries.dtype)
    scores = scores * inv_temperature
    if exclude is not None:
        mask = torch.zeros(scores.shape, dtype=torch.bool)
        for row, columns in enumerate(exclude):
            mask[row, columns[columns >= 0]] = True
        scores = scores.masked_fill(mask, -INF)
    return scores.logsumexp(1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize(
    ("batch", "count", "width"), [(1, 1, 3), (4, 600, 16), (13, 2000, 100), (30, 9000, 33)]
)
def test_value_and_gradient_against_float64(backend, batch, count, width, dtype):
    queries, passages, scales = problem(batch, count, width, dtype)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(batch, generator=generator)
    exclude = torch.randint(-1, count, (batch, 3), generator=generator) if count > 9 else None
    inv_temperature = 2.0 / math.sqrt(width)

    def run(leaf):
        return ops.log_partition(leaf, passages, inv_temperature, scales=scales, exclude=exclude)

    value, gradient = value_and_gradient(queries, weights, run)
    exact, exact_gradient = value_and_gradient(
        queries.double(),
        weights.double(),
        lambda leaf: dense(leaf, passages, scales, inv_temperature, exclude),
    )
    # bf16 arithmetic rounds the queries to 8 bits, int8 arithmetic to 15.
    room = {"bfloat16": 2e-2, "int8": 2e-4}.get(dtype, 3e-6)
    if dtype == "float16" and backend in ("emulated", "cuda"):
        room = 2.5e-3  # CUDA rounds the queries to 11 bits, too
    scale = float(passages.double().abs().max()) * (1 if scales is None else float(scales.max()))
    torch.testing.assert_close(value.double(), exact, atol=room, rtol=room)
    torch.testing.assert_close(
        gradient.double(), exact_gradient, atol=room * scale * inv_temperature, rtol=room
    )


def test_gradcheck_in_float64():
    queries, passages, _ = problem(3, 700, 5)
    exclude = torch.tensor([[1, -1], [5, 6], [-1, -1]])
    leaf = queries.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q: ops.log_partition(q, passages.double(), 0.7, exclude=exclude), leaf
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@needs_kernel
def test_threads_change_nothing(dtype):
    queries, passages, scales = problem(6, 20_000, 24, dtype)

    def run(threads):
        return value_and_gradient(
            queries,
            torch.ones(6),
            lambda leaf: ops.log_partition(leaf, passages, 0.5, scales=scales, threads=threads),
        )

    value, gradient = run(1)
    for threads in (2, 5):
        again, again_gradient = run(threads)
        assert torch.equal(value, again)
        assert torch.equal(gradient, again_gradient)


def test_it_is_the_log_sum_of_the_tiles(backend):
    queries, passages, _ = problem(5, 1700, 20)
    lse = ops.scan(queries, passages, 1, 1.3, tile_lse=True).tile_lse
    torch.testing.assert_close(
        ops.log_partition(queries, passages, 1.3), lse.double().logsumexp(1).float()
    )


def test_nothing_left_is_minus_infinity_with_no_gradient(backend):
    queries, passages, _ = problem(2, 30, 4)
    exclude = torch.full((2, 30), -1)
    exclude[0] = torch.arange(30)
    leaf = queries.clone().requires_grad_()
    value = ops.log_partition(leaf, passages, 1.0, exclude=exclude)
    assert value[0] == -INF
    value.sum().backward()
    assert leaf.grad[0].eq(0).all()
    assert leaf.grad[1].ne(0).any()
    assert ops.log_partition(queries, passages[:0], 1.0).eq(-INF).all()
    assert ops.log_partition(queries[:0], passages, 1.0).shape == (0,)


def test_half_queries_get_half_gradients(backend):
    queries, passages, _ = problem(2, 300, 8)
    leaf = queries.bfloat16().requires_grad_()
    ops.log_partition(leaf, passages, 1.0).sum().backward()
    assert leaf.grad.dtype == torch.bfloat16
    assert leaf.grad.ne(0).any()


def test_gradient_in_passages_is_refused():
    queries, passages, _ = problem(2, 30, 4)
    with pytest.raises(JsaragError, match="queries only"):
        ops.log_partition(queries, passages.requires_grad_(), 1.0)


def test_no_gradient_is_computed_where_none_is_wanted(backend):
    queries, passages, _ = problem(2, 30, 4)
    assert not ops.log_partition(queries, passages, 1.0).requires_grad


def test_opcheck(backend):
    queries, passages, _ = problem(2, 600, 4)
    exclude = torch.tensor([[1], [-1]])
    arguments = (queries.requires_grad_(), passages, 1.0, None, exclude, 2)
    torch.library.opcheck(torch.ops.jsarag.log_partition.default, arguments)
