"""``jsarag train``: resolve the settings, train, print the scores before and after."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jsarag_cli.output import (
    is_one_of_several,
    leads,
    note_conversions,
    print_json,
    result_console,
)
from jsarag_cli.progress import make_reporter
from jsarag_cli.settings import TRAIN_FLAGS, Overrides, with_settings

if TYPE_CHECKING:
    from jsarag.config.load import Resolved
    from jsarag.train.run import TrainResult


@with_settings(TRAIN_FLAGS)
def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.YAML", help="A configuration file.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A recipe's data set, or a folder with kb.jsonl and train.jsonl."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A shipped recipe to start from.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --output-dir, with its own settings."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show settings, sources and the memory forecast; stop."),
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the configuration's JSON Schema; stop.")
    ] = False,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="Show the shipped recipes and their data; stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            metavar="N",
            help="Train on N processes of this machine; torchrun and srun are found by themselves.",
        ),
    ] = 1,
    *,
    overrides: Overrides,
) -> None:
    """Train retriever and generator together.

    Precedence: default, recipe, file, environment (JSARAG_*), flag.
    """
    from jsarag.config.load import json_schema, resolve_run

    if schema:
        print_json(json_schema())
        return
    if list_recipes:
        _show_recipes(as_json=json)
        return
    if resume and (dataset, recipe, config) == (None, None, None):
        config = _own_config(overrides)
    resolved = resolve_run(dataset=dataset, recipe=recipe, file=config, overrides=overrides)
    if dry_run:
        from jsarag_cli.dry_run import show_plan

        show_plan(resolved, as_json=json)
        return
    if processes != 1 and not is_one_of_several():
        raise typer.Exit(_launch(processes))
    if not quiet and leads():
        note_conversions(resolved.config.retriever.model, resolved.config.generator.model)
    result = run_reported(resolved, resume=resume, quiet=quiet)
    if not leads():
        pass  # process 0 says it
    elif json:
        print_json(result_record(result))
    else:
        show_result(result)
    require_no_worse(result)


def _launch(processes: int) -> int:
    """This very command in several processes; the exit code of all."""
    from jsarag.parallel.launch import launch

    return launch([sys.executable, "-m", "jsarag_cli", *sys.argv[1:]], processes)


def _show_recipes(*, as_json: bool) -> None:
    from jsarag_cli.datasets import known_recipes, show_recipes

    found = known_recipes()
    if as_json:
        print_json({"recipes": found})
    else:
        show_recipes(found, result_console())


def _own_config(overrides: Overrides) -> Path | None:
    """The settings a run was started with, where --output-dir names one."""
    from jsarag.io.run_dir import RunDir

    folders = [setting.value for setting in overrides if setting.key == "output.output_dir"]
    run_dir = RunDir(folders[-1]) if folders else None
    if run_dir is not None and run_dir.run_path.is_file():
        return run_dir.check_config()
    return run_dir.config_path if run_dir is not None and run_dir.config_path.is_file() else None


def require_no_worse(result: TrainResult) -> None:
    """Refuse to call a run fine that ended worse than it began.

    Raises:
        GuardError: it did; the run folder holds the start, and serves it, or the last state where
            that was asked for.
    """
    from jsarag.errors import GuardError

    decision = result.decision
    if decision is not None and decision.worse:
        served = "the start" if decision.kept == 0 else "that state"
        raise GuardError(
            f"{result.run_dir}: training made the retriever worse: {decision.reason}. What is "
            f"evaluated and served is {served}. Lower --learning-rate and "
            "train.generator_learning_rate, look at the evidence check (`jsarag doctor "
            f"{result.run_dir}`), or use an objective that leans on the prior (--objective rag)"
        )


def run_reported(resolved: Resolved, *, resume: bool = False, quiet: bool = False) -> TrainResult:
    """Train with this terminal's reporter."""
    from jsarag.train.run import run_training

    with make_reporter(quiet=quiet) as reporter:
        return run_training(resolved, resume=resume, reporter=reporter)


def result_record(result: TrainResult) -> dict[str, Any]:
    """A run's result as JSON types."""
    return {
        "run_dir": str(result.run_dir),
        "before": result.before,
        "after": result.after,
        "seconds": result.seconds,
        "generator_forwards": result.generator_forwards,
        "peak_bytes": result.peak_bytes,
        "kept": None if result.decision is None else asdict(result.decision),
        "steps": result.steps,
    }


def show_result(result: TrainResult) -> None:
    """Scores before and after, and where the run is."""
    from jsarag_cli.output import duration
    from jsarag_cli.scores import comparison_table

    console = result_console()
    console.print(comparison_table(result.before, result.after))
    trained = f"{result.steps:,} steps in {duration(result.seconds)}"
    console.print(f"\n{trained}; the run is in {result.run_dir}", markup=False)
