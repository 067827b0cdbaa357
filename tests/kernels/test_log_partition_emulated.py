"""log_partition's CUDA kernels, run on the CPU by the emulation, against float64."""

from __future__ import annotations

import math

import pytest
import torch

from jsarag import ops
from jsarag.backends.native import log_partition as native
from jsarag.backends.native.arguments import SearchInputs
from jsarag.backends.native.row_errors import row_errors

NAN, INF = math.nan, math.inf
DTYPES = ("float32", "bfloat16", "float16", "int8")


@pytest.fixture(autouse=True)
def emulation(emulated_cuda):
    return emulated_cuda


def problem(batch, count, width, dtype="float32", seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, width, generator=generator)
    exact = torch.randn(count, width, generator=generator)
    if dtype == "int8":
        return queries, *ops.quantise_rows(exact)
    return queries, exact.to(getattr(torch, dtype)), None


def forward(queries, passages, inv_temperature, scales=None, exclude=None):
    inputs = SearchInputs(queries, passages, inv_temperature, scales, exclude, 1)
    return native.log_partition(inputs)


def backward(queries, passages, inv_temperature, lse, grad, scales=None, exclude=None):
    inputs = SearchInputs(queries, passages, inv_temperature, scales, exclude, 1)
    return native.log_partition_backward(inputs, lse, grad)


def dense(queries, passages, inv_temperature, scales=None, exclude=None):
    """float64: value [B], and weights p(h) [B, N]."""
    scores = queries.double() @ passages.double().T
    if scales is not None:
        scores = scores * scales.double()
    scores = scores * inv_temperature
    if exclude is not None:
        for row, columns in enumerate(exclude):
            scores[row, columns[(columns >= 0) & (columns < len(passages))]] = -INF
    value = scores.logsumexp(1)
    return value, (scores - value.unsqueeze(1)).exp().nan_to_num(0.0)


def exact_gradient(queries, passages, inv_temperature, grad, scales=None, exclude=None):
    value, weights = dense(queries, passages, inv_temperature, scales, exclude)
    rows = passages.double() * (1.0 if scales is None else scales.double().unsqueeze(1))
    return value.float(), (weights @ rows) * (grad.double() * inv_temperature).unsqueeze(1)


def naive_gradient(queries, passages, inv_temperature, grad, scales=None, exclude=None):
    """The same in f32, products as torch does them."""
    rows = passages.float() * (1.0 if scales is None else scales.unsqueeze(1))
    scores = queries @ rows.T * inv_temperature
    if exclude is not None:
        for row, columns in enumerate(exclude):
            scores[row, columns[(columns >= 0) & (columns < len(passages))]] = -INF
    return (scores.softmax(1) @ rows) * (grad * inv_temperature).unsqueeze(1)


