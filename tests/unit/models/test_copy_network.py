"""The pointer's parts on hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch

from jsarag.models.copy_network import FLOOR, CopyNetwork, Sources, attention_logp


@pytest.fixture
def network() -> CopyNetwork:
    words = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    return CopyNetwork(words, words[:4], torch.full((4,), 0.25).log(), layers=1, seed=1)


def test_sources_know_what_stands_before_within_a_text(network: CopyNetwork) -> None:
    texts = [torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([], dtype=torch.int64)]
    made = network.sources(texts, [[0], [1, 0], [2], []])
    assert made.ids.tolist() == [[5, 6, 7, -1], [8, 5, 6, 7], [-1] * 4, [-1] * 4]
    assert made.before.tolist()[:2] == [[-1, 5, 6, -1], [-1, -1, 5, 6]]
    assert made.before2.tolist()[:2] == [[-1, -1, 5, -1], [-1, -1, -1, 5]]
    assert torch.equal(made.keys[0, :3], made.keys[1, 1:])
    chosen = made.select(torch.tensor([0, 0]))
    assert chosen.ids.tolist() == [[5, 6, 7]] * 2
    assert chosen.keys.shape[:2] == (2, 3)
    assert made.select(torch.tensor([2, 3])).ids.shape == (2, 0)


def test_keys_depend_on_neighbours_of_the_same_text_only(network: CopyNetwork) -> None:
    apart = network.sources([torch.tensor([5, 6]), torch.tensor([7, 5])], [[0], [1]])
    swapped = network.sources([torch.tensor([7, 5]), torch.tensor([5, 6])], [[1], [0]])
    assert torch.allclose(apart.keys, swapped.keys, atol=1e-6)
    longer = network.sources([torch.tensor([5, 6, 9])], [[0]])
    assert torch.allclose(longer.keys[0, 0], apart.keys[0, 0], atol=1e-6)
    assert not torch.allclose(longer.keys[0, 1], apart.keys[0, 1], atol=1e-3)


def test_runs_prefer_what_follows_a_copied_span() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 2, 5, -1]])
    source = Sources(
        ids,
        torch.zeros(1, 7, 4),
        torch.tensor([[-1, 1, 2, 3, 4, 2, -1]]),
        torch.tensor([[-1, -1, 1, 2, 3, 4, -1]]),
    )
    written = torch.tensor([[[-2, -2], [2, 1], [2, 9], [9, 1]]])
    logp = attention_logp(
        source, torch.zeros(1, 4, 4), torch.tensor([1.0, 0.5]).expand(1, 4, 2), written
    )
    assert logp.exp().sum(dim=-1).tolist()[0] == pytest.approx([1.0] * 4)
    start, after_both, after_one, broken = logp[0]
    assert start[:6].tolist() == pytest.approx([-math.log(6)] * 6)
    # "1 2" was written: 3 follows both, 5 follows the 2 alone.
    assert float(after_both[2] - after_both[0]) == pytest.approx(1.5)
    assert float(after_both[5] - after_both[0]) == pytest.approx(1.0)
    assert float(after_one[2] - after_one[0]) == pytest.approx(1.0)
    assert torch.equal(broken, start)
    assert bool((logp[..., 6] < FLOOR / 2).all())


def test_it_starts_with_background_frequencies(network: CopyNetwork) -> None:
    states = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    start = network.class_distribution(states)
    assert torch.allclose(start.exp(), torch.full((3, 4), 0.25), atol=1e-6)
    with torch.no_grad():
        network.vocabulary.weight.normal_(generator=torch.Generator().manual_seed(2))
    moved = network.class_distribution(states)
    classes = torch.tensor([0, 3, 1])
    assert not torch.allclose(moved, start, atol=1e-2)
    assert torch.allclose(
        network.class_logp(states, classes), moved[torch.arange(3), classes], atol=1e-5
    )
