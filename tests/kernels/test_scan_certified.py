"""scan(certify=True): the results of the exact vectors, from the rounded ones, bit for bit."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from jsarag import ops
from jsarag.backends import native

NAN, INF = math.nan, math.inf
needs_kernel = pytest.mark.skipif(
    "scan" not in native.CPU_OPS, reason=native.MISSING or "no compiled scan"
)


BACKENDS = [
    "reference",
    pytest.param("cpu", marks=needs_kernel),
    "emulated",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, chosen_backend):
    return chosen_backend(request.param)


def rounded(exact, dtype):
    return ops.quantise_rows(exact) if dtype == "int8" else (exact.bfloat16(), None)


def assert_certified(queries, exact, dtype, k, exclude=None):
    passages, scales = rounded(exact, dtype)
    found = ops.scan(
        queries,
        passages,
        k,
        1.0,
        scales=scales,
        exclude=exclude,
        certify=True,
        exact_passages=exact,
        tile_lse=True,
    )
    wanted = ops.scan(queries, exact, k, 1.0, exclude=exclude)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.scores, wanted.scores)
    # Draws are made from the rounded passages: so is their mass.
    plain = ops.scan(queries, passages, k, 1.0, scales=scales, exclude=exclude, tile_lse=True)
    torch.testing.assert_close(found.tile_lse, plain.tile_lse, equal_nan=True)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize(
    ("batch", "count", "width", "k"),
    [(1, 3000, 96, 10), (3, 5, 7, 9), (9, 1500, 33, 40), (20, 700, 384, 3), (0, 9, 4, 2)],
)
def test_results_are_the_exact_ones(batch, count, width, k, dtype):
    generator = torch.Generator().manual_seed(batch)
    queries = torch.randn(batch, width, generator=generator)
    exact = torch.randn(count, width, generator=generator)
    exclude = torch.randint(-1, count, (batch, 4), generator=generator)
    assert_certified(queries, exact, dtype, k, exclude)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_near_ties_below_the_rounding(dtype):
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(4, 64, generator=generator)
    # Rounding cannot tell these apart: only widening gets them right.
    exact = queries[:1] + 1e-6 * torch.randn(2000, 64, generator=generator)
    passages, scales = rounded(exact, dtype)
    plain = ops.scan(queries, passages, 10, 1.0, scales=scales)
    wanted = ops.scan(queries, exact, 10, 1.0)
    assert not torch.equal(plain.ids, wanted.ids)
    assert_certified(queries, exact, dtype, 10)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_ties_come_by_smaller_id(dtype):
    exact = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).repeat(300, 1)
    assert_certified(torch.randn(2, 16), exact, dtype, 700)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_numbers(dtype, size):
    generator = torch.Generator().manual_seed(5)
    exact = torch.randn(900, 24, generator=generator) * size
    assert_certified(torch.randn(3, 24, generator=generator), exact, dtype, 12)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_one_wild_row_does_not_hide_the_others(dtype):
    generator = torch.Generator().manual_seed(6)
    exact = torch.randn(1200, 24, generator=generator)
    exact[17] *= 1e4
    exact[40] = 0.0
    queries = torch.randn(3, 24, generator=generator)
    queries[1] = 0.0
    assert_certified(queries, exact, dtype, 12)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_numbers_that_are_not_finite(dtype):
    generator = torch.Generator().manual_seed(7)
    exact = torch.randn(900, 24, generator=generator)
    exact[5, 3] = NAN
    exact[6, 0] = INF
    exact[7, 0] = -INF
    queries = torch.randn(5, 24, generator=generator)
    assert_certified(queries, exact, dtype, 12)
    queries[2, 1] = NAN
    queries[3, 1] = INF
    assert_certified(queries, exact, dtype, 12)


def test_stored_errors_are_used_as_given(backend):
    generator = torch.Generator().manual_seed(8)
    queries, exact = torch.randn(2, 24, generator=generator), torch.randn(500, 24)
    values, scales = ops.quantise_rows(exact)
    errors = ops.row_errors(values, exact, scales)
    arguments = {"scales": scales, "certify": True, "exact_passages": exact}
    stored = ops.scan(queries, values, 9, 1.0, row_errors=errors, **arguments)
    wanted = ops.scan(queries, exact, 9, 1.0)
    assert torch.equal(stored.ids, wanted.ids)
    if backend == "cpu":
        # The passage that ought to win is far below, and its error said to be nothing.
        lied = values.clone()
        lied[int(wanted.ids[0, 0])] = -values[int(wanted.ids[0, 0])]
        fooled = ops.scan(queries, lied, 9, 1.0, row_errors=errors, **arguments)
        assert not torch.equal(fooled.ids, wanted.ids)


def test_computed_errors_are_kept_until_a_tensor_changes(backend, monkeypatch):
    if backend == "cuda":
        pytest.skip("there each call gets tensors of its own")
    calls = []
    compute = ops.row_errors
    home = importlib.import_module("jsarag.ops.row_errors")
    monkeypatch.setattr(home, "row_errors", lambda *args: calls.append(args) or compute(*args))
    exact = torch.randn(300, 8, generator=torch.Generator().manual_seed(9))
    values, scales = ops.quantise_rows(exact)
    queries = torch.randn(2, 8)
    arguments = {"scales": scales, "certify": True}
    for _ in range(2):
        ops.scan(queries, values, 3, 1.0, exact_passages=exact, **arguments)
        ops.scan(queries, values.detach(), 3, 1.0, exact_passages=exact, **arguments)
    assert len(calls) == 1
    exact[0] = exact[1] * 3
    found = ops.scan(queries, values, 3, 1.0, exact_passages=exact, **arguments)
    assert len(calls) == 2
    assert torch.equal(found.ids, ops.scan(queries, exact, 3, 1.0).ids)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_row_errors_are_upper_bounds_and_close(dtype):
    exact = torch.randn(600, 50, generator=torch.Generator().manual_seed(10))
    passages, scales = rounded(exact, dtype)
    values = passages.double() if scales is None else passages.double() * scales[:, None].double()
    errors = ops.row_errors(passages, exact, scales)
    distance, norm = (exact.double() - values).norm(dim=1), values.norm(dim=1)
    assert (errors.error >= distance).all()
    assert (errors.norm >= norm).all()
    assert (errors.error <= distance * 1.00001).all()
    assert (errors.norm <= norm * 1.00001).all()


def test_quantised_rows_are_within_half_a_step():
    vectors = torch.randn(300, 20, generator=torch.Generator().manual_seed(11))
    vectors[4] = 0.0
    vectors[5, 2] = NAN
    values, scales = ops.quantise_rows(vectors)
    assert values.dtype == torch.int8
    assert values[6:].abs().amax(1).eq(127).all()
    error = (values.double() * scales.double().unsqueeze(1) - vectors.double()).abs()
    finite = torch.arange(300) != 5
    assert (error <= scales.double().unsqueeze(1) * 0.5001)[finite].all()
    assert values[4].eq(0).all()
    assert scales[4] == 0
    assert scales[5].isnan()
