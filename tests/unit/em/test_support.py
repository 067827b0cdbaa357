"""Sets of rows and slots in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jsarag.em.problem import EMSettings
from jsarag.em.proposals import draw_slots, propose, scored_slots
from jsarag.em.support import allowed, distinct, prior_rows, slots_of, union_rows
from jsarag.errors import ConfigError, ShapeError
from jsarag.index.flat import FlatIndex, IndexScan
from jsarag.types import QueryEmbeddings


def test_distinct_sorts_pads_and_trims() -> None:
    rows = torch.tensor([[5, 2, 5, -1, 2], [7, -1, -1, 7, 7], [-1, -1, -1, -1, -1]])
    assert distinct(rows).tolist() == [[2, 5], [7, -1], [-1, -1]]
    # Never empty: an example without candidates is named later, by the E-step.
    assert distinct(torch.full((1, 3), -1)).tolist() == [[-1]]


def test_slots_of_finds_rows_and_says_where_not() -> None:
    rows = torch.tensor([[2, 5, 9], [7, -1, -1]])
    wanted = torch.tensor([[9, 2, 4, -1], [7, 9, -1, 7]])
    assert slots_of(rows, wanted).tolist() == [[2, 0, -1, -1], [0, -1, -1, 0]]


def test_allowed_drops_what_an_example_excludes() -> None:
    exclude = torch.tensor([[3, -1], [4, 5]])
    assert allowed(torch.tensor([3, 3]), exclude).tolist() == [-1, 3]
    assert allowed(torch.tensor([-1, 5]), exclude).tolist() == [-1, -1]
    assert allowed(torch.tensor([3, 3]), None).tolist() == [3, 3]


def test_a_small_knowledge_base_gives_all_it_has(
    make_bench: Callable[..., Any], settings: Callable[..., EMSettings]
) -> None:
    problem = make_bench().problem
    assert union_rows(problem, settings(k=100)).tolist() == [list(range(30))] * 4
    assert prior_rows(problem, settings(k=100)).tolist() == [list(range(30))] * 4


def test_a_shared_index_is_passed_over_once(
    make_bench: Callable[..., Any],
    settings: Callable[..., EMSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    scan = FlatIndex.scan

    def counting(self: FlatIndex, *args: Any, **kwargs: Any) -> IndexScan:
        calls.append(len(args[0]))
        return scan(self, *args, **kwargs)

    bench = make_bench()
    monkeypatch.setattr(FlatIndex, "scan", counting)
    shared = union_rows(bench.problem, settings())
    assert calls == [8]
    twin = FlatIndex(bench.problem.prior_index.embeddings)
    separate = union_rows(bench.replace(posterior_index=twin).problem, settings())
    assert calls == [8, 4, 4]
    assert shared.tolist() == separate.tolist()


def test_draw_slots_is_an_inverse_cdf() -> None:
    logp = torch.tensor([[0.5, 0.0, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64).log()
    uniforms = torch.tensor([[1e-9, 0.4999, 0.5001, 0.7499, 0.7501, 1 - 2**-53]] * 2).double()
    assert draw_slots(logp, uniforms).tolist() == [[0, 0, 2, 2, 3, 3], [0] * 6]


def test_draw_slots_never_falls_on_padding() -> None:
    logp = torch.tensor([[0.3, 0.7, 0.0]]).log().log_softmax(1)
    assert int(draw_slots(logp, torch.tensor([[1 - 2**-53, 0.999999999]])).max()) == 1


@pytest.mark.parametrize("support", ["kb", "union", "prior"])
def test_proposals_are_slots_of_what_was_drawn(
    make_bench: Callable[..., Any], settings: Callable[..., EMSettings], support: str
) -> None:
    candidates = propose(make_bench().problem, settings(support=support, mis_steps=12))
    assert candidates.proposals.shape == (4, 12)
    drawn = candidates.rows.gather(1, candidates.proposals)
    assert (drawn >= 0).all()
    density = candidates.slot_logp.gather(1, candidates.proposals)
    assert torch.equal(density, candidates.proposal_logp)
    for b in range(4):
        scored = candidates.rows[b][scored_slots(candidates)[b]].tolist()
        assert scored == sorted(set(drawn[b].tolist()))
        if support == "kb":
            assert [row for row in candidates.rows[b].tolist() if row >= 0] == scored


@pytest.mark.parametrize(("support", "joins"), [("kb", True), ("union", True), ("prior", False)])
def test_a_stored_state_joins_the_candidates(
    make_bench: Callable[..., Any],
    settings: Callable[..., EMSettings],
    support: str,
    joins: bool,
) -> None:
    problem = make_bench().problem
    chosen = settings(support=support, mis_steps=2, k=2)
    bare = propose(problem, chosen)
    outside = torch.tensor(
        [next(row for row in range(30) if row not in bare.rows[b].tolist()) for b in range(4)]
    )
    outside[1] = -1
    candidates = propose(problem, chosen, outside)
    for b in (0, 2, 3):
        assert (outside[b].item() in candidates.rows[b].tolist()) is joins
        assert int(candidates.start[b]) >= 0 or not joins
        if joins:
            start = candidates.start[b]
            assert candidates.rows[b, start] == outside[b]
            assert scored_slots(candidates)[b, start]
            assert candidates.slot_logp[b, start].isfinite()
    assert candidates.start[1] == -1


def test_a_stored_states_density_is_the_one_drawn_from(
    make_bench: Callable[..., Any], settings: Callable[..., EMSettings]
) -> None:
    """Under kb it comes from the index, and agrees with what `draw` reports for the same row."""
    problem = make_bench().problem
    candidates = propose(problem, settings(mis_steps=1), torch.tensor([3, 4, 5, 6]))
    posterior = problem.queries.posterior.detach()
    logp = (posterior @ problem.prior_index.embeddings.T).log_softmax(1)
    for b, row in enumerate((3, 4, 5, 6)):
        torch.testing.assert_close(candidates.slot_logp[b, candidates.start[b]], logp[b, row])
        slot = candidates.proposals[b, 0]
        torch.testing.assert_close(candidates.slot_logp[b, slot], logp[b, candidates.rows[b, slot]])


def test_settings_and_problems_are_checked(
    make_bench: Callable[..., Any], settings: Callable[..., EMSettings]
) -> None:
    with pytest.raises(
        ConfigError, match=r"objective\.support: expected one of prior, union, batch, kb"
    ):
        settings(support="all")
    with pytest.raises(ConfigError, match=r"objective\.mis_steps"):
        settings(mis_steps=0)
    with pytest.raises(ConfigError, match=r"objective\.temperature"):
        settings(temperature=0.0)
    bench = make_bench()
    with pytest.raises(ShapeError, match="visits: expected 4 rows"):
        bench.replace(visits=[0])
    lonely = bench.replace(
        posterior_index=None, queries=QueryEmbeddings(bench.problem.queries.prior, None)
    )
    with pytest.raises(ConfigError, match="posterior"):
        union_rows(lonely.problem, settings())
