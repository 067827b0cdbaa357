"""Which pairs the generator's gradient walks back through: bounds, and no bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jsarag.em.mstep import cross_entropy, draw_pairs, drop_light

EXAMPLE = torch.tensor([0, 0, 0, 0, 1, 2, 2, 4, 4, 4])
COEFFICIENTS = -torch.tensor(
    [0.5, 0.3, 0.15, 0.05, 1.0, 0.999, 0.001, 0.0, 0.2, 0.8], dtype=torch.float64
)


def coins(count: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.rand(count, 5, generator=stream, dtype=torch.float64)


def test_cross_entropy_ignores_impossible_passages_of_no_weight() -> None:
    values = torch.tensor([[0.25, 0.75, 0.0]])
    logp = torch.tensor([[-1.0, -2.0, -torch.inf]], requires_grad=True)
    loss = cross_entropy(values, logp)
    assert loss.item() == pytest.approx(1.75)
    loss.backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, -values)


def test_light_pairs_are_dropped_by_their_share_and_the_heaviest_never() -> None:
    # Scale must not matter: the trainer divides by the batch and by accumulation.
    for scale in (1.0, 1e-3):
        kept = drop_light(COEFFICIENTS * scale, EXAMPLE, 0.2) / scale
        expected = COEFFICIENTS.clone()
        expected[[2, 3, 6]] = 0
        torch.testing.assert_close(kept, expected)
    assert torch.equal(drop_light(COEFFICIENTS, EXAMPLE, 0.0), COEFFICIENTS)
    alone = drop_light(torch.tensor([0.4, 0.35, 0.25]), torch.zeros(3, dtype=torch.int64), 0.9)
    assert alone.nonzero().flatten().tolist() == [0]


@pytest.mark.parametrize("draws", [1, 2, 3, 7])
def test_drawn_pairs_are_few_and_unbiased(draws: int) -> None:
    """Systematic: within 1 of the expected count each time, exact over the coin's whole range."""
    count = 400
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    total = torch.zeros_like(COEFFICIENTS)
    for coin in grid:
        drawn = draw_pairs(COEFFICIENTS, EXAMPLE, coin.expand(5), draws)
        times = (
            -drawn
            * draws
            / torch.zeros(5, dtype=torch.float64)
            .scatter_add(0, EXAMPLE, -COEFFICIENTS)
            .clamp_min(1e-9)
            .gather(0, EXAMPLE)
        )
        torch.testing.assert_close(times, times.round(), atol=1e-9, rtol=0)
        per_example = torch.zeros(5, dtype=torch.float64).scatter_add(0, EXAMPLE, times)
        assert per_example.tolist() == [draws, draws, draws, 0, draws]
        total += drawn
    # The midpoint grid integrates the coin's step functions to within one cell.
    torch.testing.assert_close(total / count, COEFFICIENTS, atol=1.01 / count, rtol=0)


def test_draws_keep_signs_and_do_not_depend_on_other_examples() -> None:
    mixed = COEFFICIENTS * torch.tensor([1, -1, 1, -1, 1, -1, 1, 1, -1, 1])
    coin = coins(1)[0]
    drawn = draw_pairs(mixed, EXAMPLE, coin, 3)
    hit = drawn != 0
    assert torch.equal(drawn[hit].sign(), mixed[hit].sign())
    alone = draw_pairs(mixed[:4], EXAMPLE[:4], coin[:1], 3)
    torch.testing.assert_close(drawn[:4], alone)
    assert drawn.dtype == torch.float64
    assert draw_pairs(mixed.float(), EXAMPLE, coin, 3).dtype == torch.float32


def test_nothing_to_draw_from_is_nothing_drawn() -> None:
    empty = torch.zeros(0)
    assert draw_pairs(empty, torch.zeros(0, dtype=torch.int64), coins(1)[0], 2).shape == (0,)
    none = draw_pairs(torch.zeros(3), torch.tensor([0, 0, 1]), coins(1)[0], 2)
    assert none.tolist() == [0, 0, 0]
