"""The questions an evaluation failed on: what was asked, wanted, found and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

_PASSAGES = 3


def failures_of(predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose gold passage does not come first, the furthest off first; JSON types.

    A row has the keys ``id``, ``context``, ``rank`` (None where no gold passage was retrieved),
    ``gold_passages``, ``passages``, ``answers``, ``prediction`` and ``F1``. Rows without gold
    passages fail where the response has no word of an answer (F1 of 0).
    """
    found = []
    for row in predictions:
        gold = set(row["gold_passages"])
        ranks = [place for place, hit in enumerate(row["passages"], 1) if hit["id"] in gold]
        f1 = ((row["metrics"] or {}).get("generation") or {}).get("F1")
        if ranks[:1] == [1] if gold else f1 != 0.0:
            continue
        found.append(
            {
                "id": row["id"],
                "context": row["context"],
                "rank": ranks[0] if ranks else None,
                "gold_passages": list(row["gold_passages"]),
                "passages": [
                    {key: hit.get(key) for key in ("id", "title", "text")}
                    for hit in row["passages"][:_PASSAGES]
                ],
                "answers": list(row["answers"]),
                "prediction": row["prediction"],
                "F1": f1,
            }
        )
    return sorted(found, key=lambda row: (row["rank"] is not None, -(row["rank"] or 0)))


def print_failures(failures: Sequence[Mapping[str, Any]], most: int, console: Console) -> None:
    """The failures for people, one line a fact, cut to the terminal's width."""
    console.print(f"\n{len(failures):,} failures", style="bold")
    for row in failures[:most]:
        console.print()
        _line(console, "", row["context"].replace("\n", " / "), "bold")
        if row["gold_passages"]:
            place = "not retrieved" if row["rank"] is None else f"at place {row['rank']}"
            _line(console, "gold    ", f"{', '.join(row['gold_passages'])}, {place}", "green")
        for number, hit in enumerate(row["passages"], 1):
            _line(console, f"found {number} ", _shown(hit), "dim")
        _line(console, "wanted  ", row["answers"][0] if row["answers"] else "-", "")
        if row["prediction"] is not None:
            f1 = "" if row["F1"] is None else f"  (F1 {row['F1']:.2f})"
            _line(console, "said    ", (row["prediction"] or "(nothing)") + f1, "")
    if len(failures) > most:
        console.print(f"\nand {len(failures) - most:,} more; --most {len(failures)} shows all")


def _shown(hit: Mapping[str, Any]) -> str:
    parts = [hit["id"], hit.get("title") or "", hit.get("text") or ""]
    return "  ".join(" ".join(part.split()) for part in parts if part)


def _line(console: Console, label: str, text: str, style: str) -> None:
    console.print(
        Text.assemble((label, "dim"), (text, style)), no_wrap=True, overflow="ellipsis", crop=True
    )
