"""What needs no training to compare with: BM25 over the same passages and questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsarag.data.registry import Dataset
from jsarag.eval.retrieval import retrieval_depth, score_retrieval
from jsarag.index.bm25 import Bm25Index
from jsarag.models.prompts import passage_text, render_context
from jsarag.study.arms import BM25, BM25_RESPONSE
from jsarag.types import Example


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

    Raises:
        BackendUnavailableError: bm25s is not installed.
    """
    examples, kb = dataset.splits[split], dataset.kb
    index = Bm25Index([passage_text(passage) for passage in kb])
    queries = {
        BM25: [render_context(example, context_turns) for example in examples],
        BM25_RESPONSE: [
            f"{render_context(example, posterior_turns)} {example.response}" for example in examples
        ],
    }
    depth = min(retrieval_depth(1), len(kb))
    found: dict[str, list[dict[str, Any]]] = {}
    for name, asked in queries.items():
        rows = index.search(asked, depth).tolist()
        ranked = [[kb[row].id for row in line] for line in rows]
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
