"""``jsarag compare``: several objectives or settings on the same data, or finished runs.

Parses and prints; what is run and how it is summed up is ``jsarag.study``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N|A,B,...", help="How many, or which; default: 1, or the study's."),
    ] = None,
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
    tune: Annotated[
        list[str],
        typer.Option(
            "--tune",
            metavar="KEY=A,B,...",
            help="Try every arm with these values first, on rows held back from training.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Data set, arms, seeds and settings in YAML; flags for seeds, budget, settings, "
            "--tune and --against go before it, --arm adds to it.",
        ),
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
    from jsarag.study.arms import read_study
    from jsarag_cli.comparing import compare_runs, run_and_summarise, show_runs, show_summary

    not_with_study: dict[str, object] = {
        "--dataset": dataset,
        "--recipe": recipe,
        "--arms": arms,
    }
    if runs:
        given = not_with_study | {"--arm": arm, "--seeds": seeds, "--budget": budget}
        given |= {"--against": against, "--tune": tune, "--study": study, "--data-root": data_root}
        given |= {"--output-dir": output_dir, "--results": results, "settings": overrides}
        _refuse("RUN ...", "finished runs are compared as they are", given)
        found = compare_runs(runs)
        if json:
            print_json(found)
        else:
            show_runs(found)
        return
    if study is not None:
        reason = "the file names data set, recipe and arms; --arm adds to them"
        _refuse("--study", reason, not_with_study)
        chosen = read_study(study, data_root)
    elif dataset is not None:
        _refuse("--dataset", "it is a study's", {"--data-root": data_root})
        chosen = _from_flags(dataset, recipe, arms)
    else:
        raise ConfigError(
            "compare: expected run folders, --study FILE, or --dataset with --arms; such as "
            "`jsarag compare --dataset demo --arms jsa,rag --budget steps=20`"
        )
    chosen = _with_flags(chosen, arm, seeds, budget, against, tune, overrides)
    folder = output_dir or Path("runs") / f"compare-{chosen.name}"
    with make_reporter(quiet=quiet) as reporter:
        summary = run_and_summarise(chosen, folder, reporter, results)
    if json:
        print_json(summary.to_json())
    else:
        show_summary(chosen, summary, folder)


def _refuse(what: str, reason: str, given: Mapping[str, object]) -> None:
    """Refuse flags that would be ignored.

    Raises:
        ConfigError: one was given.
    """
    from jsarag.errors import ConfigError

    for name, value in given.items():
        if value:
            raise ConfigError(f"compare {what}: expected no {name}, {reason}; leave it out")


def _from_flags(dataset: str, recipe: str | None, arms: str) -> Study:
    from jsarag.study.arms import Study, objective_arm

    names = [name.strip() for name in arms.split(",") if name.strip()]
    folder = Path(dataset).expanduser()
    return Study(
        name=folder.name,
        dataset=str(folder.resolve()) if folder.is_dir() else dataset,
        recipe=recipe,
        seeds=[1],
        arms=[objective_arm(name) for name in names],
        against=[],
    )


def _with_flags(
    study: Study,
    arm: list[str],
    seeds: str | None,
    budget: str,
    against: list[str],
    tune: list[str],
    overrides: Overrides,
) -> Study:
    """The study with what flags say of it, checked."""
    from dataclasses import replace

    from jsarag.study.arms import (
        FROZEN,
        parse_arm,
        parse_budget,
        parse_seeds,
        parse_tune,
        setting_text,
    )

    arms = [*study.arms, *map(parse_arm, arm)]
    common = {**study.common}
    common |= {setting.key: setting_text(setting.value) for setting in overrides}
    common |= parse_budget(budget) if budget else {}
    return replace(
        study,
        seeds=study.seeds if seeds is None else parse_seeds(seeds),
        arms=arms,
        common=common,
        tune=parse_tune(tune) if tune else study.tune,
        against=against or study.against or [FROZEN, *(found.name for found in arms[:1])],
    ).check()
