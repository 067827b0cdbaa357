"""What a training step costs under several objectives: arms by turns in one process.

``jsarag bench train-step`` is this. Every arm is an ordinary run (same data, batches, models and
precision; its settings are the recipe's and what the arm changes) that takes one step at a time, in
turns with the others, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from jsarag.assemble import make_parts
from jsarag.config.load import Resolved, Setting, flag, resolve_run
from jsarag.io.environment import describe_environment
from jsarag.io.peak import forget_peak, highest_bytes
from jsarag.io.run_dir import RunDir
from jsarag.study.arms import Arm
from jsarag.train.forecast import probe_run
from jsarag.train.loop import train
from jsarag.train.reporting import Reporter, SilentReporter
from jsarag.train.run import make_run
from jsarag.train.signals import StopSignal
from jsarag.train.training_run import TrainingRun
from jsarag_bench.markdown import table

# The first step of a process allocates what later ones reuse.
_UNTIMED = 1


def run(
    arms: Sequence[Arm],
    *,
    dataset: str | None,
    recipe: str | None,
    overrides: Sequence[Setting],
    steps: int,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Time ``steps`` steps of every arm.

    Returns:
        ``{"machine", "dataset", "recipe", "settings", "steps", "arms": {name: {"median_s", "p20_s",
        "p80_s", "peak_bytes", "chunk_tokens", "stations"}}, "ratio": {"a/b": median of the ratios
        of steps on the same batch}}``.
    """
    reporter = reporter or SilentReporter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stop = stack.enter_context(StopSignal())
        shared = [*overrides, flag("index.cache_dir", str(folder / "cache"), "bench")]
        runs: dict[str, TrainingRun] = {}
        budget: list[Setting] = []
        for arm in arms:
            reporter.stage(f"load {arm.name}", None)
            resolved = resolve_run(
                dataset=dataset, recipe=recipe, overrides=[*shared, *budget, *arm.overrides()]
            )
            runs[arm.name] = _start(resolved, folder / arm.name, stop)
            # What is free differs from arm to arm; chunks of one size are fair.
            found = runs[arm.name].parts.generator.budget_tokens
            budget = [flag("train.chunk_tokens", str(found), "bench")]
        reporter.stage("train by turns", (steps + _UNTIMED) * len(runs))
        timed = _by_turns(runs, steps, reporter)
    machine = describe_environment()
    if dataset and Path(dataset).is_absolute():
        # Where the data lie on this machine is nobody's business.
        shown = f"DIR/{Path(dataset).name}"
        machine["command"] = [part.replace(dataset, shown) for part in machine["command"]]
    return {
        "machine": machine,
        "dataset": Path(dataset).name if dataset else None,
        "recipe": recipe,
        "settings": {setting.key: setting.value for setting in overrides},
        "steps": steps,
        **_summary(timed, runs),
    }


def train_step_tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """The newest row of every case as Markdown: a table an arm, and the ratios under it."""
    if not rows:
        return "No rows yet: `jsarag bench train-step --append` measures them."
    newest = {
        (row["dataset"], row["recipe"], str(sorted(row["settings"].items()))): row for row in rows
    }
    return "\n\n".join(_case_table(row) for row in newest.values())


def _case_table(row: Mapping[str, Any]) -> str:
    machine = row["machine"]
    settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
    lines = [
        (
            name,
            f"{arm['median_s']:.1f}",
            f"{arm['p20_s']:.1f} to {arm['p80_s']:.1f}",
            *(f"{arm['stations'].get(station, 0.0):.1f}" for station in _SHOWN),
            f"{arm['chunk_tokens']:,}",
        )
        for name, arm in row["arms"].items()
    ]
    heads = ("arm", "s a step", "p20 to p80", *_SHOWN, "tokens a chunk")
    ratios = "; ".join(f"{pair}: **{ratio:.2f}**" for pair, ratio in row["ratio"].items())
    return (
        f"{row['dataset']}, recipe {row['recipe']}, {settings}; {row['steps']} steps by turns; "
        f"{machine['cpu']}, {machine['torch_threads']} threads; commit "
        f"{str(machine['commit'])[:10]}; {row['date'][:10]}.\n\n"
        f"{table(heads, lines, set(range(1, len(heads))))}\n\n{ratios}"
    )


