"""scan of many queries on Hopper: waves of passages, emulated (see ``docs/gpu.md``)."""

from __future__ import annotations

import math

import pytest
import torch

from jsarag import ops
from jsarag.ops.reference.scan import scan as reference

NAN, INF = math.nan, math.inf
CAPACITY = 4096  # of a query's candidates for small k, and passages of the first wave


@pytest.fixture(autouse=True)
def hopper(chosen_backend):
    chosen_backend("emulated-hopper")


def problem(batch, count, width, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, width, generator=generator)
    passages = torch.randn(count, width, generator=generator).to(dtype)
    return queries.to(dtype).float(), passages


def require_same(found, queries, passages, k, inv_temperature=1.0, exclude=None):
    """Against float64; queries are representable, so only the sums' rounding is left."""
    exact = reference(queries.double(), passages.double(), k, inv_temperature, None, exclude, True)
    room = 4e-6 * queries.norm(dim=1).max() * passages.float().norm(dim=1).max()
    assert torch.equal(found.ids == -1, exact.ids == -1)
    live = exact.ids >= 0
    assert ((found.scores - exact.scores)[live].abs() <= room).all()
    assert (found.scores[~live] == -INF).all()
    own = (queries.double() @ passages.double().T).gather(1, found.ids.clamp_min(0))
    assert ((own - found.scores)[live].abs() <= room).all()
    assert all(len(set(row[row >= 0].tolist())) == int((row >= 0).sum()) for row in found.ids)
    if exclude is not None:
        hit = (found.ids.unsqueeze(2) == exclude.unsqueeze(1)) & (exclude.unsqueeze(1) >= 0)
        assert not hit.any()
    if found.tile_lse is not None:
        error = (found.tile_lse - exact.tile_lse)[exact.tile_lse.isfinite()].abs()
        assert torch.equal(found.tile_lse == -INF, exact.tile_lse == -INF)
        assert (error <= room * inv_temperature + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("batch", "count", "width", "k"),
    [(129, 1000, 24, 10), (200, 257, 40, 300), (130, 5000, 8, 1), (257, 600, 13, 5)],
)
def test_hits_and_masses(batch, count, width, k, dtype):
    queries, passages = problem(batch, count, width, dtype)
    if width % 8:
        # Rows that TMA takes start on 16 bytes.
        passages = torch.nn.functional.pad(passages, (0, -width % 8))[:, :width]
    exclude = torch.randint(-1, count, (batch, 3), generator=torch.Generator().manual_seed(1))
    found = ops.scan(queries, passages, k, 0.3, exclude=exclude, tile_lse=True)
    require_same(found, queries, passages, k, 0.3, exclude)
    alone = ops.scan(queries, passages, k, 0.3, exclude=exclude)
    assert torch.equal(alone.ids, found.ids)
    assert torch.equal(alone.scores, found.scores)


def test_an_order_that_overflows_a_wave():
    # All of the second wave is above the first, and more than there is room for. Each query's best
    # lie elsewhere in it, so whichever candidates are lost, some query would miss them.
    queries, passages = problem(129, 2 * CAPACITY + 600, 8)
    passages[:CAPACITY, 0] = 0.0
    passages[CAPACITY:, 0] = 64.0
    queries[:, 0] = 1.0
    queries[7] = 0.0
    queries[7, 0] = -1.0  # falls: never overflows
    found = ops.scan(queries, passages, 20, 1.0)
    require_same(found, queries, passages, 20)
    answered = torch.arange(129) != 7
    assert (found.ids[answered] >= CAPACITY).all()
    assert found.ids[7].tolist() == list(range(20))


def test_ties_keep_the_smallest_ids_across_waves():
    queries, passages = problem(140, 3 * CAPACITY, 8)
    passages[:] = passages[0]
    found = ops.scan(queries, passages, 20, 1.0)
    assert (found.ids == torch.arange(20)).all()


def test_nan_and_infinity():
    queries, passages = problem(130, 1200, 16)
    queries = queries.abs() + 0.1
    passages[3] = NAN
    passages[600, 0] = INF
    passages[1100, 0] = -INF
    found = ops.scan(queries, passages, 1200, 1.0, tile_lse=True)
    assert not found.scores.isnan().any()
    assert (found.ids[:, 0] == 600).all()
    assert ((found.ids == 3) | (found.ids == 1100)).sum() == 0
    assert (found.ids >= 0).sum(1).eq(1198).all()
    assert found.tile_lse[:, 0].isnan().all()
    assert (found.tile_lse[:, 1] == INF).all()
    assert found.tile_lse[:, 2].isfinite().all()
    exclude = torch.tensor([[3, 600, 1100]]).expand(130, 3)
    found = ops.scan(queries, passages, 5, 1.0, exclude=exclude, tile_lse=True)
    assert found.tile_lse.isfinite().all()


def test_masses_alone_and_nothing_at_all():
    queries, passages = problem(150, 1100, 16)
    total = ops.log_partition(queries, passages, 0.5)
    exact = (0.5 * queries.double() @ passages.double().T).logsumexp(1)
    torch.testing.assert_close(total.double(), exact, rtol=1e-5, atol=1e-5)
    empty = ops.scan(queries, passages[:0], 3, 1.0, tile_lse=True)
    assert (empty.ids == -1).all()
    assert empty.tile_lse.shape == (150, 0)


def test_draws_follow_the_masses():
    queries, passages = problem(131, 1500, 16)
    found = ops.scan(queries, passages, 4, 0.2, tile_lse=True)
    uniforms = torch.rand(131, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn = ops.draw(queries, passages, 0.2, found.tile_lse, uniforms)
    logp = (0.2 * queries.double() @ passages.double().T).log_softmax(1).gather(1, drawn.ids)
    torch.testing.assert_close(drawn.logp.double(), logp, rtol=1e-4, atol=1e-4)


def test_results_are_the_same_whatever_the_order_of_blocks():
    queries, passages = problem(129, 2 * CAPACITY, 8)
    first = ops.scan(queries, passages, 7, 1.0, tile_lse=True)
    for _ in range(2):
        # The emulation shuffles blocks and threads anew at every launch.
        again = ops.scan(queries, passages, 7, 1.0, tile_lse=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_hoppers_grid_is_filled_up_by_little(emulated_module):
    for tiles, size in ((1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (24, 4), (64, 8), (1000, 8)):
        assert emulated_module.swizzle_for(tiles) == size
    for tiles in range(8, 300):
        step = 2 * emulated_module.swizzle_for(tiles)
        assert -(-tiles // step) * step <= tiles * 9 / 8
