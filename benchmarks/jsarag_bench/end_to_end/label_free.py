"""Does the measure that needs no labels follow the retriever? One row a run, by reading its log.

    jsarag train ... --set train.watch=likelihood --set train.eval_steps=7 --output-dir RUN
    python -m jsarag_bench.end_to_end.label_free RUN [RUN ...]

A run that is watched without labels (``train/watch.py``) on a data set that has them: at every
state both are known, log p(y|x) on the rows held back under the starting generator, and R@1 and
MRR@10 of the prior on the dev split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsarag.config.load import load_run_config
from jsarag.errors import DataError
from jsarag.io.environment import describe_environment
from jsarag.io.run_dir import RunDir
from jsarag_bench.markdown import table
from jsarag_bench.rows import append_row, results_folder

ROWS_FILE = "label_free.jsonl"


def read_points(run_dir: RunDir) -> list[dict[str, float]]:
    """States at which both measures are known: step, likelihood (nats), R@1, MRR@10.

    Raises:
        DataError: fewer than three such states.
    """
    rows = run_dir.read_metrics()
    likelihood = {
        row["step"]: row["value"]
        for row in rows
        if row["kind"] == "watch" and row["measure"] == "likelihood"
    }
    points: dict[int, dict[str, float]] = {}
    for row in rows:
        scores = (row.get("retrieval") or {}).get("prior") if row["kind"] == "eval" else None
        if scores and row["step"] in likelihood:
            found = {"R@1": scores["R@1"], "MRR@10": scores["MRR@10"]}
            point = {"step": row["step"], "likelihood": likelihood[row["step"]], **found}
            # The evaluation at the end is of the kept state, perhaps not the last step's.
            points.setdefault(row["step"], point)
    if len(points) < 3:
        raise DataError(
            f"expected three states or more with both measures, found {len(points)}; train with "
            "train.watch=likelihood and train.eval_steps equal to an eighth of the steps",
            path=run_dir.metrics_path,
        )
    return list(points.values())


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; ties share their mean rank."""
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place])


def row_of(run: Path) -> dict[str, Any]:
    """What is kept of a run."""
    run_dir = RunDir(run)
    config = load_run_config(run_dir.check_config()).config
    points = read_points(run_dir)
    likelihood = [point["likelihood"] for point in points]
    return {
        "dataset": Path(config.data.dataset).name,
        "objective": config.objective.name,
        "generator": config.generator.model,
        "learning_rate": config.train.learning_rate,
        "points": points,
        "spearman": {
            name: spearman(likelihood, [point[name] for point in points])
            for name in ("R@1", "MRR@10")
        },
        "environment": {
            key: value for key, value in describe_environment().items() if key != "command"
        },
    }


def label_free_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """A table a run: both measures at every state, and their rank correlation."""
    newest = {
        (row["dataset"], row["objective"], row["generator"], row["learning_rate"]): row
        for row in rows
    }
    if not newest:
        return "No rows yet: `python -m jsarag_bench.end_to_end.label_free RUN` makes them."
    parts = []
    for (dataset, objective, generator, rate), row in newest.items():
        points = row["points"]
        lines = [
            ("log p(y\\|x), held back", *(f"{point['likelihood']:.2f}" for point in points)),
            ("R@1, dev", *(f"{100 * point['R@1']:.1f}" for point in points)),
            ("MRR@10, dev", *(f"{100 * point['MRR@10']:.1f}" for point in points)),
        ]
        heads = ("after step", *(f"{point['step']:.0f}" for point in points))
        found = ", ".join(f"{name} {value:.2f}" for name, value in row["spearman"].items())
        parts.append(
            f"{dataset}, `{objective}`, generator {generator}, learning rate {rate:g}: rank "
            f"correlation with {found}.\n\n{table(heads, lines, set(range(1, len(heads))))}"
        )
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Append a row for each run."""
    parser = argparse.ArgumentParser(description="The label-free measure against R@1.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    for run in parser.parse_args(arguments).runs:
        row = row_of(run)
        append_row(results_folder() / ROWS_FILE, row)
        print(f"{run}: rank correlation {row['spearman']}")


if __name__ == "__main__":
    main()
