"""One question to a run: retrieve, choose who answers, decode, show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from jsarag_cli.output import note_choice, note_conversions

if TYPE_CHECKING:
    from jsarag.models.generator import Generator
    from jsarag.runs import OpenRun
    from jsarag.types import Example

_SPEAKERS = ("user", "system")
_SHOWN_CHARACTERS = 600


def answer_question(
    run: Path,
    question: str,
    history: Sequence[str],
    *,
    k: int,
    max_new_tokens: int | None,
    generator: str = "auto",
    device: str | None,
) -> dict[str, Any]:
    """Answer from a run's knowledge base.

    Args:
        run: the run folder.
        question: the question, or the last turn of a dialogue.
        history: earlier turns (:func:`make_example`).
        k: passages to retrieve; the run's own decoding reads as many of them as it is set to.
        max_new_tokens: None takes the run's.
        generator: who answers (:func:`choose_generator`).
        device: None takes the run's.

    Returns:
        ``question``, ``answer``, ``generator``, ``trained_here`` (whether the run's own generator
        answered), ``logp``, ``decoding``, and ``passages``, each with ``id``, ``title``, ``text``,
        ``rank``, ``score`` and ``probability``, which is p(h|x) among those retrieved.
    """
    import torch

    from jsarag.eval.decoding import Grounding, decode
    from jsarag.models.prompts import render_context
    from jsarag.runs import open_run

    example = make_example(question, history)
    opened = open_run(run, device=device)
    note_choice(opened)
    data, evaluation = opened.config.data, opened.config.eval
    parts = opened.parts
    depth = max(k, evaluation.decoding_passages)
    with torch.no_grad():
        queries = parts.retrievers.encode_contexts([example], data.context_turns)
        found = parts.prior_index.search(queries, depth)
    rows = [row for row in found.ids[0].tolist() if row >= 0]
    scores = found.scores[0, : len(rows)].cpu()
    logp = (scores / parts.retrievers.temperature).log_softmax(dim=0)
    passages = [parts.dataset.kb[row] for row in rows]
    read = min(evaluation.decoding_passages, len(rows))
    grounding = Grounding(
        render_context(example, data.generator_turns),
        tuple(passages[:read]),
        (scores[:read] / parts.retrievers.temperature).log_softmax(dim=0),
    )
    answering = choose_generator(opened, generator)
    [decoded] = decode(
        answering,
        [grounding],
        evaluation.decoding,
        max_new_tokens=max_new_tokens or evaluation.max_new_tokens,
    )
    return {
        "question": question,
        "answer": decoded.text,
        "generator": answering.name,
        "trained_here": answering is parts.generator,
        "logp": decoded.logp,
        "decoding": evaluation.decoding,
        "passages": [
            {
                "id": passage.id,
                "title": passage.title,
                "text": passage.text,
                "rank": rank,
                "score": float(scores[rank - 1]),
                "probability": float(logp[rank - 1].exp()),
            }
            for rank, passage in enumerate(passages[:k], start=1)
        ],
    }


def choose_generator(opened: OpenRun, wanted: str) -> Generator:
    """The generator that answers.

    Args:
        opened: the run.
        wanted: 'run' for the run's own; 'auto' for the run's own where it is a language model, else
            the packaged one where that is installed (a generator made for training on little
            answers poorly); or a language model's name, which answers untrained, asked through its
            chat template where it has one.

    Raises:
        ConfigError: a generator that needs a run's training is asked for.
        BackendUnavailableError: the model is not there.
    """
    from jsarag.errors import ConfigError
    from jsarag.models.chat import CHAT
    from jsarag.models.gguf import can_convert
    from jsarag.models.hub import has_chat_template
    from jsarag.models.load_generator import OFFLINE, load_generator
    from jsarag.models.packaged import PACKAGED, SMOLLM2

    settings = opened.config.generator
    if wanted == "auto":
        there = PACKAGED[SMOLLM2].find() is not None and can_convert()
        wanted = SMOLLM2 if settings.model in OFFLINE and there else "run"
    if wanted == "run":
        return opened.parts.generator
    if wanted in OFFLINE:
        raise ConfigError(
            f"--generator: expected auto, run, or a language model, found '{wanted}', which "
            "answers only as a run trained it; use --generator run with a run that has it"
        )
    note_conversions(wanted)
    generator = load_generator(
        wanted,
        template=CHAT if has_chat_template(wanted) else settings.template,
        max_context_tokens=settings.max_context_tokens,
        max_passage_tokens=settings.max_passage_tokens,
        max_response_tokens=settings.max_response_tokens,
        attention=settings.attention,
        bf16=bool(opened.config.train.bf16),
    )
    return generator.to(opened.parts.device).eval()


def make_example(question: str, history: Sequence[str]) -> Example:
    """The example a question stands for.

    Args:
        question: alone, or the last turn of a dialogue.
        history: earlier turns, oldest first, in turn by system and user so that the question is
            the user's; or one JSON list of ``{"speaker", "text"}`` as in training rows.

    Raises:
        ConfigError: the JSON list is malformed.
    """
    from jsarag.types import Example, Turn

    if not history:
        return Example("question", ("",), question=question)
    if len(history) == 1 and history[0].lstrip().startswith("["):
        turns = _turns_of(history[0])
    else:
        count = len(history)
        turns = [Turn(_SPEAKERS[(count - place) % 2], text) for place, text in enumerate(history)]
    speaker = turns[-2].speaker if len(turns) > 1 else _SPEAKERS[0]
    return Example("question", ("",), history=(*turns, Turn(speaker, question)))


def _turns_of(text: str) -> list[Any]:
    from jsarag.errors import ConfigError
    from jsarag.types import Turn

    try:
        return [Turn(str(turn["speaker"]), str(turn["text"])) for turn in json.loads(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            '--history: expected turns, or one JSON list of {"speaker": ..., "text": ...}; '
            f"found a list that does not read ({error!r})"
        ) from error


def show_answer(answer: dict[str, Any], console: Console) -> None:
    """The answer in a panel, its passages below."""
    text = Text(answer["answer"] or "(no answer)", style="" if answer["answer"] else "dim")
    name = answer["generator"]
    source = f"the run's {name}" if answer["trained_here"] else f"{name}, not trained on this"
    console.print(
        Panel(
            text,
            title=Text(answer["question"]),
            title_align="left",
            subtitle=Text(f"answered by {source}", style="dim"),
            subtitle_align="right",
        )
    )
    for passage in answer["passages"]:
        head = Text.assemble(
            (f"{passage['rank']}. ", "dim"),
            (passage["title"] or passage["id"], "bold"),
            (f"  {passage['id']}" if passage["title"] else "", "dim"),
            (f"  p {passage['probability']:.2f}  score {passage['score']:.3f}", "cyan"),
        )
        body = passage["text"]
        if len(body) > _SHOWN_CHARACTERS:
            body = f"{body[:_SHOWN_CHARACTERS].rsplit(' ', 1)[0]} ..."
        console.print(head)
        console.print(Text(body), style="", markup=False)
        console.print()
