"""Token budgets: the largest that fits, what the user asks for, and a refusal with a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jsarag.errors import MemoryForecastError
from jsarag.train import probe
from jsarag.train.precision import Precision
from jsarag.train.probe import Budget, Probe, find_budgets

FIXED, TOKEN = 1_000, 100


class Network(nn.Module):
    """One number per row of ten tokens; what it takes is told by the test."""

    budget_tokens = 0
    device = torch.device("cpu")
    is_trainable = True
    supports_bf16 = False
    bf16 = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def tokenise(self, texts: Any, role: str) -> list[list[int]]:
        return [[0] * 10 for _ in texts]


class Rows:
    repeats = True

    def __init__(self) -> None:
        self.network: Any = Network()

    def __len__(self) -> int:
        return 500

    def tokens(self, rows: Any) -> int:
        return 10 * len(rows)

    def chunks(self, rows: Any) -> list[list[int]]:
        size = self.network.budget_tokens // 10
        return [list(rows[first : first + size]) for first in range(0, len(rows), size)]

    def __call__(self, rows: Any) -> Tensor:
        return self.network.weight * torch.ones(len(rows))


@pytest.fixture
def linear_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A chunk of n tokens takes FIXED + n TOKEN bytes; the sizes tried."""
    sizes: list[int] = []

    def take(work: Any, device: torch.device) -> int:
        work()
        tokens = 510 if len(sizes) < 2 else 1020
        sizes.append(tokens)
        return FIXED + TOKEN * tokens

    monkeypatch.setattr(probe, "peak_bytes", take)
    return sizes


def test_the_largest_power_of_two_that_fits_is_taken(linear_memory: list[int]) -> None:
    rows = Rows()
    found = probe._budget(rows, room=FIXED + TOKEN * 1500, most=2048, wanted=None)
    assert found.tokens == 1024
    assert (found.fixed_bytes, found.token_bytes) == (FIXED, TOKEN)
    assert found.chunk_bytes == FIXED + TOKEN * 1020, "rows of ten tokens do not fill it"
    assert found.bytes_of(100) == FIXED + TOKEN * 100
    assert rows.network.weight.grad is None
    assert linear_memory == [510, 510, 1020]


def test_the_users_budget_is_kept_and_its_memory_known(linear_memory: list[int]) -> None:
    found = probe._budget(Rows(), room=1, most=2048, wanted=300)
    assert found.tokens == 300
    assert found.chunk_bytes == FIXED + TOKEN * 300


def test_nothing_that_fits_is_no_budget(linear_memory: list[int]) -> None:
    assert probe._budget(Rows(), room=FIXED + TOKEN * 255, most=2048, wanted=None).tokens == 0


def test_a_generator_that_does_not_fit_is_refused_with_the_cheapest_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Generator(Network):
        def checkpoint_activations(self) -> bool:
            return False

    class Retrievers:
        prior = Network()

    monkeypatch.setattr(probe, "_longest_inputs", lambda dataset, turns: [])
    monkeypatch.setattr(probe, "_budget", lambda *args, **options: Budget(0, 1 << 30, 1.0))
    with pytest.raises(MemoryForecastError, match="--freeze generator") as refused:
        find_budgets(
            Retrievers(),  # type: ignore[arg-type]
            Generator(),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            turns=3,
            available_bytes=1 << 30,
        )
    assert refused.value.exit_code == 5


def test_what_was_found_is_kept_exactly(tmp_path: Path) -> None:
    chosen = Precision(True, 1.7, 0.1, 3.0)
    found = Probe(Budget(512, 7, 1.5, checkpointing=True), Budget(2048), chosen)
    found.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json") == found


def test_a_record_serves_until_the_user_asks_for_something_else() -> None:
    found = Probe(Budget(512), Budget(2048), Precision(True))
    assert found.serves(None, None)
    assert found.serves(512, True)
    assert not found.serves(256, None)
    assert not found.serves(None, False)


def test_activations_count_both_queries_and_trained_passages() -> None:
    found = Probe(Budget(1000, 10, 2.0), Budget(4000, 5, 1.0))
    queries = (5 + 300) + (5 + 200)
    assert found.activation_bytes([300, 200], passages_trained=False) == 2010 + queries
    assert found.activation_bytes([300, 200], passages_trained=True) == 2010 + queries + 4005
