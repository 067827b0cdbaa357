"""Tables of an evaluation's JSON: one model, or before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from jsarag_cli.output import table

Scores = Mapping[str, Any]

RETRIEVAL = ("R@1", "R@5", "R@10", "MRR@10")
GENERATION = ("EM", "F1", "BLEU-4", "ROUGE-L")
_RETRIEVERS = ("prior", "posterior")


def evaluation_table(result: Scores) -> Table:
    """All scores of one evaluation, a row each."""
    made = table("", "score", "95 % interval", numbers=(1, 2))
    for part, name, value in _rows(result):
        made.add_row(f"{part} {name}".strip(), _number(value), _interval(result, part, name))
    return made


def comparison_table(before: Scores, after: Scores, names: Sequence[str] = ()) -> Table:
    """Before and after training, with intervals where there are any.

    Args:
        before: an evaluation's JSON.
        after: the same metrics afterwards.
        names: which metrics; empty for all.
    """
    made = table("", "before", "95 %", "after", "95 %", "change", numbers=(1, 2, 3, 4, 5))
    old = {(part, name): value for part, name, value in _rows(before)}
    for part, name, value in _rows(after):
        if names and name not in names:
            continue
        first = old.get((part, name))
        made.add_row(
            f"{part} {name}".strip(),
            _number(first),
            _interval(before, part, name),
            _number(value),
            _interval(after, part, name),
            _change(first, value),
        )
    return made


def _rows(result: Scores) -> list[tuple[str, str, float | None]]:
    rows: list[tuple[str, str, float | None]] = []
    retrieval = result.get("retrieval") or {}
    for part in _RETRIEVERS:
        scores = retrieval.get(part) or {}
        rows += [(part, name, _value(scores[name])) for name in RETRIEVAL if name in scores]
    generation = result.get("generation") or {}
    rows += [
        ("response", name, _value(generation[name])) for name in GENERATION if name in generation
    ]
    return rows


def _value(score: Any) -> float | None:
    return None if score is None else float(score)


def _interval(result: Scores, part: str, name: str) -> str:
    retrieval = result.get("retrieval") or {}
    group = result.get("generation") if part == "response" else retrieval.get(part)
    bounds = ((group or {}).get("intervals") or {}).get(name)
    return "" if not bounds else f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    change = after - before
    style = "green" if change > 0 else "red" if change < 0 else "dim"
    return f"[{style}]{change:+.3f}[/]"
