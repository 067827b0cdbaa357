"""``jsarag eval``: score a run on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli.output import note, note_choice, print_json, result_console
from jsarag_cli.progress import make_reporter, staged
from jsarag_cli.settings import EVAL_FLAGS, Overrides, with_settings


@with_settings(EVAL_FLAGS)
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    split: Annotated[
        str | None, typer.Option(help="train, dev or test; default: the run's own eval.split.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Score the parts as they were before training.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Where metrics.json and predictions.jsonl go; default: eval/ in RUN."),
    ] = None,
    trec: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write TREC's run.PART.txt and qrels.txt there."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Search as `serve-index --engine` does: exact, certified, faiss:FACTORY.",
        ),
    ] = "exact",
    show_failures: Annotated[
        bool,
        typer.Option(
            "--show-failures", help="Also print the questions whose first passage is not gold."
        ),
    ] = False,
    most: Annotated[
        int, typer.Option(min=1, metavar="N", help="Questions shown with --show-failures.")
    ] = 20,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: the run's own.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    *,
    overrides: Overrides,
) -> None:
    """Score a run: retrieval of prior and posterior, and the responses."""
    from jsarag.eval.evaluate import PREDICTIONS_FILE, write
    from jsarag.index.engines import check_engine
    from jsarag.runs import open_run
    from jsarag.train.evaluation import evaluate_run

    check_engine(engine)
    with make_reporter(quiet=quiet) as reporter:
        reporter.stage("open run", None)
        opened = open_run(run, untrained=untrained, split=split, device=device, overrides=overrides)
        note_choice(opened)
        evaluation = evaluate_run(opened, split, engine=engine, progress=staged(reporter))
    name = (split or opened.config.eval.split) + ("-untrained" if untrained else "")
    folder = output or opened.run_dir.eval_path(name)
    write(evaluation, folder)
    if trec is not None:
        from jsarag.eval.trec import write_trec

        write_trec(evaluation, trec)
    result = evaluation.to_json()
    if json:
        if show_failures:
            from jsarag_cli.failures import failures_of

            result["failures"] = failures_of(evaluation.predictions)
        print_json(result)
        return
    from jsarag_cli.scores import evaluation_table

    console = result_console()
    console.print(evaluation_table(result))
    for text in result["notes"]:
        note(text)
    if show_failures:
        from jsarag_cli.failures import failures_of, print_failures

        print_failures(failures_of(evaluation.predictions), most, console)
    console.print(f"\npredictions: {folder / PREDICTIONS_FILE}", markup=False, soft_wrap=True)
    console.print(result["signature"], style="dim", markup=False, soft_wrap=True)
