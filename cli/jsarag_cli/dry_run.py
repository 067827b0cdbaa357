"""``--dry-run``: every setting with its source, and whether the index will fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from jsarag_cli.output import note, print_json, result_console

if TYPE_CHECKING:
    from jsarag.config.load import Resolved


def show_plan(resolved: Resolved, *, as_json: bool) -> None:
    """Print what a run would do, without doing it."""
    if as_json:
        print_json(
            {
                "config": resolved.config.model_dump(mode="json"),
                "sources": dict(resolved.sources),
                "notes": list(resolved.notes),
            }
        )
        return
    for text in resolved.notes:
        note(text)
    console = result_console()
    if not console.is_terminal:
        console.print(resolved.to_yaml(), end="", markup=False, soft_wrap=True)
        return
    for line in resolved.to_yaml().splitlines():
        console.print(_coloured(line), soft_wrap=True)


def _coloured(line: str) -> Text:
    setting, hash_, source = line.rpartition("  # ")
    if not hash_:
        return Text(line, style="bold")
    style = "dim" if source == "default" else "cyan"
    name, colon, value = setting.partition(":")
    return Text.assemble(
        name, colon, (value, "" if source == "default" else "bold"), (f"  # {source}", style)
    )
