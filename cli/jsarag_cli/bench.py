"""``jsarag bench``: time the kernels against the reference and the best public rivals."""

from __future__ import annotations

from typing import Annotated

import typer

from jsarag_cli.output import print_json, result_console
from jsarag_cli.progress import make_reporter


def bench(
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
