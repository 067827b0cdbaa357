"""The ``data / paragraphs / qas`` shape that SQuAD, QuAC and DoQA share; no format by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jsarag.data.formats.base import CANNOT_ANSWER, Node, distinct, json_document


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a paragraph: its id and text, the answers, and whether it has none."""

    id: str
    question: str
    answers: tuple[str, ...]
    impossible: bool


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A title, a context without QuAC's closing CANNOTANSWER, and the questions in order."""

    title: str
    context: str
    asked: tuple[Asked, ...]
    where: Node


def paragraphs(path: Path) -> Iterator[Paragraph]:
    """Every paragraph of a file, in order."""
    for article in json_document(path)["data"].items():
        title = article.optional("title").replace("_", " ").strip()
        for paragraph in article["paragraphs"].items():
            context = paragraph["context"].text().strip()
            context = context.removesuffix(CANNOT_ANSWER).strip()
            asked = tuple(_asked(node) for node in paragraph["qas"].items())
            yield Paragraph(title, context, asked, paragraph)


def _asked(node: Node) -> Asked:
    answers = node.get("answers")
    texts = [] if answers is None else [answer["text"].text() for answer in answers.items()]
    impossible = node.get("is_impossible")
    return Asked(
        id=node["id"].identity(),
        question=node["question"].text().strip(),
        answers=distinct(texts),
        impossible=impossible is not None and impossible.value is True,
    )
