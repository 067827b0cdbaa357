"""``jsarag export``: parts of a run for the tools people already use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli.output import note, print_json, result_console
from jsarag_cli.progress import make_reporter


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write.")],
    to: Annotated[
        str, typer.Option(metavar="TOOL", help="sentence-transformers, hf, or silver (labels).")
    ],
    part: Annotated[
        str | None,
        typer.Option(help="prior, posterior, passages or generator; default: all TOOL reads."),
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="hf: a PEFT adapter instead of merged weights.")
    ] = False,
    format: Annotated[
        str | None, typer.Option(help="silver: dpr, tevatron, triplets or beir.")
    ] = None,
    k: Annotated[
        int, typer.Option(metavar="N", min=1, help="silver: the posterior's passages weighed.")
    ] = 10,
    min_weight: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="silver: least weight of a positive.")
    ] = 0.1,
    negatives: Annotated[
        int, typer.Option(metavar="N", min=0, help="silver: most negatives of an example.")
    ] = 5,
    verify: Annotated[
        bool, typer.Option("--verify", help="Load it in that tool and compare; 1 if it differs.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: the run's own.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Write a run's encoders, generator or labels for other tools, with model cards."""
    from jsarag.errors import ExportMismatchError
    from jsarag.export.request import Request
    from jsarag_cli.exporting import check_table, export_run

    request = Request(
        to, part, adapter, format, k, min_weight, negatives, verify=verify, force=force
    )
    try:
        with make_reporter(quiet=quiet) as reporter:
            done = export_run(run, dest, request, device=device, reporter=reporter)
    except ExportMismatchError as error:
        if json:
            print_json({"export": None, "to": to, "verified": False, "checks": list(error.checks)})
        else:
            result_console().print(check_table(error.checks))
        raise
    result = done.to_json()
    for text in done.notes:
        note(text)
    if json:
        print_json(result)
        return
    console = result_console()
    if done.checks is not None:
        console.print(check_table(result["checks"]))
    console.print(f"{dest}: {', '.join(done.parts)}", markup=False, soft_wrap=True)
