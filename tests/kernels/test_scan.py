"""scan: against float64, its rules, and what must not change its results."""

from __future__ import annotations

import math

import pytest
import torch

from jsarag import ops
from jsarag.backends import native
from jsarag.backends.native.arguments import Rows
from jsarag.errors import DtypeError, JsaragError, ShapeError
from jsarag.ops.reference.scan import scan as reference

NAN, INF = math.nan, math.inf
DTYPES = ("float32", "bfloat16", "float16", "int8")
# On and off the sizes of vectors (16), query blocks (12), panels (128), tiles (512), chunks (128).
SHAPES = [
    (1, 1, 1, 1),
    (1, 1000, 24, 10),
    (2, 511, 16, 5),
    (4, 512, 384, 10),
    (5, 513, 127, 7),
    (12, 129, 128, 130),
    (13, 2000, 100, 20),
    (25, 1537, 257, 1500),
    (40, 600, 33, 3),
]
needs_kernel = pytest.mark.skipif(
    "scan" not in native.CPU_OPS, reason=native.MISSING or "no compiled scan"
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
    """Queries, passages of a dtype, their scales or None, and the f32 passages."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, width, generator=generator)
    exact = torch.randn(count, width, generator=generator)
    if dtype == "int8":
        return queries, *ops.quantise_rows(exact), exact
    return queries, exact.to(getattr(torch, dtype)), None, exact


def truth(queries, passages, scales, k, inv_temperature=1.0, exclude=None):
    scales = None if scales is None else scales.double()
    return reference(queries.double(), passages.double(), k, inv_temperature, scales, exclude, True)


def naive_error(queries, passages, scales, dtype):
    """Largest error of torch's own product in the same dtype, and room for the kernel's sums."""
    exact = queries.double() @ passages.double().T
    if dtype == "int8":
        naive = queries @ passages.float().T
        # int8 kernels round the query to 15 bits or so.
        room = 2.0**-13
    else:
        naive = queries.to(passages.dtype) @ passages.T
        room = torch.finfo(torch.float32).eps
    norms = queries.double().norm(dim=1, keepdim=True) * passages.double().norm(dim=1)
    factor = 1.0 if scales is None else scales.double()
    return float(((naive.double() - exact).abs() * factor).max() + (room * norms * factor).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scan_is_within_the_error_of_the_naive_product(backend, shape, dtype):
    batch, count, width, k = shape
    queries, passages, scales, _ = problem(batch, count, width, dtype)
    exclude = torch.randint(-1, count, (batch, 3), generator=torch.Generator().manual_seed(1))
    inv_temperature = 2.0 / math.sqrt(width)
    found = ops.scan(
        queries, passages, k, inv_temperature, scales=scales, exclude=exclude, tile_lse=True
    )
    exact = truth(queries, passages, scales, k, inv_temperature, exclude)
    budget = naive_error(queries, passages, scales, dtype)

    assert found.ids.dtype == torch.int64
    assert found.scores.dtype == found.tile_lse.dtype == torch.float32
    assert torch.equal(found.ids == -1, exact.ids == -1)
    assert torch.equal(found.scores == -INF, exact.ids == -1)
    live = exact.ids >= 0
    assert ((found.scores - exact.scores)[live].abs() <= budget).all()
    # The ids may differ only among passages whose scores the budget cannot tell apart.
    own = (queries.double() @ passages.double().T) * (1 if scales is None else scales.double())
    own = own.gather(1, found.ids.clamp_min(0))
    assert ((own - exact.scores)[live].abs() <= 2 * budget).all()
    assert all(len(set(row[row >= 0].tolist())) == int((row >= 0).sum()) for row in found.ids)
    assert (
        not (found.ids.unsqueeze(2) == exclude.unsqueeze(1))
        .logical_and(exclude.unsqueeze(1) >= 0)
        .any()
    )
    mass = exact.tile_lse.isfinite()
    assert torch.equal(found.tile_lse == -INF, exact.tile_lse == -INF)
    lse_error = (found.tile_lse - exact.tile_lse)[mass].abs()
    assert (lse_error <= budget * inv_temperature + 1e-5).all()


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_score_depends_on_nothing_but_its_query_and_passage(dtype):
    queries, passages, scales, _ = problem(29, 1100, 200, dtype)
    whole = ops.scan(queries, passages, 50, 1.0, scales=scales, tile_lse=True, threads=2)
    for threads in (1, 3, 7):
        again = ops.scan(queries, passages, 50, 1.0, scales=scales, tile_lse=True, threads=threads)
        assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    for size in (1, 2, 3, 4, 5, 11, 12):
        part = ops.scan(queries[:size], passages, 50, 1.0, scales=scales, tile_lse=True)
        assert torch.equal(part.ids, whole.ids[:size])
        assert torch.equal(part.scores, whole.scores[:size])
        # The order of sums inside a tile is fixed too.
        assert torch.equal(part.tile_lse, whole.tile_lse[:size])
    shifted = ops.scan(
        queries, passages[3:], 50, 1.0, scales=None if scales is None else scales[3:]
    )
    best = {
        (q, int(i) - 3): float(s)
        for q, (ids, scores) in enumerate(zip(whole.ids, whole.scores, strict=True))
        for i, s in zip(ids, scores, strict=True)
    }
    for query, (ids, scores) in enumerate(zip(shifted.ids, shifted.scores, strict=True)):
        for row, score in zip(ids.tolist(), scores.tolist(), strict=True):
            if (query, row) in best:
                assert score == best[query, row]


def test_equal_scores_come_by_smaller_id(backend):
    passages = torch.zeros(3000, 8)
    passages[::7] = 1.0
    found = ops.scan(torch.ones(3, 8), passages, 500, 1.0)
    best = list(range(0, 3000, 7))
    others = [row for row in range(3000) if row % 7][: 500 - len(best)]
    assert found.ids.tolist() == [best + others] * 3
    assert found.scores[0, : len(best)].eq(8).all()
    assert found.scores[0, len(best) :].eq(0).all()


def test_ascending_and_descending_scores_survive_the_buffers(backend):
    ramp = torch.arange(5000.0).unsqueeze(1)
    up = ops.scan(torch.ones(1, 1), ramp, 100, 1.0)
    assert up.ids[0].tolist() == list(range(4999, 4899, -1))
    down = ops.scan(-torch.ones(1, 1), ramp, 100, 1.0)
    assert down.ids[0].tolist() == list(range(100))


def test_near_ties_are_ordered_by_the_computed_score(backend):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 64, generator=generator)
    passages = base + 1e-7 * torch.randn(700, 64, generator=generator)
    found = ops.scan(base, passages, 700, 1.0)
    assert sorted(found.ids[0].tolist()) == list(range(700))
    assert (found.scores[0].diff() <= 0).all()
    tied = found.scores[0].diff() == 0
    assert tied.any()
    assert (found.ids[0].diff()[tied] > 0).all()


@pytest.mark.parametrize(
    ("batch", "count", "width"), [(0, 10, 4), (3, 0, 4), (0, 0, 4), (2, 5, 0)], ids=str
)
def test_empty_inputs(backend, batch, count, width):
    found = ops.scan(torch.ones(batch, width), torch.ones(count, width), 4, 1.0, tile_lse=True)
    expected = [*range(min(count, 4)), *[-1] * (4 - min(count, 4))]
    assert found.ids.tolist() == [expected] * batch
    assert found.scores.shape == (batch, 4)
    assert found.tile_lse.shape == (batch, 1 if count else 0)
    if width == 0:
        assert torch.allclose(found.tile_lse, torch.tensor(math.log(5.0)))


def test_k_beyond_the_passages_is_padded(backend):
    found = ops.scan(torch.ones(2, 4), torch.ones(3, 4), 10, 1.0)
    assert found.ids.tolist() == [[0, 1, 2] + [-1] * 7] * 2
    assert found.scores[:, 3:].eq(-INF).all()


def test_exclusion_takes_padding_duplicates_and_everything(backend):
    passages = torch.arange(600.0).unsqueeze(1)
    exclude = torch.tensor([[599, 599, -1, 598], [-1, -1, -1, -1], [600, 10**12, -7, 597]])
    found = ops.scan(torch.ones(3, 1), passages, 2, 1.0, exclude=exclude)
    assert found.ids.tolist() == [[597, 596], [599, 598], [599, 598]]
    all_of_it = torch.arange(600).expand(1, -1)
    none = ops.scan(torch.ones(1, 1), passages, 2, 1.0, exclude=all_of_it, tile_lse=True)
    assert none.ids.tolist() == [[-1, -1]]
    assert none.tile_lse.eq(-INF).all()


def test_odd_numbers(backend):
    passages = torch.ones(1100, 2)
    passages[3, 0] = NAN
    passages[600] = INF
    passages[601] = -INF
    found = ops.scan(torch.ones(1, 2), passages, 1100, 1.0, tile_lse=True)
    ids = found.ids[0].tolist()
    assert ids[0] == 600
    assert found.scores[0, 0] == INF
    # NaN and -inf are never returned.
    assert 3 not in ids
    assert 601 not in ids
    assert ids[-2:] == [-1, -1]
    # A NaN shows in its tile, +inf is the mass of its own.
    assert math.isnan(found.tile_lse[0, 0])
    assert found.tile_lse[0, 1] == INF
    assert math.isfinite(found.tile_lse[0, 2])
    hidden = ops.scan(
        torch.ones(1, 2), passages, 5, 1.0, exclude=torch.tensor([[3, 600]]), tile_lse=True
    )
    assert hidden.tile_lse.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_that_is_nan_finds_nothing_and_harms_no_other(backend, dtype):
    queries, passages, scales, _ = problem(6, 700, 40, dtype)
    clean = ops.scan(queries, passages, 5, 1.0, scales=scales, tile_lse=True)
    queries[2, 7] = NAN
    found = ops.scan(queries, passages, 5, 1.0, scales=scales, tile_lse=True)
    assert found.ids[2].tolist() == [-1] * 5
    assert found.tile_lse[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found.ids[others], clean.ids[others])
    torch.testing.assert_close(found.tile_lse[others], clean.tile_lse[others])


def test_large_scores_keep_their_mass(backend):
    passages = torch.tensor([[1.0], [0.999], [-1.0]]) * 1e4
    found = ops.scan(torch.ones(1, 1), passages, 3, 10.0, tile_lse=True)
    expected = torch.logsumexp(passages[:, 0].double() * 10.0, 0)
    assert float(found.tile_lse) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_offsets_are_read_where_they_lie(backend, dtype):
    queries, passages, scales, _ = problem(3, 600, 48, dtype)
    plain = ops.scan(queries, passages, 9, 1.0, scales=scales)
    wide = torch.full((600, 61), 99, dtype=passages.dtype)
    wide[:, 5:53] = passages
    padded_queries = torch.full((6, 50), NAN)
    padded_queries[::2, 1:49] = queries
    strided = ops.scan(
        padded_queries[::2, 1:49],
        wide[:, 5:53],
        9,
        1.0,
        scales=None if scales is None else scales.repeat_interleave(2)[::2],
    )
    columns = ops.scan(queries, passages.T.contiguous().T, 9, 1.0, scales=scales)
    for other in (strided, columns):
        assert torch.equal(other.ids, plain.ids)
        torch.testing.assert_close(other.scores, plain.scores)


def test_a_mapped_file_is_scanned_in_place(backend, tmp_path):
    queries, passages, _, _ = problem(2, 1000, 16)
    path = tmp_path / "vectors.bin"
    path.write_bytes(passages.numpy().tobytes())
    mapped = torch.from_file(str(path), shared=False, size=16000).view(1000, 16)
    found = ops.scan(queries, mapped, 5, 1.0)
    assert torch.equal(found.ids, ops.scan(queries, passages, 5, 1.0).ids)
    if backend == "cpu":
        assert Rows(mapped).passages.data_ptr() == mapped.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_queries_are_widened(backend, dtype):
    queries, passages, _, _ = problem(3, 300, 20)
    narrow = queries.to(dtype)
    found = ops.scan(narrow, passages, 5, 1.0)
    widened = ops.scan(narrow.float(), passages, 5, 1.0)
    assert torch.equal(found.ids, widened.ids)
    assert torch.equal(found.scores, widened.scores)


def test_more_queries_than_one_group(backend):
    queries, passages, _, _ = problem(1500, 300, 8)
    found = ops.scan(queries, passages, 2048, 1.0)
    exact = truth(queries, passages, None, 2048)
    assert torch.equal(found.ids == -1, exact.ids == -1)
    torch.testing.assert_close(found.scores[:, :300], exact.scores[:, :300].float())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"k": 0}, JsaragError, "k expected 1 to 2048"),
        ({"k": 2049}, JsaragError, "k expected 1 to 2048"),
        ({"inv_temperature": 0.0}, JsaragError, "positive finite"),
        ({"inv_temperature": NAN}, JsaragError, "positive finite"),
        ({"queries": torch.ones(2, 5)}, ShapeError, "passages"),
        ({"queries": torch.ones(4)}, ShapeError, "queries"),
        ({"queries": torch.ones(2, 4, dtype=torch.int64)}, DtypeError, "queries"),
        ({"passages": torch.ones(3, 4, dtype=torch.int8)}, DtypeError, "scales"),
        ({"scales": torch.ones(3)}, DtypeError, "scales"),
        ({"exclude": torch.ones(2, 1)}, DtypeError, "exclude"),
        ({"exclude": torch.ones(3, 1, dtype=torch.int64)}, ShapeError, "exclude"),
        (
            {"certify": True, "passages": torch.ones(3, 4).bfloat16()},
            JsaragError,
            "exact_passages",
        ),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_wrong_arguments_are_refused_in_words(change, error, words):
    arguments = {
        "queries": torch.ones(2, 4),
        "passages": torch.ones(3, 4),
        "k": 1,
        "inv_temperature": 1.0,
        **change,
    }
    with pytest.raises(error, match=words):
        ops.scan(**arguments)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_opcheck(backend, dtype):
    queries, passages, scales, exact = problem(3, 600, 20, dtype)
    exclude = torch.tensor([[1], [-1], [5]])
    scan = torch.ops.jsarag.scan.default
    search = (queries, passages, 1.0, scales, exclude, 2)
    torch.library.opcheck(scan, (*search, 4, True, None, None, None))
    if dtype == "int8":
        torch.library.opcheck(
            scan, (*search, 4, True, exact, *ops.row_errors(passages, exact, scales))
        )
