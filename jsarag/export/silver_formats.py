"""Silver labels in the shapes that other trainers read.

Every export also holds :data:`LABELS`, which no shape has room for: all weights, and ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsarag.errors import DataError
from jsarag.export.silver import SPLIT, Label
from jsarag.index.interfaces import KnowledgeBaseLike
from jsarag.io.atomic import to_json, write_jsonl, write_text
from jsarag.models.prompts import passage_text
from jsarag.types import Passage

LABELS = "silver.jsonl"
# BEIR's judgements are whole numbers.
_GRADES = 100

Writer = Callable[[Sequence[Label], KnowledgeBaseLike, Path, str], int]
"""Writes labels into a folder under a data set's name; returns the rows of the main file."""


def write_labels(labels: Iterable[Label], folder: Path) -> int:
    """Write :data:`LABELS`: id, context, and every passage with its weight."""
    return write_jsonl(folder / LABELS, (_row(label) for label in labels))


def write_dpr(labels: Sequence[Label], kb: KnowledgeBaseLike, folder: Path, name: str) -> int:
    """``train.json`` of DPR's bi-encoder: positives, best first, and hard negatives."""
    rows = [
        {
            "dataset": name,
            "question": label.context,
            "answers": list(label.answers),
            "positive_ctxs": [_context(one.passage, one.weight) for one in label.positive],
            "negative_ctxs": [],
            "hard_negative_ctxs": [_context(passage, 0.0) for passage in label.negatives],
        }
        for label in labels
    ]
    write_text(folder / f"{SPLIT}.json", to_json(rows, indent=1) + "\n")
    return len(rows)


def write_tevatron(labels: Sequence[Label], kb: KnowledgeBaseLike, folder: Path, name: str) -> int:
    """``train.jsonl`` of Tevatron: a query with its positive and negative passages."""
    return write_jsonl(
        folder / f"{SPLIT}.jsonl",
        (
            {
                "query_id": label.id,
                "query": label.context,
                "positive_passages": [_document(one.passage) for one in label.positive],
                "negative_passages": [_document(passage) for passage in label.negatives],
            }
            for label in labels
        ),
    )


def write_triplets(labels: Sequence[Label], kb: KnowledgeBaseLike, folder: Path, name: str) -> int:
    """``train.jsonl`` of sentence-transformers: anchor, positive, negative.

    Each positive has a row, with one negative after the other; examples without a negative have
    none. No further column: that library would take it for an input.
    """
    return write_jsonl(
        folder / f"{SPLIT}.jsonl",
        (
            {
                "anchor": label.context,
                "positive": passage_text(one.passage),
                "negative": passage_text(label.negatives[place % len(label.negatives)]),
            }
            for label in labels
            if label.negatives
            for place, one in enumerate(label.positive)
        ),
    )


def write_beir(labels: Sequence[Label], kb: KnowledgeBaseLike, folder: Path, name: str) -> int:
    """``corpus.jsonl``, ``queries.jsonl`` and ``qrels/train.tsv``: weights as grades 1 to 100."""
    write_jsonl(
        folder / "corpus.jsonl",
        (
            {"_id": passage.id, "title": passage.title, "text": passage.text}
            for passage in (kb[row] for row in range(len(kb)))
        ),
    )
    write_jsonl(
        folder / "queries.jsonl",
        (
            {"_id": label.id, "text": label.context, "metadata": {"answers": list(label.answers)}}
            for label in labels
        ),
    )
    _require_cells(one.passage.id for label in labels for one in label.found)
    _require_cells(label.id for label in labels)
    lines = [
        f"{label.id}\t{one.passage.id}\t{max(1, round(_GRADES * one.weight))}"
        for label in labels
        for one in label.positive
    ]
    (folder / "qrels").mkdir()
    head = "query-id\tcorpus-id\tscore"
    write_text(folder / "qrels" / f"{SPLIT}.tsv", "\n".join([head, *lines]) + "\n")
    return len(lines)


WRITERS: Mapping[str, Writer] = {
    "dpr": write_dpr,
    "tevatron": write_tevatron,
    "triplets": write_triplets,
    "beir": write_beir,
}


def _require_cells(ids: Iterable[str]) -> None:
    """Refuse ids that a tab-separated table would tear apart."""
    for found in ids:
        if not found or any(sign in found for sign in "\t\r\n"):
            raise DataError(
                f"--format beir: expected ids without tabs and line breaks, found {found!r}; use "
                "another --format, or rename it"
            )


def _row(label: Label) -> dict[str, Any]:
    return {
        "id": label.id,
        "context": label.context,
        "passages": [
            {"id": one.passage.id, "weight": one.weight, "positive": place < label.positives}
            for place, one in enumerate(label.found)
        ],
        "negatives": [passage.id for passage in label.negatives],
    }


def _context(passage: Passage, weight: float) -> dict[str, Any]:
    return {
        "title": passage.title,
        "text": passage.text,
        "score": weight,
        "title_score": 0,
        "passage_id": passage.id,
    }


def _document(passage: Passage) -> dict[str, str]:
    return {"docid": passage.id, "title": passage.title, "text": passage.text}
