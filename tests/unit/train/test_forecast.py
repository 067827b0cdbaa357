"""A run's memory is counted from its parts, and a refusal names the cheapest way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from jsarag.errors import MemoryForecastError
from jsarag.train.forecast import RunForecast, forecast_run, require_fit

CPU = torch.device("cpu")


def layer(numbers: int, *, frozen: bool = False) -> nn.Module:
    return nn.Linear(numbers, 1, bias=False).requires_grad_(not frozen)


def forecast(**changes: Any) -> RunForecast:
    modules = {
        "prior": layer(1000),
        "passages": layer(2000, frozen=changes.pop("frozen", True)),
        "generator": layer(10_000),
    }
    values: dict[str, Any] = {"passages": 100, "width": 8, "dtype": "f32", "indexes": 1}
    return forecast_run(modules, **{**values, "rebuilt": False, **changes})


def test_four_bytes_a_frozen_weight_and_sixteen_a_trained_one() -> None:
    found = forecast()
    assert found.weights_bytes == 4 * 13_000
    assert found.training_bytes == {"prior": 12_000, "generator": 120_000}
    assert found.device_bytes == 100 * 8 * 4 + 132_000
    assert found.host_bytes == found.device_bytes


def test_two_indexes_that_are_rebuilt_are_held_four_times() -> None:
    assert forecast(indexes=2, rebuilt=True).vectors_bytes == 4 * 100 * 8 * 4
    narrow = forecast(dtype="bf16")
    # Embedded in f32, then stored in half of that.
    assert narrow.host_bytes - narrow.device_bytes == 100 * 8 * 4


@pytest.mark.parametrize(
    ("room", "changes", "advice"),
    [
        (20_000, {}, r"--freeze generator.*generator\.lora"),
        (123_200, {}, "--freeze prior"),
        (1_000, {}, "3,2|100 passages"),
        (4_000, {}, "smaller models"),
        (140_000, {"frozen": False, "rebuilt": True}, "--freeze passages"),
    ],
)
def test_the_cheapest_change_that_fits_is_named(
    monkeypatch: pytest.MonkeyPatch, room: int, changes: dict[str, Any], advice: str
) -> None:
    found = forecast(**changes)
    for module in ("jsarag.train.forecast", "jsarag.index.memory"):
        monkeypatch.setattr(f"{module}.available_memory_bytes", lambda: room)
    with pytest.raises(MemoryForecastError, match=advice) as refused:
        require_fit(found, CPU)
    assert refused.value.exit_code == 5
    monkeypatch.setattr("jsarag.train.forecast.available_memory_bytes", lambda: found.host_bytes)
    require_fit(found, CPU)


def test_a_gpus_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = forecast()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100_000, 200_000))
    with pytest.raises(MemoryForecastError, match="of cuda:0's memory"):
        require_fit(found, torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (200_000, 200_000))
    require_fit(found, torch.device("cuda:0"))


def test_the_log_line_says_what_trains() -> None:
    assert "gradients and optimizer (prior, generator)" in forecast().describe()
    assert "100 passages x 8 f32 x 2, rebuilt" in forecast(indexes=2, rebuilt=True).describe()
