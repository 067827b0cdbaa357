"""Chains over slots: where they start, what counts as a decision, and what they hold."""

from __future__ import annotations

import torch

from jsarag.em.mis import run_chains
from jsarag.types import Candidates

ROWS = torch.tensor([[10, 20, 30], [10, 20, 30]])
NEVER = -100.0


def test_a_free_first_step_is_no_decision() -> None:
    """Nothing is ever accepted by coin: the rate is 0 of 4 fresh, and 0 of 5 with one start."""
    log_weight = torch.tensor([[0.0, NEVER, 0.0], [0.0, NEVER, 0.0]])
    proposals = torch.tensor([[0, 1, 1], [0, 1, 1]])
    coins = torch.full((2, 3), 0.5, dtype=torch.float64)
    fresh = run_chains(Candidates(ROWS, proposals), log_weight, coins)
    assert (fresh.accepted.item(), fresh.counted.item()) == (0, 4)
    assert fresh.held.tolist() == [0, 0]
    torch.testing.assert_close(fresh.visits, torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))

    proposals = torch.tensor([[0, 1, 1], [1, 1, 1]])
    start = torch.tensor([-1, 2])
    mixed = run_chains(Candidates(ROWS, proposals, start=start), log_weight, coins)
    assert (mixed.accepted.item(), mixed.counted.item()) == (0, 5)
    assert mixed.held.tolist() == [0, 2]
    torch.testing.assert_close(mixed.visits, torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))


def test_a_start_that_is_drawn_again_is_one_slot() -> None:
    """Visits of the held state and of proposals of the same passage add up; moving to it counts."""
    log_weight = torch.tensor([[0.0, 0.0, NEVER]])
    candidates = Candidates(ROWS[:1], torch.tensor([[2, 0, 0, 1]]), start=torch.tensor([0]))
    run = run_chains(candidates, log_weight, torch.full((1, 4), 0.5, dtype=torch.float64))
    torch.testing.assert_close(run.visits, torch.tensor([[0.75, 0.25, 0.0]]))
    assert run.held.tolist() == [1]
    assert (run.accepted.item(), run.counted.item()) == (3, 4)


def test_held_is_the_last_state_not_the_last_proposal() -> None:
    log_weight = torch.tensor([[0.0, 1.0, NEVER]])
    candidates = Candidates(ROWS[:1], torch.tensor([[0, 1, 2]]))
    run = run_chains(candidates, log_weight, torch.full((1, 3), 0.5, dtype=torch.float64))
    assert run.held.tolist() == [1]
    torch.testing.assert_close(run.visits, torch.tensor([[1 / 3, 2 / 3, 0.0]]))


def test_a_chain_that_began_on_an_impossible_passage_drops_it() -> None:
    log_weight = torch.tensor([[-torch.inf, 0.0, 0.0]])
    candidates = Candidates(ROWS[:1], torch.tensor([[0, 0, 1]]))
    run = run_chains(candidates, log_weight, torch.full((1, 3), 0.5, dtype=torch.float64))
    torch.testing.assert_close(run.visits, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(run.recycled, torch.tensor([[0.0, 1.0, 0.0]]))
    assert run.held.tolist() == [1]


def test_recycled_is_the_coin_in_expectation() -> None:
    """One step from a start: a to the proposal, 1 - a to the start, whatever the coin says."""
    log_weight = torch.tensor([[0.0, -0.7, 0.0]], dtype=torch.float64)
    chance = torch.tensor(-0.7, dtype=torch.float64).exp()
    expected = torch.stack([1 - chance, chance, chance * 0])[None]
    for coin in (0.01, 0.99):
        candidates = Candidates(ROWS[:1], torch.tensor([[1]]), start=torch.tensor([0]))
        run = run_chains(candidates, log_weight, torch.tensor([[coin]], dtype=torch.float64))
        torch.testing.assert_close(run.recycled, expected)
        assert run.held.item() == (1 if coin < 0.5 else 0)
