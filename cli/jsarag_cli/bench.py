"""``jsarag bench``: the kernels against the best public rivals, and whole training steps.

``bench`` and ``bench CASE ...`` time kernels; ``bench train-step`` times training steps.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jsarag_cli.output import print_json, result_console
from jsarag_cli.progress import make_reporter
from jsarag_cli.settings import STEP_FLAGS, Overrides, with_settings

_KERNELS = "kernels"


class _KernelsByDefault(TyperGroup):
    """What is not the name of a subcommand is the name of a kernel's case."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        if not args or args[0].replace("_", "-") not in known:
            args = [_KERNELS, *args]
        args[0] = args[0].replace("_", "-")
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_KernelsByDefault,
    help="Time the kernels (default) or whole training steps, each beside its rivals.",
)


@app.command(_KERNELS)
def kernels(
    cases: Annotated[
        list[str], typer.Argument(metavar="CASE", help="Named shapes; default: the quick ones.")
    ] = [],  # noqa: B006 - typer copies it
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    full: Annotated[
        bool, typer.Option("--full", help="Every case; slow rivals, too (half an hour).")
    ] = False,
    repetitions: Annotated[
        int | None, typer.Option(metavar="N", min=3, help="Timed runs of each; default: 30.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of everybody; default: all usable cores."),
    ] = None,
    peers: Annotated[bool, typer.Option(help="Time the rivals that are installed, too.")] = True,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Check every kernel against the reference, then time it."""
    from jsarag_cli.benching import run_cases, show_result

    with make_reporter(quiet=quiet) as reporter:
        result = run_cases(
            cases,
            reporter,
            device=device,
            full=full,
            repetitions=repetitions,
            threads=threads,
            peers=peers,
        )
    if json:
        print_json(result)
    else:
        show_result(result, result_console())


@app.command("train-step")
@with_settings(STEP_FLAGS)
def train_step(
    dataset: Annotated[
        str | None,
        typer.Option(help="A recipe's data set, or a folder with kb.jsonl and train.jsonl."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A shipped recipe to start from.")] = None,
    objectives: Annotated[
        str, typer.Option(metavar="NAME,...", help="One arm each; the first is compared.")
    ] = "jsa,rag",
    arm: Annotated[
        list[str],
        typer.Option(
            "--arm",
            metavar="'NAME: GROUP.KEY=VALUE ...'",
            help="A further arm with settings of its own; repeatable.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Timed steps of each arm.")] = 5,
    append: Annotated[
        bool, typer.Option("--append", help="Keep a row in benchmarks/results.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    *,
    overrides: Overrides,
) -> None:
    """Time training steps of several objectives by turns: seconds, memory, stations, ratios."""
    from jsarag_cli.benching import run_train_steps, show_train_steps

    with make_reporter(quiet=quiet) as reporter:
        result = run_train_steps(
            [name.strip() for name in objectives.split(",") if name.strip()],
            arm,
            reporter,
            append=append,
            dataset=dataset,
            recipe=recipe,
            overrides=overrides,
            steps=steps,
        )
    if json:
        print_json(result)
    else:
        show_train_steps(result, result_console())
