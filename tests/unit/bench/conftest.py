"""Ceilings that need no measuring, and made-up rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jsarag_bench import run as run_module
from jsarag_bench.cases import Case, read_cases
from jsarag_bench.ceilings import Ceilings, Probe, Probes
from jsarag_bench.result import BenchResult, BenchRow, PeerTiming
from jsarag_bench.timing import Timing

CEILINGS = Ceilings(1e10, 2e10, {"float32": 1e11, "bfloat16": 4e11})
MACHINE = {
    "name": "some-machine",
    "cpu": "Some processor",
    "cuda_device": None,
    "threads": 2,
    "packages": {"torch": "9.9"},
    "commit": "0123456789abcdef-dirty",
}

RecordMaker = Callable[..., dict[str, Any]]


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.ones(32, 32)
    probe = Probe(lambda: matrix @ matrix, 65_536.0)
    probes = Probes(probe, {"float32": probe, "bfloat16": probe})
    monkeypatch.setattr(run_module, "measure_ceilings", lambda device: (CEILINGS, probes))


@pytest.fixture
def make_record() -> RecordMaker:
    """A row as the file has it: ``make_record(case, ms, peers={name: (ms, dtype)}, ...)``."""

    def make(
        case: Case | str,
        ms: float,
        *,
        peers: dict[str, tuple[float, str]] | None = None,
        skipped: dict[str, str] | None = None,
        machine: str = "some-machine",
        **more: Any,
    ) -> dict[str, Any]:
        row = BenchRow(
            case=read_cases()[case] if isinstance(case, str) else case,
            backend="cpu",
            timing=Timing(ms, 0.9 * ms, 1.1 * ms, 30),
            extra_bytes=12_345_678,
            check="scores",
            max_error=1e-7,
            error_budget=4e-7,
            peers={
                name: PeerTiming(Timing(time, time, time, 30), dtype)
                for name, (time, dtype) in (peers or {}).items()
            },
            skipped=skipped or {},
            floor_ms=0.5 * ms,
        )
        result = BenchResult({**MACHINE, "name": machine}, CEILINGS.to_json(), [row])
        stamp = {"date": "2026-01-02T03:04:05+00:00", "command": "python -m jsarag_bench.run"}
        return {**stamp, **result.to_records()[0], **more}

    return make
