"""``jsarag compare``: several objectives or settings on the same data, or finished runs.

Parses and prints; what is run and how it is summed up is ``jsarag.study``'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jsarag_cli.output import print_json
from jsarag_cli.progress import make_reporter
from jsarag_cli.settings import COMPARE_FLAGS, Overrides, with_settings

if TYPE_CHECKING:
    from jsarag.study.arms import Study


@with_settings(COMPARE_FLAGS)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Finished runs, compared with the first of them."),
    ] = [],  # noqa: B006 - typer copies it
    dataset: Annotated[
        str | None,
        typer.Option(help="A recipe's data set, or a folder with kb.jsonl and train.jsonl."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A shipped recipe to start from.")] = None,
    arms: Annotated[str, typer.Option(metavar="NAME,...", help="Objectives, an arm each.")] = "",
    arm: Annotated[
        list[str],
        typer.Option(
            "--arm",
            metavar="'NAME: GROUP.KEY=VALUE ...'",
            help="A further arm with settings of its own; repeatable.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    seeds: Annotated[str, typer.Option(metavar="N|A,B,...", help="How many, or which.")] = "1",
    budget: Annotated[
        str,
        typer.Option(metavar="WHAT=N", help="steps=N, seconds=N or generator-forwards=N an arm."),
    ] = "",
    against: Annotated[
        list[str],
        typer.Option(
            metavar="ARM", help="Compare every arm with it; default: the first arm and the start."
        ),
    ] = [],  # noqa: B006 - typer copies it
    study: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Arms, seeds and settings in YAML.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder that holds the data sets a study names.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Where runs and results go; a second start goes on there.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the rows to this JSONL file, too.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    *,
    overrides: Overrides,
) -> None:
    """Train several arms on the same data and say with intervals which is better."""
    from jsarag.errors import ConfigError
    from jsarag_cli.comparing import compare_runs, run_and_summarise, show_runs, show_summary

    if runs:
        found = compare_runs(runs)
        if json:
            print_json(found)
        else:
            show_runs(found)
        return
    if study is None and dataset is None:
        raise ConfigError(
            "compare: expected run folders, --study FILE, or --dataset with --arms; such as "
            "`jsarag compare --dataset demo --arms jsa,rag --budget steps=20`"
        )
    chosen = (
        _from_file(study, data_root)
        if study is not None
        else _from_flags(dataset or "", recipe, arms, arm, seeds, budget, against, overrides)
    )
    folder = output_dir or Path("runs") / f"compare-{chosen.name}"
    with make_reporter(quiet=quiet) as reporter:
        summary = run_and_summarise(chosen, folder, reporter, results)
    if json:
        print_json(summary.to_json())
    else:
        show_summary(chosen, summary, folder)


def _from_file(path: Path, data_root: Path | None) -> Study:
    from dataclasses import replace

    from jsarag.study.arms import read_study

    study = read_study(path)
    inside = data_root / study.dataset if data_root is not None else None
    if inside is None or not inside.is_dir():
        return study
    return replace(study, dataset=str(inside.resolve()))


def _from_flags(
    dataset: str,
    recipe: str | None,
    arms: str,
    arm: list[str],
    seeds: str,
    budget: str,
    against: list[str],
    overrides: Overrides,
) -> Study:
    from jsarag.study.arms import (
        FROZEN,
        Study,
        objective_arm,
        parse_arm,
        parse_budget,
        parse_seeds,
        setting_text,
    )

    names = [name.strip() for name in arms.split(",") if name.strip()]
    chosen = [*map(objective_arm, names), *map(parse_arm, arm)]
    common = {setting.key: setting_text(setting.value) for setting in overrides}
    folder = Path(dataset).expanduser()
    return Study(
        name=folder.name,
        dataset=str(folder.resolve()) if folder.is_dir() else dataset,
        recipe=recipe,
        seeds=parse_seeds(seeds),
        arms=chosen,
        common=common | (parse_budget(budget) if budget else {}),
        against=against or [FROZEN, *(found.name for found in chosen[:1])],
    ).check()
