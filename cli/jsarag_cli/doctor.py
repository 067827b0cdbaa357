"""``jsarag doctor``: what this machine and installation offer, and what ails a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli.output import print_json, result_console


def doctor(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run folder to examine.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check the installation; with a run, read its log and say what to change."""
    from jsarag_cli.diagnosis import examine_machine, examine_run, show_machine, show_run

    report = examine_machine()
    if run is not None:
        report["run"] = examine_run(run)
    if json:
        print_json(report)
        return
    console = result_console()
    show_machine(report, console)
    if run is not None:
        console.print()
        show_run(report["run"], console)
