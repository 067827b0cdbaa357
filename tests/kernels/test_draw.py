"""draw: exact probabilities, and the very same picks from every backend."""

from __future__ import annotations

import math

import pytest
import torch

from jsarag import ops
from jsarag.backends import native
from jsarag.errors import DtypeError, ShapeError
from jsarag.randomness import uniforms as keyed_uniforms

NAN, INF = math.nan, math.inf
needs_kernel = pytest.mark.skipif(
    "draw" not in native.CPU_OPS, reason=native.MISSING or "no compiled draw"
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


def problem(batch, count, width, draws, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, width, generator=generator)
    passages = torch.randn(count, width, generator=generator)
    uniforms = keyed_uniforms(seed, "test", [str(b) for b in range(batch)], [0] * batch, draws)
    return queries, passages, uniforms


def scan_and_draw(queries, passages, inv_temperature, uniforms, **options):
    lse = ops.scan(queries, passages, 1, inv_temperature, tile_lse=True, **options).tile_lse
    return ops.draw(queries, passages, inv_temperature, lse, uniforms, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "float64"])
def test_logp_is_the_softmax_over_all_passages(backend, dtype):
    queries, exact, uniforms = problem(7, 1300, 40, 30)
    passages, scales = exact.to(getattr(torch, dtype if dtype != "int8" else "float32")), None
    if dtype == "int8":
        passages, scales = ops.quantise_rows(exact)
    if dtype == "float64":
        queries = queries.double()
    exclude = torch.randint(-1, 1300, (7, 5), generator=torch.Generator().manual_seed(2))
    found = scan_and_draw(queries, passages, 0.4, uniforms, scales=scales, exclude=exclude)
    scores = queries.double() @ passages.double().T
    scores = 0.4 * (scores if scales is None else scores * scales.double())
    for row, columns in enumerate(exclude):
        scores[row, columns[columns >= 0]] = -INF
    expected = scores.log_softmax(1).gather(1, found.ids)
    room = {"bfloat16": 3e-2, "int8": 1e-3, "float64": 1e-12}.get(dtype, 2e-5)
    if dtype == "float16" and backend in ("emulated", "cuda"):
        room = 4e-3  # CUDA rounds the queries to 11 bits, too
    torch.testing.assert_close(found.logp.double(), expected, atol=room, rtol=0)
    assert found.ids.dtype == torch.int64
    assert found.logp.dtype == (torch.float64 if dtype == "float64" else torch.float32)


def test_frequencies_pass_a_chi_square_test(backend):
    queries, passages, _ = problem(1, 1100, 8, 1, seed=4)
    draws = 200_000
    # Stratified numbers: the test is of the inverse, not of a generator.
    uniforms = ((torch.arange(draws, dtype=torch.float64) + 0.5) / draws).unsqueeze(0)
    found = scan_and_draw(queries, passages, 0.5, uniforms)
    p = (queries.double() @ passages.double().T * 0.5).softmax(1)[0]
    counts = torch.bincount(found.ids[0], minlength=1100)
    # An interval of mass p holds the midpoints of p * draws strata, give or take one.
    assert ((counts - p * draws).abs() <= 1.5).all()


def test_independent_draws_pass_a_chi_square_test(backend):
    queries, passages, uniforms = problem(1, 600, 6, 50_000, seed=5)
    found = scan_and_draw(queries, passages, 1.0, uniforms)
    p = (queries.double() @ passages.double().T).softmax(1)[0]
    order = p.argsort(descending=True)
    head, rest = order[:40], order[40:]
    counts = torch.bincount(found.ids[0], minlength=600).double()
    observed = torch.cat([counts[head], counts[rest].sum().view(1)])
    expected = torch.cat([p[head], p[rest].sum().view(1)]) * 50_000
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    # 40 degrees of freedom: mean 40, standard deviation 8.9; a seed fixed in advance.
    assert chi_square < 40 + 4 * math.sqrt(80)


@needs_kernel
def test_backends_pick_the_same_passages_but_at_boundaries(monkeypatch):
    queries, passages, uniforms = problem(20, 2500, 32, 64, seed=6)
    lse = ops.scan(queries, passages, 1, 0.5, tile_lse=True).tile_lse
    fast = ops.draw(queries, passages, 0.5, lse, uniforms)
    monkeypatch.setenv("JSARAG_BACKEND", "reference")
    plain = ops.draw(queries, passages, 0.5, lse, uniforms)
    # The scores differ in their last bits, so a uniform within 1e-6 or so of a boundary may move.
    assert int((fast.ids != plain.ids).sum()) <= 1
    torch.testing.assert_close(fast.logp, plain.logp, atol=1e-4, rtol=0)


