"""Guards: numbers that are none are named, and a collapsed retriever is seen in a full window."""

from __future__ import annotations

import pytest
import torch

from jsarag.errors import GuardError, NumericalError
from jsarag.train.guards import CollapseGuard, require_finite


def collapsed(window: int = 4, least: float = 0.2, passages: int = 100) -> CollapseGuard:
    guard = CollapseGuard(window, least, passages)
    for _ in range(window):
        guard.add([7, 7, 7, 8, 7])
    return guard


def test_what_is_not_finite_is_named() -> None:
    fine = torch.tensor(1.0)
    require_finite(fine, {"prior": fine}, 3)
    with pytest.raises(NumericalError, match="step 3: loss, gradient of generator is not finite"):
        require_finite(
            torch.tensor(torch.nan), {"prior": fine, "generator": torch.tensor(torch.inf)}, 3
        )


def test_a_full_window_of_few_passages_is_a_collapse() -> None:
    guard = collapsed()
    assert (guard.distinct_passages, guard.distinct_ratio) == (2, 0.1)
    with pytest.raises(GuardError, match=r"step 9: .* last 4 steps' 20 contexts got only 2 diff"):
        guard.check(9)


def test_a_window_that_is_not_full_says_nothing_yet() -> None:
    guard = CollapseGuard(4, 0.2, 100)
    for _ in range(3):
        guard.add([7, 7])
    guard.check(3)
    guard.add([7, 7])
    with pytest.raises(GuardError):
        guard.check(4)


def test_old_steps_leave_the_window() -> None:
    guard = collapsed(window=2)
    guard.add(range(10))
    guard.check(3)  # 5 of the collapse, 10 different ones
    guard.add(range(10))
    assert guard.distinct_ratio == 0.5


def test_a_small_knowledge_base_cannot_give_more_than_it_has() -> None:
    guard = CollapseGuard(4, 0.5, 3)
    for _ in range(4):
        guard.add([0, 1, 2, 0, 1])
    assert guard.distinct_ratio == 1.0
    guard.check(1)


def test_its_state_goes_through_a_checkpoint() -> None:
    guard, fresh = collapsed(), CollapseGuard(4, 0.2, 100)
    fresh.add([1, 2, 3])
    fresh.load(guard.state())
    assert fresh.state() == guard.state()
    with pytest.raises(GuardError):
        fresh.check(9)
