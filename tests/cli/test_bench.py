"""``bench``: arguments reach the benchmark, its result is printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Cli = Callable[..., Any]

RESULT = {
    "machine": {"cpu": "some processor", "device": None},
    "ceilings": {"memory_bytes_per_s": 1e10},
    "rows": [
        {
            "op": "scan", "case": "wow", "backend": "cpu", "dtype": "f32", "median_ms": 12.345,
            "p20_ms": 12.0, "p80_ms": 13.0, "extra_bytes": 10, "max_error": 1e-7,
            "error_budget": 1e-6, "peers": {"torch": 30.0, "faiss": 24.69, "gone": None},
            "ratio_best_peer": 2.0, "share_of_ceiling": 0.5,
        },
        {
            "op": "mis_chain", "case": "wow", "backend": "reference", "dtype": "f32",
            "median_ms": 0.05, "p20_ms": 0.04, "p80_ms": 0.06, "extra_bytes": 0, "max_error": 0.0,
            "error_budget": 0.0, "peers": {}, "ratio_best_peer": None, "share_of_ceiling": None,
        },
    ],
}  # fmt: skip


class FakeBench:
    """Stands for ``jsarag_bench.run.run``."""

    def __init__(self) -> None:
        self.given: Any = None

    def __call__(self, cases: Any, *, progress: Any, **settings: Any) -> Any:
        self.given = (cases, settings)
        progress("scan wow")
        return self

    def to_json(self) -> dict[str, Any]:
        return RESULT


@pytest.fixture
def benchmark(replace: Callable[..., None]) -> FakeBench:
    fake = FakeBench()
    replace("jsarag_bench.run", run=fake)
    return fake


def test_json_is_the_benchmarks_own(cli: Cli, benchmark: FakeBench) -> None:
    ended = cli("bench", "wow", "doqa", "--repetitions", "5", "--no-peers", "--json")
    assert ended.json == RESULT
    cases, settings = benchmark.given
    assert cases == ["wow", "doqa"]
    assert settings == {
        "device": "auto",
        "full": False,
        "repetitions": 5,
        "threads": None,
        "peers": False,
    }


def test_all_cases_are_none(cli: Cli, benchmark: FakeBench) -> None:
    assert cli("bench").code == 0
    assert benchmark.given[0] is None


@pytest.mark.parametrize("columns", [80, 120])
def test_people_see_the_best_rival_and_the_ratio(
    cli: Cli, benchmark: FakeBench, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ended = cli("bench")
    for part in ("some processor", "12.35", "faiss 24.69", "2.00", "50%", "0.050"):
        assert part in ended.out
    assert ("12.00-13.00" in ended.out) == (columns == 120)
    assert "…" not in ended.out
    assert "scan wow" in ended.err
