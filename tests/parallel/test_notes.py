"""What processes tell each other about a step comes to what one process would know."""

from __future__ import annotations

import signal

import pytest
import torch

from jsarag.errors import PreemptedError
from jsarag.parallel.chains import SharedChains
from jsarag.train.metrics import joined_means
from jsarag.train.signals import StopSignal


def test_chains_are_held_alike_whoever_moved_them() -> None:
    stores = [SharedChains(), SharedChains()]
    stores[0].put(["a", "b"], torch.tensor([3, 4]))
    stores[1].put(["c", "b"], torch.tensor([5, -1]))  # b was left as it was
    news = [store.take_news() for store in stores]
    for store in stores:
        store.hear(news)
        assert store.get(["a", "b", "c", "d"]).tolist() == [3, 4, 5, -1]
        assert store.take_news() == {}
    stores[0].put(["a"], torch.tensor([7]))
    assert stores[0].take_news() == {"a": 7}
    assert {n: t.tolist() for n, t in stores[1].state().items() if n == "rows"} == {
        "rows": [3, 4, 5]
    }


def test_means_are_weighted_by_rows() -> None:
    found = [({"loss": 1.0, "rate": 0.5}, 0.75), ({"loss": 5.0}, 0.25)]
    assert joined_means(found) == {"loss": 2.0, "rate": 0.5}
    third = {"loss": 0.1 + 0.2}
    assert joined_means([(third, 1.0)]) == third  # alone: the same bits


def test_another_process_s_signal_is_ours() -> None:
    stop = StopSignal()
    stop.adopt(0)
    assert not stop.requested
    stop.adopt(signal.SIGTERM)
    assert stop.number == signal.SIGTERM
    with pytest.raises(PreemptedError):
        stop.raise_stop()
