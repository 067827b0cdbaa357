"""``--dry-run``: every setting with its source, and whether the run will fit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from jsarag_cli.output import facts, note, print_json, result_console, size

if TYPE_CHECKING:
    from rich.console import Console

    from jsarag.config.load import Resolved
    from jsarag.train.forecast import RunForecast


def show_plan(resolved: Resolved, *, as_json: bool) -> None:
    """Print what a run would do, without doing it; a chunk is tried for its memory.

    Raises:
        DataError: the data cannot be read. MemoryForecastError: the run would not fit.
    """
    from jsarag.assemble import make_dataset, make_device, make_models
    from jsarag.fitting import fit_data
    from jsarag.train.forecast import free_bytes, look_ahead, probe_run, require_fit
    from jsarag.train.support import fit_support

    resolved = fit_support(resolved)
    # Data and models first: what is wrong with them should not stand below eighty settings.
    dataset = make_dataset(resolved.config, ("train", resolved.config.eval.split))
    resolved = fit_data(resolved, dataset)
    config = resolved.config
    device = make_device(config.train.device)
    retrievers, generator = make_models(config, dataset, device)
    if not as_json:
        for text in resolved.notes:
            note(text)
        _show_settings(resolved, result_console())
    probe = probe_run(config, dataset, retrievers, generator)
    forecast = look_ahead(config, dataset, retrievers, generator, probe)
    available = free_bytes(device)
    sizes = {split: len(rows) for split, rows in dataset.splits.items()}
    if as_json:
        print_json(
            {
                "config": config.model_dump(mode="json"),
                "sources": dict(resolved.sources),
                "notes": [*resolved.notes, *dataset.notes],
                "examples": sizes,
                "precision": asdict(probe.precision),
                "forecast": {
                    **asdict(forecast.index),
                    "peak_bytes": forecast.peak_bytes,
                    "held_bytes": forecast.held_bytes,
                    "training_bytes": dict(forecast.training_bytes),
                    "chunk_bytes": forecast.chunk_bytes,
                    "chunk_tokens": forecast.chunk_tokens,
                    "available_bytes": available,
                },
            }
        )
    else:
        for text in filter(None, (*dataset.notes, probe.precision.describe())):
            note(text)
        _show_forecast(sizes, forecast, available, result_console())
    require_fit(forecast, device)


def _show_settings(resolved: Resolved, console: Console) -> None:
    if not console.is_terminal:
        # As it is saved, so that it can be redirected into a file and used.
        console.print(resolved.to_yaml(), end="", markup=False, soft_wrap=True)
        return
    for line in resolved.to_yaml().splitlines():
        console.print(_coloured(line), soft_wrap=True)


def _show_forecast(
    sizes: dict[str, int], forecast: RunForecast, available: int, console: Console
) -> None:
    # Comments, so that the output stays a configuration.
    lines = {
        "# examples": ", ".join(f"{split} {count:,}" for split, count in sizes.items()),
        "# passages": f"{forecast.index.count:,}",
        "# index": f"{size(forecast.vectors_bytes)} in memory, "
        f"{size(forecast.index.build_bytes)} while building, "
        f"{size(forecast.index.disk_bytes)} on disk",
        "# models": f"{size(forecast.held_bytes)} with the program",
        "# optimizer": f"{size(sum(forecast.training_bytes.values()))} with gradients",
        "# activations": f"{size(forecast.chunk_bytes)}, {forecast.chunk_tokens:,} tokens a chunk",
        "# peak": f"{size(forecast.peak_bytes)} of memory",
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
