"""draw's CUDA kernels, run on the CPU by the emulation: the same source, fibres for threads."""

from __future__ import annotations

import math

import pytest
import torch

from jsarag import ops
from jsarag.backends.native import draw as native
from jsarag.backends.native.arguments import SearchInputs
from jsarag.backends.native.compiled import module as compiled_module
from jsarag.errors import ShapeError
from jsarag.ops.reference.draw import draw as reference
from jsarag.ops.reference.scan import scan as reference_scan
from jsarag.ops.tile import TILE

NAN, INF = math.nan, math.inf
pytestmark = pytest.mark.usefixtures("emulated_cuda")


def problem(batch, count, width, draws, dtype="float32", seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, width, generator=generator)
    exact = torch.randn(count, width, generator=generator)
    uniforms = torch.rand(batch, draws, dtype=torch.float64, generator=generator)
    if dtype == "int8":
        return queries, *ops.quantise_rows(exact), uniforms
    return queries, exact.to(getattr(torch, dtype)), None, uniforms


def run(queries, passages, inv_temperature, tile_lse, uniforms, scales=None, exclude=None):
    inputs = SearchInputs(queries, passages, inv_temperature, scales, exclude, 1)
    return native.draw(inputs, tile_lse, uniforms)


def tile_masses(queries, passages, inv_temperature, scales=None, exclude=None):
    found = reference_scan(queries, passages, 1, inv_temperature, scales, exclude, True)
    return found.tile_lse


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1024, 1300])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_ids_and_densities_are_those_of_the_reference(count, dtype):
    queries, passages, scales, uniforms = problem(5, count, 24, 33, dtype)
    # What the kernel and the reference multiply must be equal: bf16 kernels round the queries.
    queries = queries.bfloat16().float()
    generator = torch.Generator().manual_seed(1)
    exclude = torch.randint(-1, count, (5, 4), generator=generator) if count > 9 else None
    lse = tile_masses(queries, passages, 0.4, scales, exclude)
    ids, logp = run(queries, passages, 0.4, lse, uniforms, scales, exclude)
    plain = reference(queries, passages, 0.4, lse, uniforms, scales, exclude)
    # The scores differ in their last bits, so a uniform within that of a boundary may move. f16 and
    # int8 kernels round the queries too.
    same = ids == plain.ids
    room = {"float16": 2e-3, "int8": 1e-3}.get(dtype, 1e-4)
    assert int((~same).sum()) <= (2 if room > 1e-4 else 1)
    torch.testing.assert_close(logp[same], plain.logp[same], atol=room, rtol=0)


@pytest.mark.parametrize("order", range(3))
def test_neither_the_order_of_threads_nor_neighbours_change_a_draw(order):
    queries, passages, _, uniforms = problem(4, 1100, 16, 40, seed=order)
    lse = tile_masses(queries, passages, 0.5)
    whole = run(queries, passages, 0.5, lse, uniforms)
    # The emulation shuffles threads and blocks anew in every launch.
    again = run(queries, passages, 0.5, lse, uniforms)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    for row in range(4):
        part = slice(row, row + 1)
        alone = run(queries[part], passages, 0.5, lse[part], uniforms[part])
        assert all(torch.equal(a, b[part]) for a, b in zip(alone, whole, strict=True))
    turned = run(queries, passages, 0.5, lse, uniforms.flip(1))
    assert all(torch.equal(a.flip(1), b) for a, b in zip(turned, whole, strict=True))