@needs_kernel
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_neither_threads_nor_neighbours_change_a_draw(dtype):
    queries, exact, uniforms = problem(15, 1800, 50, 20, seed=7)
    passages, scales = ops.quantise_rows(exact) if dtype == "int8" else (exact, None)
    if dtype == "bfloat16":
        passages = exact.bfloat16()
    lse = ops.scan(queries, passages, 1, 0.5, scales=scales, tile_lse=True).tile_lse
    whole = ops.draw(queries, passages, 0.5, lse, uniforms, scales=scales, threads=2)
    for threads in (1, 5):
        again = ops.draw(queries, passages, 0.5, lse, uniforms, scales=scales, threads=threads)
        assert torch.equal(whole.ids, again.ids)
        assert torch.equal(whole.logp, again.logp)
    for row in range(15):
        part = slice(row, row + 1)
        alone = ops.draw(queries[part], passages, 0.5, lse[part], uniforms[part], scales=scales)
        assert torch.equal(alone.ids, whole.ids[part])
        assert torch.equal(alone.logp, whole.logp[part])


def test_extreme_uniforms_stay_inside(backend):
    queries, passages, _ = problem(2, 700, 8, 1)
    tiny, below_one = 5e-324, 1.0 - 2.0**-53
    uniforms = torch.tensor([[tiny, below_one, 0.0]] * 2, dtype=torch.float64)
    exclude = torch.tensor([[0, 699], [1, 698]])
    found = scan_and_draw(queries, passages, 30.0, uniforms, exclude=exclude)
    assert ((found.ids >= 0) & (found.ids < 700)).all()
    assert not (found.ids.unsqueeze(2) == exclude.unsqueeze(1)).any()
    assert found.logp.isfinite().all()


def test_a_passage_without_mass_is_never_drawn(backend):
    passages = torch.full((1030, 1), -1e4)
    passages[517] = 0.0
    uniforms = torch.linspace(0.0, 1.0, 50, dtype=torch.float64)[None, :-1]
    found = scan_and_draw(torch.ones(1, 1), passages, 1.0, uniforms)
    assert found.ids.eq(517).all()
    assert found.logp.abs().max() < 1e-6


def test_queries_without_mass_or_with_broken_mass(backend):
    queries, passages, uniforms = problem(3, 600, 4, 5)
    exclude = torch.full((3, 600), -1)
    exclude[0] = torch.arange(600)
    queries[2, 0] = NAN
    found = scan_and_draw(queries, passages, 1.0, uniforms, exclude=exclude)
    assert found.ids[0].tolist() == [-1] * 5
    assert found.logp[0].eq(-INF).all()
    assert (found.ids[1] >= 0).all()
    assert found.ids[2].tolist() == [-1] * 5
    assert found.logp[2].isnan().all()


@pytest.mark.parametrize(("batch", "count", "draws"), [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_empty_inputs(backend, batch, count, draws):
    queries, passages, _ = problem(batch, count, 4, 1)
    uniforms = torch.full((batch, draws), 0.5, dtype=torch.float64)
    found = scan_and_draw(queries, passages, 1.0, uniforms)
    assert found.ids.shape == found.logp.shape == (batch, draws)
    if count == 0:
        assert found.ids.eq(-1).all()
        assert found.logp.eq(-INF).all()


def test_wrong_arguments_are_refused():
    queries, passages, uniforms = problem(2, 600, 4, 3)
    with pytest.raises(ShapeError, match="tile_lse"):
        ops.draw(queries, passages, 1.0, torch.zeros(2, 1), uniforms)
    with pytest.raises(ShapeError, match="uniforms"):
        ops.draw(queries, passages, 1.0, torch.zeros(2, 2), uniforms[0])
    with pytest.raises(DtypeError, match="uniforms"):
        ops.draw(queries, passages, 1.0, torch.zeros(2, 2), uniforms.to(torch.float16))


def test_opcheck(backend):
    queries, passages, uniforms = problem(2, 600, 4, 3)
    lse = ops.scan(queries, passages, 1, 1.0, tile_lse=True).tile_lse
    arguments = (queries, passages, 1.0, None, None, 2, lse, uniforms)
    torch.library.opcheck(torch.ops.jsarag.draw.default, arguments)
