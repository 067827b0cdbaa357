"""``--dry-run``: every setting with its source, and whether the index will fit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from jsarag_cli.output import facts, note, print_json, result_console, size

if TYPE_CHECKING:
    from rich.console import Console

    from jsarag.config.load import Resolved


def show_plan(resolved: Resolved, *, as_json: bool) -> None:
    """Print what a run would do, without doing it.

    Raises:
        DataError: the data cannot be read. MemoryForecastError: the index would not fit.
    """
    from jsarag.assemble import make_dataset
    from jsarag.index.memory import (
        available_memory_bytes,
        forecast_index,
        require_memory,
    )
    from jsarag.models.hub import load_config

    config = resolved.config
    if not as_json:
        for text in resolved.notes:
            note(text)
        _show_settings(resolved, result_console())
    dataset = make_dataset(config, ("train", config.eval.split))
    width = int(load_config(config.retriever.model).hidden_size)
    forecast = forecast_index(len(dataset.kb), width, config.index.dtype)
    available = available_memory_bytes()
    sizes = {split: len(rows) for split, rows in dataset.splits.items()}
    if as_json:
        print_json(
            {
                "config": config.model_dump(mode="json"),
                "sources": dict(resolved.sources),
                "notes": [*resolved.notes, *dataset.notes],
                "examples": sizes,
                "forecast": {**asdict(forecast), "available_bytes": available},
            }
        )
    else:
        for text in dataset.notes:
            note(text)
        _show_forecast(sizes, asdict(forecast), available, result_console())
    require_memory(forecast, available)


def _show_settings(resolved: Resolved, console: Console) -> None:
    if not console.is_terminal:
        # As it is saved, so that it can be redirected into a file and used.
        console.print(resolved.to_yaml(), end="", markup=False, soft_wrap=True)
        return
    for line in resolved.to_yaml().splitlines():
        console.print(_coloured(line), soft_wrap=True)


def _show_forecast(
    sizes: dict[str, int], forecast: dict[str, Any], available: int, console: Console
) -> None:
    # Comments, so that the output stays a configuration.
    lines = {
        "# examples": ", ".join(f"{split} {count:,}" for split, count in sizes.items()),
        "# passages": f"{forecast['count']:,}",
        "# index": f"{size(forecast['vectors_bytes'])} in memory, "
        f"{size(forecast['build_bytes'])} while building, {size(forecast['disk_bytes'])} on disk",
        "# available": f"{size(available)} of memory",
    }
    console.print(facts(lines))


def _coloured(line: str) -> Text:
    setting, hash_, source = line.rpartition("  # ")
    if not hash_:
        return Text(line, style="bold" if line.endswith(":") else "")
    is_default = source == "default"
    name, colon, value = setting.partition(":")
    return Text.assemble(
        name,
        colon,
        (value, "" if is_default else "bold"),
        (f"  # {source}", "dim" if is_default else "cyan"),
    )
