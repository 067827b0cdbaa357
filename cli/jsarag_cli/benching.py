"""The benchmark's result as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jsarag_cli.output import facts, table

if TYPE_CHECKING:
    from jsarag.train.reporting import Reporter

_WIDE = 100
_NUMBERS = frozenset({"ms", "p20-p80", "ratio", "ceiling"})


def run_cases(cases: Sequence[str], reporter: Reporter, **settings: Any) -> dict[str, Any]:
    """Run benchmark cases.

    Args:
        cases: their names; empty for the default ones.
        reporter: told what happens.
        settings: further keywords of ``jsarag_bench.run.run``.

    Returns:
        ``{"machine", "ceilings", "rows"}``, JSON types.

    Raises:
        BackendUnavailableError: the benchmarks are not installed with the package.
    """
    from jsarag.errors import BackendUnavailableError

    if find_spec("jsarag_bench") is None:
        raise BackendUnavailableError(
            "bench: the package jsarag_bench is not installed; run from a checkout "
            "(`pip install -e .`), the wheel for users leaves the benchmarks out"
        )
    run = import_module("jsarag_bench.run").run
    reporter.stage("benchmark", None)
    result = run(list(cases) or None, progress=reporter.event, **settings)
    record: dict[str, Any] = result.to_json()
    return record


def show_result(result: Mapping[str, Any], console: Console) -> None:
    """Machine, then a line per kernel and case."""
    machine = {
        key: ", ".join(value) if isinstance(value, list) else value
        for key, value in result["machine"].items()
        if value and not isinstance(value, Mapping)
    }
    console.print(facts(machine))
    console.print()
    wide = console.width >= _WIDE
    head = ["case", "backend", "ms", "p20-p80", "best rival", "ratio", "ceiling"]
    if not wide:
        head.remove("p20-p80")
    made = table(*head, numbers=[place for place, name in enumerate(head) if name in _NUMBERS])
    made.columns[0].no_wrap = True
    for row in result["rows"]:
        cells = {
            "case": row["case"],
            "backend": row["backend"],
            "ms": _ms(row["median_ms"]),
            "p20-p80": f"{_ms(row['p20_ms'])}-{_ms(row['p80_ms'])}",
            "best rival": _best_peer(row.get("peers") or {}),
            "ratio": _ratio(row.get("ratio_best_peer")),
            "ceiling": _share(row.get("share_of_ceiling")),
        }
        made.add_row(*(cells[name] for name in head))
    console.print(made)
    console.print(
        "\nms: median; ratio: best rival's / ours, above 1 we are faster; ceiling: share of what "
        "this machine can do",
        style="dim",
    )


def _best_peer(peers: Mapping[str, float]) -> str:
    timed = {name: ms for name, ms in peers.items() if ms is not None}
    if not timed:
        return "-"
    name = min(timed, key=timed.__getitem__)
    return f"{name} {_ms(timed[name])}"


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"[{'green' if value >= 1 else 'red'}]{value:.2f}[/]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