# On and off the sizes of row groups (16, 32), query groups (16, 32), tiles (512) and flushes.
SHAPES = [(1, 1, 1), (2, 17, 3), (4, 511, 16), (3, 512, 8), (16, 513, 24), (33, 700, 100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_is_within_the_naive_error(shape, dtype):
    batch, count, width = shape
    queries, passages, scales = problem(batch, count, width, dtype)
    if dtype in ("bfloat16", "float16"):
        # The kernel's scores are of rounded queries; its error is measured from there.
        queries = queries.to(passages.dtype).float()
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(batch, generator=generator)
    exclude = torch.randint(-1, count, (batch, 5), generator=generator) if count > 9 else None
    inv_temperature = 2.0 / math.sqrt(width)
    arguments = (queries, passages, inv_temperature)
    lse, exact = exact_gradient(*arguments, grad, scales, exclude)
    found = backward(*arguments, lse, grad, scales, exclude)
    naive = naive_gradient(*arguments, grad, scales, exclude)
    # Weights and wide queries are held as two bf16 numbers: 2^-17 of a weight, and of a score.
    reach = float(queries.norm(dim=1).max() * passages.double().norm(dim=1).max())
    reach *= inv_temperature * (1.0 if scales is None else float(scales.max()))
    share = 2.0**-23 if dtype == "float32" else 2.0**-17
    size = float(passages.double().abs().max()) * (1.0 if scales is None else float(scales.max()))
    room = share * (1.0 + reach) * size * inv_temperature * float(grad.abs().max())
    assert float((found - exact).abs().max()) <= float((naive - exact).abs().max()) + room


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_of_columns_splits_and_flushes(dtype):
    # 1,100 columns are two or more chunks; 11 tiles are cut into several splits of several tiles.
    for batch, count, width in ((3, 5400, 5), (2, 600, 1100)):
        queries, passages, scales = problem(batch, count, width, dtype, seed=2)
        queries = queries.bfloat16().float()
        grad = torch.ones(batch)
        arguments = (queries, passages, 1.0 / math.sqrt(width))
        lse, exact = exact_gradient(*arguments, grad, scales)
        found = backward(*arguments, lse, grad, scales)
        torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_the_number_of_stages_of_rows_changes_nothing(emulation, dtype):
    queries, passages, scales = problem(5, 300, 40, dtype)
    lse, grad = forward(queries, passages, 0.5, scales), torch.ones(5)
    found = [backward(queries, passages, 0.5, lse, grad, scales)]
    limit = emulation.shared_memory_limit()
    try:
        for smaller in (68_000, 48_000, 36_000):
            emulation.set_shared_memory_limit(smaller)
            found.append(backward(queries, passages, 0.5, lse, grad, scales))
    finally:
        emulation.set_shared_memory_limit(limit)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_threads_and_blocks_changes_nothing(dtype):
    queries, passages, scales = problem(18, 1200, 20, dtype)
    grad = torch.randn(18, generator=torch.Generator().manual_seed(3))
    lse = forward(queries, passages, 0.5, scales)
    # The emulation shuffles threads and blocks anew in every launch.
    first = backward(queries, passages, 0.5, lse, grad, scales)
    assert torch.equal(first, backward(queries, passages, 0.5, lse, grad, scales))
    assert torch.equal(lse, forward(queries, passages, 0.5, scales))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_offsets_are_read_where_they_lie(dtype):
    queries, passages, scales = problem(3, 100, 24, dtype)
    lse, grad = dense(queries, passages, 0.5, scales)[0].float(), torch.ones(3)
    plain = backward(queries, passages, 0.5, lse, grad, scales)
    wide = torch.full((100, 31), 99, dtype=passages.dtype)
    wide[:, 5:29] = passages
    assert torch.equal(plain, backward(queries, wide[:, 5:29], 0.5, lse, grad, scales))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exclusions_take_duplicates_padding_and_many(dtype):
    queries, passages, scales = problem(3, 1100, 6, dtype)
    queries = queries.bfloat16().float()
    exclude = torch.full((3, 600), -1)
    exclude[0] = torch.arange(500, 1100)
    exclude[1, :4] = torch.tensor([7, 7, 1099, 10**12])
    lse, exact = exact_gradient(queries, passages, 0.7, torch.ones(3), scales, exclude)
    found = backward(queries, passages, 0.7, lse, torch.ones(3), scales, exclude)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_exclusion_is_seen_whichever_thread_reads_it_first(dtype):
    queries, passages, scales = problem(1, 30, 6, dtype)
    queries = queries.bfloat16().float()
    exclude = torch.full((1, 200), -1)
    exclude[0, 150] = 11
    lse, exact = exact_gradient(queries, passages, 0.7, torch.ones(1), scales, exclude)
    for _ in range(10):
        found = backward(queries, passages, 0.7, lse, torch.ones(1), scales, exclude)
        torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-4)


def test_odd_masses():
    queries, passages, _ = problem(4, 600, 4)
    lse = dense(queries, passages, 1.0)[0].float()
    lse[0], lse[1] = -INF, NAN
    found = backward(queries, passages, 1.0, lse, torch.ones(4))
    assert found[0].eq(0).all()
    assert found[1].isnan().all()
    assert found[2:].isfinite().all()


def test_forward_adds_up_the_tiles():
    queries, passages, _ = problem(3, 1700, 20)
    exclude = torch.full((3, 1700), -1)
    exclude[1] = torch.arange(1700)
    found = forward(queries, passages, 0.7, exclude=exclude)
    exact = dense(queries, passages, 0.7, exclude=exclude)[0]
    torch.testing.assert_close(found.double(), exact, atol=3e-6, rtol=0)
    assert found[1] == -INF
    queries[2, 0] = NAN
    assert forward(queries, passages, 0.7).isnan().tolist() == [False, False, True]
    passages[5] = INF
    assert float(forward(torch.ones(1, 20), passages, 0.7)) == INF


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "count", "width"), [(0, 5, 4), (2, 0, 4), (2, 5, 0)], ids=str)
def test_empty_inputs(batch, count, width, dtype):
    queries = torch.ones(batch, width)
    passages, scales = torch.ones(count, width).to(getattr(torch, dtype)), None
    if dtype == "int8":
        scales = torch.ones(count)
    lse = forward(queries, passages, 1.0, scales)
    expected = math.log(5.0 * math.exp(width)) if count else -INF
    torch.testing.assert_close(lse, torch.full((batch,), expected))
    gradient = backward(queries, passages, 1.0, lse, torch.ones(batch), scales)
    assert gradient.shape == (batch, width)
    assert gradient.eq(0).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("count", [0, 1, 511, 1030])
def test_row_errors_bound_what_rounding_did(dtype, count):
    generator = torch.Generator().manual_seed(count)
    exact = torch.randn(count, 37, generator=generator)
    passages, scales = exact.to(getattr(torch, dtype if dtype != "int8" else "float32")), None
    if dtype == "int8":
        passages, scales = ops.quantise_rows(exact)
    if count > 5:
        exact[5, 3] = NAN
    error, norm = row_errors(passages, exact, scales, 1)
    rounded = passages.double() * (1.0 if scales is None else scales.double().unsqueeze(1))
    true_error, true_norm = (exact.double() - rounded).norm(dim=1), rounded.norm(dim=1)
    known = true_error.isfinite()
    assert error[~known].eq(INF).all()
    for found, true in ((error[known], true_error[known]), (norm, true_norm)):
        assert (found >= true).all()
        assert (found <= true * 1.00001 + 1e-30).all()