def test_more_tiles_than_threads_of_a_block():
    queries, passages, _, uniforms = problem(1, 300 * TILE + 5, 2, 200, seed=3)
    lse = tile_masses(queries, passages, 0.1)
    ids, logp = run(queries, passages, 0.1, lse, uniforms)
    plain = reference(queries, passages, 0.1, lse, uniforms)
    assert int((ids != plain.ids).sum()) <= 1
    assert len((ids // TILE).unique()) > 100
    torch.testing.assert_close(logp, plain.logp, atol=1e-4, rtol=0)


def test_every_stratum_falls_where_the_distribution_says():
    queries, passages, _, _ = problem(1, 1100, 8, 1, seed=4)
    draws = 50_000
    strata = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    shuffled = strata[torch.randperm(draws, generator=torch.Generator().manual_seed(0))]
    lse = tile_masses(queries, passages, 0.5)
    ids, _ = run(queries, passages, 0.5, lse, shuffled.unsqueeze(0))
    p = (queries.double() @ passages.double().T * 0.5).softmax(1)[0]
    counts = torch.bincount(ids[0], minlength=1100)
    # An interval of mass p holds the midpoints of p * draws strata, give or take one.
    assert ((counts - p * draws).abs() <= 1.5).all()


def test_independent_draws_pass_a_chi_square_test():
    queries, passages, _, uniforms = problem(1, 600, 6, 20_000, seed=5)
    ids, _ = run(queries, passages, 1.0, tile_masses(queries, passages, 1.0), uniforms)
    p = (queries.double() @ passages.double().T).softmax(1)[0]
    order = p.argsort(descending=True)
    head, rest = order[:40], order[40:]
    counts = torch.bincount(ids[0], minlength=600).double()
    observed = torch.cat([counts[head], counts[rest].sum().view(1)])
    expected = torch.cat([p[head], p[rest].sum().view(1)]) * 20_000
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    # 40 degrees of freedom: mean 40, standard deviation 8.9; a seed fixed in advance.
    assert chi_square < 40 + 4 * math.sqrt(80)


def test_extreme_uniforms_stay_inside():
    queries, passages, _, _ = problem(2, 700, 8, 1)
    tiny, below_one = 5e-324, 1.0 - 2.0**-53
    uniforms = torch.tensor([[tiny, below_one, 0.0]] * 2, dtype=torch.float64)
    exclude = torch.tensor([[0, 699, 699], [1, 698, -1]])
    lse = tile_masses(queries, passages, 30.0, exclude=exclude)
    ids, logp = run(queries, passages, 30.0, lse, uniforms, exclude=exclude)
    assert ((ids >= 0) & (ids < 700)).all()
    assert not (ids.unsqueeze(2) == exclude.unsqueeze(1)).any()
    assert logp.isfinite().all()


def test_a_passage_without_mass_is_never_drawn():
    passages = torch.full((1030, 1), -1e4)
    passages[517] = 0.0
    # With 1.0 itself, which no generator should give.
    uniforms = torch.linspace(0.0, 1.0, 50, dtype=torch.float64).unsqueeze(0)
    query = torch.ones(1, 1)
    ids, logp = run(query, passages, 1.0, tile_masses(query, passages, 1.0), uniforms)
    assert ids.eq(517).all()
    assert logp.abs().max() < 1e-6


def test_the_end_of_the_distribution_is_its_last_passage_with_mass():
    # 301 tiles are summed in chunks of two; the one with mass is the first of its chunk.
    passages = torch.full((300 * TILE + 5, 1), -1e4)
    passages[100 * TILE + 3] = 0.0
    query, end = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.float64)
    ids, _ = run(query, passages, 1.0, tile_masses(query, passages, 1.0), end)
    assert ids.item() == 100 * TILE + 3


def test_queries_without_mass_or_with_broken_mass():
    queries, passages, _, uniforms = problem(19, 1600, 4, 5)
    lse = tile_masses(queries, passages, 1.0)
    lse[0], lse[1, 1] = -INF, INF
    # Whichever thread of the block meets it.
    lse[torch.arange(2, 18), torch.arange(2, 18) % 4] = NAN
    ids, logp = run(queries, passages, 1.0, lse, uniforms)
    assert ids[:18].eq(-1).all()
    assert logp[0].eq(-INF).all()
    assert logp[1:18].isnan().all()
    assert (ids[18] >= 0).all()
    assert logp[18].isfinite().all()


def test_masses_of_other_arguments_give_no_id_where_the_tile_is_empty():
    queries, passages, _, uniforms = problem(1, 20, 4, 3)
    exclude = torch.arange(20).unsqueeze(0)
    ids, logp = run(queries, passages, 1.0, torch.zeros(1, 1), uniforms, exclude=exclude)
    assert ids.eq(-1).all()
    assert logp.isnan().all()


@pytest.mark.parametrize(
    ("batch", "count", "width", "draws"),
    [(0, 5, 4, 3), (2, 0, 4, 3), (2, 5, 4, 0), (2, 600, 0, 3), (0, 0, 0, 0)],
)
def test_empty_inputs(batch, count, width, draws):
    queries, passages, _, uniforms = problem(batch, count, width, draws)
    lse = tile_masses(queries, passages, 1.0)
    ids, logp = run(queries, passages, 1.0, lse, uniforms)
    assert ids.shape == logp.shape == (batch, draws)
    if count == 0:
        assert ids.eq(-1).all()
        assert logp.eq(-INF).all()
    if count and width == 0:
        # Every score is 0: the draws are uniform.
        assert torch.equal(ids, (uniforms * count).long())
        torch.testing.assert_close(logp, torch.full_like(logp, -math.log(count)))


def test_strided_passages_and_narrow_uniforms():
    queries, passages, _, uniforms = problem(2, 700, 24, 6)
    wide = torch.full((700, 31), NAN)
    wide[:, 3:27] = passages
    lse = tile_masses(queries, passages, 0.5)
    narrow = uniforms.float()
    plain = run(queries, passages, 0.5, lse, narrow)
    strided = run(queries, wide[:, 3:27], 0.5, lse, narrow.repeat_interleave(2, 1)[:, ::2])
    assert torch.equal(plain[0], strided[0])
    torch.testing.assert_close(plain[1], strided[1], atol=1e-6, rtol=0)


def test_what_one_call_cannot_take_is_refused():
    module = compiled_module()
    view = module.PassagesView(data=0, type=0, row_bytes=4, scales=0, count=2**31 - 1, width=1)
    inputs = module.ScanInputs(
        queries=0,
        batch=2**12,
        passages=view,
        exclude=0,
        per_query=0,
        inv_temperature=1.0,
        threads=1,
    )
    call = module.CudaCall(device=0, stream=0, scratch=0, scratch_bytes=0)
    addresses = {"tile_lse": 0, "uniforms": 0, "ids": 0, "logp": 0, "call": call}
    with pytest.raises(RuntimeError, match="split the batch"):
        module.draw_cuda(inputs, draws=2**20, **addresses)
    with pytest.raises(RuntimeError, match="bytes of scratch, found 0"):
        module.draw_cuda(inputs, draws=2, **addresses)


@pytest.mark.parametrize("op", ["draw", "log_partition"])
def test_rows_beyond_32_bits_are_refused_before_a_kernel_sees_them(op):
    passages = torch.ones(1, 4).expand(2**31, 4)
    with pytest.raises(ShapeError, match=r"fewer than 2\^31 rows"):
        if op == "draw":
            ops.draw(torch.ones(1, 4), passages, 1.0, torch.ones(1, 1), torch.ones(1, 1))
        else:
            ops.log_partition(torch.ones(1, 4), passages, 1.0)
