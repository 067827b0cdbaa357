"""Kernel rows as Markdown: a short table for the README, every rival and target for the docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jsarag_bench.cases import read_cases
from jsarag_bench.kernels import OPS
from jsarag_bench.markdown import count, table

Row = Mapping[str, Any]

_SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_OPTION_WORDS = {
    "tile_lse": "with tile masses",
    "certify": "certified",
    "backward": "forward + backward",
    "after_scan": "scan included",
}


def newest_rows(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Machine -> its newest row of each case, in the order of ``cases.yaml``."""
    newest: dict[str, dict[str, Row]] = {}
    for row in rows:
        newest.setdefault(row["machine"]["name"], {})[row["case"]] = row
    order = {name: place for place, name in enumerate(read_cases())}
    return {
        machine: sorted(found.values(), key=lambda row: order.get(row["case"], len(order)))
        for machine, found in sorted(newest.items())
    }


def short_table(rows: Iterable[Row]) -> str:
    """One line per headline case and machine."""
    headlines = {case.name for case in read_cases().values() if case.headline}
    parts = []
    for found in newest_rows(rows).values():
        shown = [row for row in found if row["case"] in headlines] or found
        lines = [
            (
                f"`{row['op']}` {_shape(row)}",
                _dtype(row),
                milliseconds(row["median_ms"]),
                _best_rival(row),
                _times(row["ratio_best_peer"]),
                percent(row["share_of_ceiling"]),
            )
            for row in shown
        ]
        heads = ("kernel", "dtype", "ms", "best rival, ms", "speed-up", "of ceiling")
        parts += [_about(shown), table(heads, lines, right=(2, 4, 5))]
    return "\n\n".join(parts) or _EMPTY


def full_tables(rows: Iterable[Row]) -> str:
    """Per machine and op: every rival, memory, error, target, and what was not timed."""
    parts = []
    for machine, found in newest_rows(rows).items():
        parts += [f"### {machine}", _about(found)]
        for op in OPS:
            of_op = [row for row in found if row["op"] == op]
            if of_op:
                parts += [f"#### {op}", _rival_table(of_op), _detail_table(of_op)]
                parts += _not_timed(of_op)
    return "\n\n".join(parts) or _EMPTY


_EMPTY = "No rows yet: `python -m jsarag_bench.run --full --append` measures them."


def _rival_table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    names = [name for name in names if any(row["peers"].get(name) is not None for row in rows)]
    lines = []
    for row in rows:
        fastest = min((ms for ms in row["peers"].values() if ms is not None), default=None)
        cells = []
        for name in names:
            ms = row["peers"].get(name)
            text = "-" if ms is None else milliseconds(ms)
            cells.append(f"**{text}**" if ms is not None and ms == fastest else text)
        ours = f"{milliseconds(row['median_ms'])} ({_spread(row)})"
        floor = "-" if row["floor_ms"] is None else milliseconds(row["floor_ms"])
        lines.append((row["case"], ours, *cells, _times(row["ratio_best_peer"]), floor))
    heads = ("case", "ours, ms (p20-p80)", *names, "speed-up", "floor, ms")
    return table(heads, lines, right=range(1, len(heads)))


def _detail_table(rows: Sequence[Row]) -> str:
    cases = read_cases()
    lines = []
    for row in rows:
        known = cases.get(row["case"])
        lines.append(
            (
                row["case"],
                f"{_shape(row)}: {known.reason}" if known else _shape(row),
                f"{row['backend']} {_dtype(row)}, {row['repetitions']} repetitions",
                size(row["extra_bytes"]),
                percent(row["share_of_ceiling"]),
                f"{row['check']} {row['max_error']:.2g} of {row['error_budget']:.2g}",
                "; ".join(_target(target) for target in row["targets"]) or "-",
            )
        )
    heads = (
        "case", "why", "runs on", "extra memory", "of ceiling", "largest error of budget", "target",
    )  # fmt: skip
    return table(heads, lines, right=(3, 4))


def _not_timed(rows: Sequence[Row]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row["skipped"].items():
            reasons.setdefault((name, reason), []).append(row["case"])
    if not reasons:
        return []
    lines = [
        f"* {name}: {reason} ({', '.join(cases)})" for (name, reason), cases in reasons.items()
    ]
    return ["Not timed:\n\n" + "\n".join(lines)]


def _target(target: Mapping[str, Any]) -> str:
    if target["met"] is None:
        return f"{target['text']}: not measurable here"
    word = "met" if target["met"] else "**missed**"
    return f"{target['text']}: {target['measured']:.2f}, {word}"


def _about(rows: Sequence[Row]) -> str:
    """The passport of a table: machine, ceilings, versions, commits, dates, commands."""
    newest = max(rows, key=lambda row: str(row["date"]))
    machine, ceilings = newest["machine"], newest["ceilings"]
    what = machine["cuda_device"] if newest["device"] == "cuda" else machine["cpu"]
    rates = ", ".join(
        f"{_SHORT[name]} {ceilings[f'{name}_flops_per_s'] / 1e12:.3g} TFLOP/s"
        for name in ("float32", "bfloat16")
    )
    commits = sorted({short_commit(row["machine"]["commit"]) for row in rows})
    dates = sorted({str(row["date"])[:10] for row in rows})
    commands = sorted({_without_cases(row["command"]) for row in rows})
    return (
        f"{what}, {machine['threads']} threads; measured ceilings: read "
        f"{ceilings['read_bytes_per_s'] / 1e9:.3g} GB/s, matmul {rates}. "
        f"torch {machine['packages'].get('torch', '?')}; commit {', '.join(commits)}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; "
        + ", ".join(f"`{command}`" for command in commands)
        + "."
    )


def _without_cases(command: str) -> str:
    """A command without the names of its cases: dozens, and each row on file has its own."""
    return " ".join(word for word in command.split() if word.startswith("-") or "-" not in word)


def _shape(row: Row) -> str:
    shape = row["shape"]
    sizes = ", ".join(f"{letter}={count(shape[letter])}" for letter in shape)
    words = [_OPTION_WORDS.get(name, name) for name, on in row["options"].items() if on]
    k = [f"k={row['k']}"] if row["k"] else []
    return ", ".join([sizes, *k, *words])


def _dtype(row: Row) -> str:
    dtype = str(row["dtype"])
    return _SHORT.get(dtype, dtype)


def _best_rival(row: Row) -> str:
    timed = {name: ms for name, ms in row["peers"].items() if ms is not None}
    if not timed:
        return "-"
    name = min(timed, key=timed.__getitem__)
    return f"{milliseconds(timed[name])} ({name})"


def _spread(row: Row) -> str:
    return f"{milliseconds(row['p20_ms'])}-{milliseconds(row['p80_ms'])}"


def milliseconds(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "-" if value is None else f"{value:.0%}"


def size(value: int | None) -> str:
    """Bytes in MB (10^6), as memory tables say them."""
    if value is None:
        return "-"
    return f"{value / 1e6:,.0f} MB" if value >= 1e7 else f"{value / 1e6:.1f} MB"


def short_commit(commit: str | None) -> str:
    """Ten digits, and whether the tree was changed."""
    if commit is None:
        return "installed"
    return commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
