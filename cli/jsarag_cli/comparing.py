"""What ``jsarag compare`` does with the arms it was given, and its tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag_cli.output import duration, note, result_console, size, table

if TYPE_CHECKING:
    from rich.table import Table

    from jsarag.study.arms import Study
    from jsarag.study.summary import ArmDifference, Summary
    from jsarag.train.reporting import Reporter

# Metric -> its head in a terminal, which is narrow; the page and --json have all.
_SHOWN = {
    "prior R@1": "R@1",
    "prior R@10": "R@10",
    "prior MRR@10": "MRR@10",
    "posterior R@1": "posterior R@1",
    "generation EM": "EM",
    "generation F1": "F1",
    "generation BLEU-4": "BLEU",
    "generation ROUGE-L": "ROUGE",
}
# Columns a narrow terminal does without, in this order.
_FIRST_TO_GO = (
    "ROUGE",
    "BLEU",
    "EM",
    "peak",
    "MRR@10",
    "steps",
    "F1",
    "R@10",
    "pairs",
    "posterior R@1",
)
_COMPARED = {"prior R@1": "R@1", "posterior R@1": "posterior R@1", "generation F1": "F1"}


def run_and_summarise(
    study: Study, folder: Path, reporter: Reporter, results: Path | None
) -> Summary:
    """Run what is not finished, compare, and write the page and the picture.

    Args:
        study: the arms.
        folder: of the runs.
        reporter: told what runs.
        results: a file that gets the rows of this study, too; None for none.

    Raises:
        BackendUnavailableError: arms are to be compared with BM25, and bm25s is missing.
    """
    from jsarag.study.page import write_page
    from jsarag.study.picture import write_picture
    from jsarag.study.rows import add_row
    from jsarag.study.runner import run_study
    from jsarag.study.summary import comparison_rows, summarise

    with_bm25 = _has_bm25(study, reporter)
    # The module and not the script: arms must use the package this was started from.
    program = [sys.executable, "-m", "jsarag_cli"]
    copies = [] if results is None else [results]
    rows = run_study(study, folder, program, reporter, copies)
    reporter.stage("compare", None)
    summary = summarise(study, rows, folder, _references(study) if with_bm25 else {})
    write_page(study, summary, folder)
    write_picture(summary, folder)
    for path in copies:
        for row in comparison_rows(study, summary):
            add_row(path, row)
    return summary


def show_summary(study: Study, summary: Summary, folder: Path) -> None:
    """A line per arm, and the differences with their intervals."""
    from jsarag.study.page import PAGE_FILE
    from jsarag.study.picture import PICTURE_FILE

    console = result_console()
    shown = [name for name in _SHOWN if any(name in arm.metrics for arm in summary.arms)]
    columns = {"arm": [arm.name for arm in summary.arms]}
    for name in shown:
        columns[_SHOWN[name]] = [_points(name, arm.metrics.get(name)) for arm in summary.arms]
    columns |= _costs(summary)
    console.print(_as_wide_as(columns, console.width))
    if summary.differences:
        console.print()
        console.print(_as_wide_as(_difference_columns(summary), console.width))
    if summary.trials:
        console.print()
        console.print(_trial_table(summary))
    for arm in summary.arms:
        for seed, reason in arm.stopped.items():
            note(f"{arm.name}, seed {seed}: {reason}", level="warning")
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    files = [name for name in (PAGE_FILE, PICTURE_FILE) if (folder / name).is_file()]
    console.print(
        f"\n95 % intervals over whole dialogues and {seeds}; bold leaves 0 out. "
        f"The runs, {' and '.join(files)} are in {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def compare_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """Finished runs against the first: paired differences of their evaluations.

    Returns:
        ``{"runs": [...], "comparisons": [{"run", "against", ...}]}``; a comparison as
        :meth:`jsarag.eval.compare.Comparison.to_json` gives it.

    Raises:
        ConfigError: fewer than two runs.
        CheckpointError: one is no run.
        DataError: one has not been evaluated, or shares no example with the first.
    """
    from jsarag.config.load import load_run_config
    from jsarag.errors import ConfigError, DataError
    from jsarag.eval.compare import compare_predictions, read_predictions
    from jsarag.io.run_dir import RunDir

    if len(runs) < 2:
        raise ConfigError(f"compare: expected at least two run folders, found {runs[0]} alone")
    predictions = []
    for path in runs:
        run_dir = RunDir(path)
        run_dir.identity()
        split = load_run_config(run_dir.check_config()).config.eval.split
        predictions.append(read_predictions(run_dir.eval_path(split)))
    comparisons = []
    for path, found in zip(runs[1:], predictions[1:], strict=True):
        comparison = compare_predictions(predictions[0], found)
        if not comparison.rows:
            raise DataError(
                f"expected a run scored on the examples of {runs[0]}, found none of them; compare "
                "runs on the same data and split",
                path=path,
            )
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


def _has_bm25(study: Study, reporter: Reporter) -> bool:
    """Whether BM25 can stand beside the arms; refuses before hours of training where it must."""
    from jsarag.errors import BackendUnavailableError
    from jsarag.index.bm25 import has_bm25
    from jsarag.study.arms import BM25, BM25_RESPONSE

    if has_bm25():
        return True
    wanted = [name for name in study.against if name in (BM25, BM25_RESPONSE)]
    if wanted:
        raise BackendUnavailableError(
            f"--against {wanted[0]}: BM25 is the package bm25s, which is not installed; "
            "pip install 'jsarag[eval]'"
        )
    reporter.event("BM25 is left out: bm25s is not installed; pip install 'jsarag[eval]'")
    return False


def _references(study: Study) -> dict[str, list[dict[str, Any]]]:
    """BM25's rankings of the study's examples."""
    from jsarag.assemble import make_dataset
    from jsarag.study.reference import bm25_predictions

    config = study.config()
    split = config.eval.split
    return bm25_predictions(
        make_dataset(config, (split,)),
        split,
        context_turns=config.data.context_turns,
        posterior_turns=config.data.posterior_turns,
    )


def _costs(summary: Summary) -> dict[str, list[str]]:
    """Columns of what the arms took; a dash for what was not trained."""
    return {
        "steps": ["-" if arm.steps is None else f"{arm.steps:,.0f}" for arm in summary.arms],
        "time": ["-" if arm.seconds is None else duration(arm.seconds) for arm in summary.arms],
        "pairs": [
            "-" if arm.generator_forwards is None else f"{arm.generator_forwards:,.0f}"
            for arm in summary.arms
        ],
        "peak": ["-" if not arm.peak_bytes else size(arm.peak_bytes) for arm in summary.arms],
    }


def _as_wide_as(columns: Mapping[str, Sequence[str]], width: int) -> Table:
    """A table that fits: arms keep their names, and the least important columns go first."""
    kept = dict(columns)
    for name in _FIRST_TO_GO:
        needed = sum(max(map(_printed, (head, *cells))) for head, cells in kept.items())
        if needed + 2 * len(kept) <= width:
            break
        kept.pop(name, None)
    made = table(*kept, numbers=range(1, len(kept)))
    made.columns[0].no_wrap = True
    for row in zip(*kept.values(), strict=True):
        made.add_row(*row)
    return made


def _printed(cell: str) -> int:
    """Characters of a cell without its markup."""
    from rich.text import Text

    return Text.from_markup(cell).cell_len


def _difference_columns(summary: Summary) -> dict[str, list[str]]:
    """A pair of arms a line, a metric a column."""
    by_pair: dict[tuple[str, str], dict[str, str]] = {}
    for item in summary.differences:
        by_pair.setdefault((item.arm, item.against), {})[item.metric] = _difference(item)
    columns = {"in points": [f"{arm} - {against}" for arm, against in by_pair]}
    for metric, head in _COMPARED.items():
        if any(metric in cells for cells in by_pair.values()):
            columns[head] = [cells.get(metric, "-") for cells in by_pair.values()]
    return columns


def _trial_table(summary: Summary) -> Table:
    """An arm a line, what it was tried with a column; the best in bold."""
    tried = [
        ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial.tried.items())
        for trial in summary.trials
    ]
    columns = list(dict.fromkeys(tried))
    made = table("held-back rows", *columns, numbers=range(1, 1 + len(columns)))
    cells: dict[str, dict[str, str]] = {}
    for trial, name in zip(summary.trials, tried, strict=True):
        text = f"{trial.value:.3f}"
        cells.setdefault(trial.arm, {})[name] = f"[bold]{text}[/]" if trial.chosen else text
    for arm, found in cells.items():
        made.add_row(arm, *(found.get(name, "-") for name in columns))
    return made


def _points(metric: str, value: float | None) -> str:
    from jsarag.study.summary import in_points

    return "-" if value is None else f"{in_points(metric, value):.1f}"


def _difference(item: ArmDifference) -> str:
    from jsarag.study.summary import in_points

    value, low, high = (
        in_points(item.metric, number) for number in (item.difference, item.low, item.high)
    )
    text = f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"[bold]{text}[/]" if low > 0 or high < 0 else text
