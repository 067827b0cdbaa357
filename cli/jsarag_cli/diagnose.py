"""``jsarag diagnose``: how a run's E-step went, what each estimator errs, which questions fail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli.output import print_json
from jsarag_cli.progress import make_reporter


def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    rows: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Training rows to score; 0: read the log alone."),
    ] = 32,
    checkpoint: Annotated[
        str,
        typer.Option(metavar="last|untrained", help="The state the run serves, or its start."),
    ] = "last",
    sweep: Annotated[
        list[str],
        typer.Option(metavar="NAME=A,B,...", help="mis-steps=1,2,4 or k=2,4,8; repeatable."),
    ] = [],  # noqa: B006 - typer copies it
    top: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Each retriever's passages that exact enumerates."),
    ] = 32,
    visits: Annotated[
        int, typer.Option(min=2, metavar="N", help="How often each estimator is replayed.")
    ] = 200,
    failures: Annotated[
        bool, typer.Option("--failures", help="Only the questions retrieval fails on.")
    ] = False,
    most: Annotated[
        int, typer.Option(min=1, metavar="N", help="Questions shown with --failures.")
    ] = 10,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: the run's own.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Show a run's E-step over training, its estimators' errors, and its failures."""
    from jsarag_cli.diagnosing import look_at, look_at_failures, show, show_failures

    if failures:
        found = look_at_failures(run)
        if json:
            print_json(found.to_json())
        else:
            show_failures(found, most)
        return
    with make_reporter(quiet=quiet) as reporter:
        found, page = look_at(
            run,
            sweep,
            reporter,
            rows=rows,
            checkpoint=checkpoint,
            top=top,
            visits=visits,
            device=device,
        )
    if json:
        print_json(found.to_json())
    else:
        show(found, page)
