"""``jsarag ask``: one answer of a run, with the passages it stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli.output import print_json, result_console


def ask(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    question: Annotated[str, typer.Argument(help="What to ask; the last turn of a dialogue.")],
    history: Annotated[
        list[str],
        typer.Option(
            metavar="TEXT",
            help="An earlier turn, oldest first; repeatable. Or one JSON list as in training rows.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    k: Annotated[int, typer.Option(metavar="N", min=1, help="Passages to retrieve.")] = 3,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Length of the answer.")
    ] = None,
    generator: Annotated[
        str,
        typer.Option(
            metavar="auto|run|NAME",
            help="Who answers. auto: the run's generator if it is a language model, else smollm2 "
            "where it is installed; run: the run's; or smollm2, a folder, a hub id.",
        ),
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: the run's own.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Answer a question from the run's knowledge base."""
    from jsarag_cli.answering import answer_question, show_answer

    answer = answer_question(
        run,
        question,
        history,
        k=k,
        max_new_tokens=max_new_tokens,
        generator=generator,
        device=device,
    )
    if json:
        print_json(answer)
    else:
        show_answer(answer, result_console())
