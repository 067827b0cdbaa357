"""The benchmarks' results as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jsarag_cli.output import facts, size, table

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
    run = _bench_module("run").run
    reporter.stage("benchmark", None)
    result = run(list(cases) or None, progress=reporter.event, **settings)
    record: dict[str, Any] = result.to_json()
    return record


def run_train_steps(
    objectives: Sequence[str],
    arms: Sequence[str],
    reporter: Reporter,
    *,
    append: bool,
    **settings: Any,
) -> dict[str, Any]:
    """Time training steps by turns.

    Args:
        objectives: an arm each.
        arms: further arms as ``NAME: group.key=value ...``.
        reporter: told what happens.
        append: whether the result is kept as a row.
        settings: further keywords of ``jsarag_bench.end_to_end.train_step.run``.

    Raises:
        BackendUnavailableError: the benchmarks are not installed with the package.
    """
    module = _bench_module("end_to_end.train_step")
    from jsarag.study.arms import objective_arm, parse_arm

    chosen = [*map(objective_arm, objectives), *map(parse_arm, arms)]
    result: dict[str, Any] = module.run(chosen, reporter=reporter, **settings)
    if append:
        rows = _bench_module("rows")
        rows.append_row(rows.results_folder() / "train_step.jsonl", result)
    return result


def show_train_steps(result: Mapping[str, Any], console: Console) -> None:
    """A line per arm, a line per ratio, and where the time goes."""
    made = table("arm", "s", "p20-p80", "peak", numbers=[1, 2, 3])
    for name, arm in result["arms"].items():
        spread = f"{arm['p20_s']:.2f}-{arm['p80_s']:.2f}"
        made.add_row(name, f"{arm['median_s']:.2f}", spread, size(arm["peak_bytes"]))
    console.print(made)
    names = list(dict.fromkeys(n for arm in result["arms"].values() for n in arm["stations"]))
    where = table("station, s a step", *result["arms"], numbers=range(1, 1 + len(result["arms"])))
    for name in names:
        spent = [arm["stations"].get(name, 0.0) for arm in result["arms"].values()]
        if max(spent) >= 0.005:
            where.add_row(name, *(f"{seconds:.2f}" for seconds in spent))
    console.print()
    console.print(where)
    for pair, ratio in result["ratio"].items():
        console.print(f"\n{pair}: {ratio:.2f} (median of steps on the same batch)", style="bold")


def _bench_module(name: str) -> Any:
    from jsarag.errors import BackendUnavailableError

    if find_spec("jsarag_bench") is None:
        raise BackendUnavailableError(
            "bench: the package jsarag_bench is not installed; run from a checkout "
            "(`pip install -e .`)"
        )
    return import_module(f"jsarag_bench.{name}")


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
