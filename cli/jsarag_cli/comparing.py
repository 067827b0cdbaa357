"""What ``jsarag compare`` does with the arms it was given, and its tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag_cli.output import duration, note, result_console, size, table

if TYPE_CHECKING:
    from jsarag.study.arms import Study
    from jsarag.study.summary import Summary
    from jsarag.train.reporting import Reporter

# Metric -> its head in a terminal; the page and --json have all.
_SHOWN = {
    "prior R@1": "R@1",
    "prior R@10": "R@10",
    "prior MRR@10": "MRR@10",
    "posterior R@1": "posterior R@1",
    "generation F1": "F1",
}
_COMPARED = {"prior R@1": "R@1", "posterior R@1": "posterior R@1", "generation F1": "F1"}


def run_and_summarise(
    study: Study, folder: Path, reporter: Reporter, results: Path | None
) -> Summary:
    """Run what is not finished, compare, and write the page.

    Args:
        study: the arms.
        folder: of the runs.
        reporter: told what runs.
        results: a file that gets the rows of this study, too; None for none.
    """
    from jsarag.study.page import write_page
    from jsarag.study.reference import bm25_predictions, has_bm25
    from jsarag.study.runner import run_study
    from jsarag.study.summary import comparison_rows, summarise

    # The module and not the script: arms must use the package this was started from.
    train = [sys.executable, "-m", "jsarag_cli", "train"]
    rows = run_study(study, folder, train, reporter)
    references = {}
    if has_bm25():
        dataset, data = _data(study)
        references = bm25_predictions(
            dataset,
            study.common.get("eval.split", "dev"),
            context_turns=data.context_turns,
            posterior_turns=data.posterior_turns,
        )
    summary = summarise(study, rows, folder, references)
    write_page(study, summary, folder)
    if results is not None:
        _append(results, [*rows, *comparison_rows(study, summary)])
    return summary


def show_summary(study: Study, summary: Summary, folder: Path) -> None:
    """A line per arm, and the differences with their intervals."""
    from jsarag.study.page import PAGE_FILE

    console = result_console()
    shown = [name for name in _SHOWN if any(name in arm.metrics for arm in summary.arms)]
    heads = (*(_SHOWN[name] for name in shown), "steps", "time", "pairs", "peak")
    made = table("arm", *heads, numbers=range(1, 1 + len(heads)))
    for arm in summary.arms:
        made.add_row(
            arm.name,
            *(_points(arm.metrics.get(name)) for name in shown),
            "-" if arm.steps is None else f"{arm.steps:,.0f}",
            "-" if arm.seconds is None else duration(arm.seconds),
            "-" if arm.generator_forwards is None else f"{arm.generator_forwards:,.0f}",
            "-" if not arm.peak_bytes else size(arm.peak_bytes),
        )
    console.print(made)
    compared = [name for name in _COMPARED if name in shown]
    found = table("in points", *(_COMPARED[name] for name in compared), numbers=range(1, 4))
    by_pair: dict[tuple[str, str], dict[str, str]] = {}
    for item in summary.differences:
        text = _difference(item.difference, item.low, item.high)
        by_pair.setdefault((item.arm, item.against), {})[item.metric] = text
    for (arm_name, against), cells in by_pair.items():
        found.add_row(f"{arm_name} - {against}", *(cells.get(name, "-") for name in compared))
    console.print()
    console.print(found)
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    console.print(
        f"\n95 % intervals over whole dialogues, {seeds}; bold leaves 0 out. "
        f"The runs and {PAGE_FILE} are in {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def compare_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """Finished runs against the first: paired differences of their last evaluations.

    Returns:
        ``{"runs": [...], "comparisons": [{"run", "against", ...}]}``; a comparison as
        :meth:`jsarag.eval.compare.Comparison.to_json` gives it.

    Raises:
        ConfigError: fewer than two runs. DataError, CheckpointError: one has not been evaluated.
    """
    from jsarag.config.load import load_run_config
    from jsarag.errors import ConfigError
    from jsarag.eval.compare import compare_predictions, read_predictions
    from jsarag.io.run_dir import RunDir

    if len(runs) < 2:
        raise ConfigError(f"compare: expected at least two run folders, found {runs[0]} alone")
    predictions = []
    for path in runs:
        run_dir = RunDir(path)
        run_dir.identity()
        split = load_run_config(run_dir.config_path).config.eval.split
        predictions.append(read_predictions(run_dir.eval_path(split)))
    comparisons = []
    for path, found in zip(runs[1:], predictions[1:], strict=True):
        comparison = compare_predictions(predictions[0], found)
        if comparison.dropped:
            note(
                f"{path}: {comparison.dropped} examples only one of the two runs was scored on are "
                "left out",
                level="warning",
            )
        comparisons.append({"run": str(path), "against": str(runs[0]), **comparison.to_json()})
    return {"runs": [str(path) for path in runs], "comparisons": comparisons}


def show_runs(found: Mapping[str, Any]) -> None:
    """A table a comparison: difference, interval, p-value."""
    console = result_console()
    for comparison in found["comparisons"]:
        made = table("", "difference", "95 % interval", "p", numbers=(1, 2, 3))
        groups = {**comparison["retrieval"], "generation": comparison["generation"]}
        for group, metrics in groups.items():
            for name, item in metrics.items():
                if item is None:
                    continue
                sure = item["low"] > 0 or item["high"] < 0
                made.add_row(
                    f"{group} {name}",
                    f"{item['value']:+.3f}",
                    f"{item['low']:+.3f} to {item['high']:+.3f}",
                    f"{item['p_value']:.3f}",
                    style="bold" if sure else "",
                )
        console.print(
            f"{comparison['run']} minus {comparison['against']}, {comparison['rows']} examples",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        console.print(made)


def _data(study: Study) -> tuple[Any, Any]:
    """The study's data set and the settings that say how much of it is read."""
    from jsarag.assemble import make_dataset
    from jsarag.config.load import parse_set, resolve_run

    overrides = [parse_set(f"{key}={value}") for key, value in study.common.items()]
    config = resolve_run(dataset=study.dataset, recipe=study.recipe, overrides=overrides).config
    return make_dataset(config, (config.eval.split,)), config.data


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import datetime

    from jsarag.io.atomic import to_json
    from jsarag.io.lines import append_line

    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for row in rows:
        append_line(path, to_json({"date": date, **row}))


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _difference(value: float, low: float, high: float) -> str:
    text = f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"[bold]{text}[/]" if low > 0 or high < 0 else text
