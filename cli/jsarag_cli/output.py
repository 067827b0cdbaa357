"""What verbs print: results to stdout, everything else to stderr.

``--json`` prints exactly one object; people get tables that fit their terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from jsarag.runs import OpenRun

_PLAIN_WIDTH = 100


def is_one_of_several() -> bool:
    """Whether this is one process of a run on several."""
    from jsarag.parallel.place import find_place

    return find_place(os.environ) is not None


def leads() -> bool:
    """Whether results and progress are this process's to show."""
    from jsarag.errors import ConfigError
    from jsarag.parallel.place import find_place

    try:
        place = find_place(os.environ)
    except ConfigError:  # which is to be shown
        return True
    return place is None or place.rank == 0


def result_console() -> Console:
    """Where results go."""
    return _console(stderr=False)


def log_console() -> Console:
    """Where progress, notes and errors go."""
    return _console(stderr=True)


def print_json(value: Any) -> None:
    """The one JSON object of a verb, on stdout; NaN becomes null."""
    from jsarag.io.atomic import to_json

    sys.stdout.write(json.dumps(json.loads(to_json(value)), ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


def note(text: str, *, level: str = "note") -> None:
    """One line for the reader of the log."""
    style = {"note": "cyan", "warning": "yellow", "error": "bold red"}[level]
    line = Text.assemble((f"{level}: ", style), text)
    log_console().print(line, soft_wrap=True, highlight=False)


def note_choice(opened: OpenRun) -> None:
    """Say that another state of a run than the expected one was opened, and why."""
    if opened.note is not None:
        note(opened.note, level="warning")


def note_conversions(*models: str) -> None:
    """Say which models will be converted before they load: half a minute in which nothing moves."""
    from jsarag.models.hub import needs_conversion

    for model in models:
        if needs_conversion(model):
            note(f"converting {model} into a plain model folder, once; this takes a while")


def table(*columns: str, title: str | None = None, numbers: Sequence[int] = ()) -> Table:
    """An empty table in the house style.

    Args:
        columns: their heads.
        title: above it.
        numbers: columns that are right-aligned.
    """
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for place, name in enumerate(columns):
        right = place in numbers
        made.add_column(name, justify="right" if right else "left", no_wrap=right)
    return made


def facts(rows: Mapping[str, Any]) -> Table:
    """Names and values, one line each."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        # Plain text: `jsarag[lora]` is no markup.
        made.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return made


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # A file or pipe has no width; Rich would take 80 columns and cut what was asked for.
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)
