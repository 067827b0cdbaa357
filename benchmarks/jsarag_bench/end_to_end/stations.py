"""A training step's stations with the reference ops and with the compiled kernels.

    python -m jsarag_bench.end_to_end.stations [--repeats 2] [--append]

Trains the embedded demo for a few steps in fresh processes, by turns with ``JSARAG_BACKEND``
``reference`` (plain torch) and ``auto`` (kernels), same seed and data, and reads what each station
of the step took from the run's own metrics. ``--append`` keeps a row per backend in
``benchmarks/results/<machine>/stations.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jsarag.errors import DataError
from jsarag.io.environment import describe_environment
from jsarag_bench.markdown import table
from jsarag_bench.rows import append_row, results_folder

BACKENDS = ("reference", "auto")
STEPS = 20
# The chain's kernel is part of the step with `mis`; evaluation is not what is measured.
ARGUMENTS = (
    *("--dataset", "demo", "--estimator", "mis", "--max-steps", str(STEPS), "--quiet"),
    *("--set", "train.generator_warmup_steps=10", "--set", "eval.max_examples=4"),
)
# In the order of the step; what else a step is charged for is not training.
STATIONS = ("encode", "candidates", "score", "weights", "loss", "backward", "optimizer")


def read_stations(metrics: Iterable[str]) -> dict[str, float]:
    """Milliseconds a step at each station, mean over a run's training records.

    Raises:
        DataError: the run has none.
    """
    records = [json.loads(line) for line in metrics if line.strip()]
    steps = [record["stations"] for record in records if record.get("kind") == "train"]
    if not steps:
        raise DataError("expected training records with their stations, found none")
    return {name: 1e3 * statistics.mean(step.get(name, 0.0) for step in steps) for name in STATIONS}


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds a step, by backend and station."""
    found: dict[str, list[dict[str, float]]] = {backend: [] for backend in BACKENDS}
    for _ in range(repeats):
        for backend in BACKENDS:
            found[backend].append(_run(backend))
    return {
        backend: {name: statistics.median(run[name] for run in runs) for name in STATIONS}
        for backend, runs in found.items()
    }


def _run(backend: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "jsarag_cli.main", "train", *ARGUMENTS]
        done = subprocess.run(
            [*command, "--output-dir", str(output)],
            env={**os.environ, "JSARAG_BACKEND": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DataError(f"the {backend} run failed: {done.stderr[-2000:]}")
        return read_stations((output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())


def stations_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The newest row of each backend as a Markdown table."""
    newest = {row["backend"]: row["stations"] for row in rows}
    if not set(BACKENDS) <= set(newest):
        return "No rows yet: `python -m jsarag_bench.end_to_end.stations --append` measures them."
    before, after = (_with_step(newest[backend]) for backend in BACKENDS)
    lines = [
        (name, f"{before[name]:,.1f}", f"{after[name]:,.1f}", f"{before[name] / after[name]:.2f}x")
        for name in before
    ]
    return table(("station", "torch, ms a step", "kernels, ms a step", "ratio"), lines, {1, 2, 3})


def _with_step(stations: Mapping[str, float]) -> dict[str, float]:
    return {**stations, "whole step": sum(stations.values())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each backend")
    parser.add_argument("--append", action="store_true", help="keep the rows on file")
    chosen = parser.parse_args(arguments)
    found = measure(chosen.repeats)
    shown = Table("station", *BACKENDS)
    for name in STATIONS:
        shown.add_row(name, *(f"{found[backend][name]:,.1f} ms" for backend in BACKENDS))
    Console().print(shown)
    if not chosen.append:
        return
    given = list(sys.argv[1:] if arguments is None else arguments)
    passport = {
        **describe_environment(),
        "command": shlex.join(["python", "-m", "jsarag_bench.end_to_end.stations", *given]),
    }
    for backend, stations in found.items():
        row = {"backend": backend, "case": "demo", "steps": STEPS, "repeats": chosen.repeats}
        append_row(results_folder() / "stations.jsonl", {**row, "stations": stations, **passport})


if __name__ == "__main__":
    main()