# Stations whose seconds the table shows; the rest is small.
_SHOWN = ("encode", "candidates", "score", "backward", "optimizer")


@dataclass(frozen=True, slots=True)
class _Step:
    seconds: float
    stations: Mapping[str, float]
    peak_bytes: int


def _start(resolved: Resolved, folder: Path, stop: StopSignal) -> TrainingRun:
    config = resolved.config
    run_dir = RunDir(folder)
    run_dir.claim(config.model_dump(mode="json"))
    parts = make_parts(config, splits=(config.eval.split,))
    probe_run(config, parts.dataset, parts.retrievers, parts.generator).apply(
        parts.retrievers, parts.generator
    )
    return make_run(config, parts, run_dir, SilentReporter(), stop, None)


def _by_turns(
    runs: Mapping[str, TrainingRun], steps: int, reporter: Reporter
) -> dict[str, list[_Step]]:
    timed: dict[str, list[_Step]] = {name: [] for name in runs}
    done = 0
    for number in range(steps + _UNTIMED):
        for name, run in runs.items():
            step = _one_step(run, sum(_own_bytes(other) for other in runs.values()))
            if number >= _UNTIMED:
                timed[name].append(step)
            done += 1
            reporter.advance(done)
    return timed


def _one_step(run: TrainingRun, held_by_all: int) -> _Step:
    run.start_stage(replace(run.stage, steps=run.step + 1))
    forget_peak()
    before = run.clock.snapshot()
    started = perf_counter()
    train(run)
    seconds = perf_counter() - started
    after = run.clock.snapshot()
    stations = {name: spent - before.get(name, 0.0) for name, spent in after.items()}
    # What the other arms hold would not be there in a run of this one.
    others = held_by_all - _own_bytes(run)
    return _Step(seconds, stations, highest_bytes(run.parts.device) - others)


def _own_bytes(run: TrainingRun) -> int:
    """Weights, gradients, Adam's moments and index of a run."""
    modules: list[nn.Module] = [*run.parts.retrievers.parts().values(), run.parts.generator]
    parameters = [p for module in modules for p in module.parameters()]
    weights = sum(p.numel() * p.element_size() for p in parameters)
    trained = sum(p.numel() * 12 for p in parameters if p.requires_grad)
    embeddings = run.parts.prior_index.embeddings
    return weights + trained + embeddings.numel() * embeddings.element_size()


def _summary(
    timed: Mapping[str, Sequence[_Step]], runs: Mapping[str, TrainingRun]
) -> dict[str, Any]:
    arms: dict[str, Any] = {}
    for name, steps in timed.items():
        seconds = np.array([step.seconds for step in steps])
        low, middle, high = np.quantile(seconds, [0.2, 0.5, 0.8]).tolist()
        names = list(dict.fromkeys(station for step in steps for station in step.stations))
        arms[name] = {
            "median_s": middle,
            "p20_s": low,
            "p80_s": high,
            "peak_bytes": max(step.peak_bytes for step in steps),
            "chunk_tokens": runs[name].parts.generator.budget_tokens,
            "stations": {
                station: mean(step.stations.get(station, 0.0) for step in steps)
                for station in names
            },
        }
    first, *others = timed
    ratio = {
        f"{first}/{other}": float(
            np.median(
                [
                    mine.seconds / theirs.seconds
                    for mine, theirs in zip(timed[first], timed[other], strict=True)
                ]
            )
        )
        for other in others
    }
    return {"arms": arms, "ratio": ratio}
