"""Forecasts agree with what is written, and a refusal names the cheapest way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag.errors import DtypeError, MemoryForecastError
from jsarag.index.flat import FlatIndex
from jsarag.index.memory import available_memory_bytes, forecast_index, require_memory


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_forecast_is_what_the_folder_takes(tmp_path: Path, kb: Any, dtype: str) -> None:
    stored = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    FlatIndex(torch.zeros(50, 16, dtype=stored)).save(tmp_path / "index", kb)
    passages = (tmp_path / "index" / "passages.jsonl").stat().st_size
    forecast = forecast_index(50, 16, dtype, passage_bytes=passages / 50)
    files = ("vectors-00000.bin", "passages.jsonl", "passages.offsets")
    assert forecast.disk_bytes == sum((tmp_path / "index" / name).stat().st_size for name in files)
    assert forecast.vectors_bytes == 50 * 16 * stored.itemsize


def test_what_fits_is_not_refused() -> None:
    forecast = forecast_index(1000, 384)
    assert forecast.build_bytes == forecast.vectors_bytes == 1000 * 384 * 4
    require_memory(forecast, forecast.build_bytes)
    with pytest.raises(MemoryForecastError, match="1,000 passages x 384"):
        require_memory(forecast, forecast.build_bytes - 1)


def test_the_cheapest_change_is_named() -> None:
    with pytest.raises(MemoryForecastError, match=r"index\.dtype=f32"):
        bf16 = forecast_index(10_000_000, 768, "bf16")
        require_memory(bf16, bf16.build_bytes - 1)
    with pytest.raises(MemoryForecastError, match="at most 500 passages"):
        f32 = forecast_index(1000, 256)
        require_memory(f32, f32.build_bytes // 2)


def test_unknown_dtype() -> None:
    with pytest.raises(DtypeError, match="'f8'"):
        forecast_index(1, 1, "f8")


def test_available_memory_is_plausible() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 1 << 20 < available_memory_bytes() <= total


@pytest.mark.parametrize(("version", "prefix"), [("v2", ""), ("v1", "total_")])
def test_a_containers_limit_counts_and_its_file_cache_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, prefix: str
) -> None:
    names = {
        "v2": ("memory.max", "memory.current", "memory.stat"),
        "v1": (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
        ),
    }[version]
    (tmp_path / "memory").mkdir()
    stat = f"anon 5\n{prefix}inactive_file 2000\n{prefix}active_file 1000\n"
    for name, text in zip(names, ("10000\n", "9000\n", stat), strict=True):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("jsarag.index.memory._CGROUP", tmp_path)
    assert available_memory_bytes() == 4000
    (tmp_path / names[0]).write_text("max\n")
    assert available_memory_bytes() > 1 << 20
