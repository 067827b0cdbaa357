"""What needs no training to compare with: BM25 over the same passages and questions.

Uses the package ``bm25s``; its scores are as they come (Lucene's variant, English stop words off,
words as its tokeniser finds them).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from jsarag.data.registry import Dataset
from jsarag.eval.retrieval import retrieval_depth, score_retrieval
from jsarag.models.prompts import passage_text, render_context
from jsarag.study.arms import BM25, BM25_RESPONSE
from jsarag.types import Example


def has_bm25() -> bool:
    """Whether bm25s is installed (extra ``eval``)."""
    return importlib.util.find_spec("bm25s") is not None


def bm25_predictions(
    dataset: Dataset, split: str, *, context_turns: int, posterior_turns: int
) -> dict[str, list[dict[str, Any]]]:
    """BM25 on what each retriever reads, as rows of an evaluation's predictions.

    Args:
        dataset: whose passages are indexed.
        split: whose examples are asked.
        context_turns: turns the prior reads: ``bm25`` gets those.
        posterior_turns: turns the posterior reads: ``bm25-with-response`` gets those and the
            response.

    Returns:
        Reference's name -> rows with id, dialogue_id and metrics: ``bm25`` under ``prior``,
        ``bm25-with-response``, which has read the response, under ``posterior``.
    """
    import bm25s

    examples = dataset.splits[split]
    kb = dataset.kb
    retriever = bm25s.BM25()
    texts = [passage_text(kb[row]) for row in range(len(kb))]
    retriever.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
    queries = {
        BM25: [render_context(example, context_turns) for example in examples],
        BM25_RESPONSE: [
            f"{render_context(example, posterior_turns)} {example.response}" for example in examples
        ],
    }
    depth = min(retrieval_depth(1), len(kb))
    found: dict[str, list[dict[str, Any]]] = {}
    for name, asked in queries.items():
        tokens = bm25s.tokenize(asked, stopwords=None, show_progress=False)
        rows, _ = retriever.retrieve(tokens, k=depth, show_progress=False)
        ranked = [[kb[int(row)].id for row in line] for line in rows]
        found[name] = _rows(examples, ranked, "prior" if name == BM25 else "posterior")
    return found


def _rows(
    examples: Sequence[Example], ranked: Sequence[Sequence[str]], part: str
) -> list[dict[str, Any]]:
    scores = score_retrieval(ranked, [example.gold_passages for example in examples])
    metrics: list[dict[str, float] | None] = [None] * len(examples)
    for place, position in enumerate(scores.positions.tolist()):
        metrics[position] = {name: float(v[place]) for name, v in scores.values.items()}
    return [
        {"id": example.id, "dialogue_id": example.dialogue_id, "metrics": {part: scored}}
        for example, scored in zip(examples, metrics, strict=True)
    ]
