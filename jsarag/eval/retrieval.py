"""How high the gold passages rank: R@k and MRR@10, row by row.

Scored on rows that name gold passages; the others are counted. Searching is the index's business,
averaging and intervals are ``significance``'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jsarag.eval.significance import FloatArray, IntArray, Statistic, mean_statistic

RECALL_DEPTHS = (1, 5, 10)
MRR_DEPTH = 10
RETRIEVAL_METRICS = (*(f"R@{k}" for k in RECALL_DEPTHS), f"MRR@{MRR_DEPTH}")


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """One number per metric and row with gold.

    Attributes:
        positions: int64 [n], which of the given rows were scored, ascending.
        values: metric -> f64 [n] in [0, 1].
        without_gold: how many rows name no gold passage and were left out.
    """

    positions: IntArray
    values: Mapping[str, FloatArray]
    without_gold: int

    def statistics(self) -> dict[str, Statistic]:
        """Each metric as a mean over the scored rows."""
        return {name: mean_statistic(values) for name, values in self.values.items()}


def retrieval_depth(k: int) -> int:
    """How many passages must be searched for the metrics and the ``k`` asked for."""
    return max(k, MRR_DEPTH, *RECALL_DEPTHS)


def score_retrieval(
    ranked: Sequence[Sequence[str]], gold: Sequence[Collection[str]], *, k: int = MRR_DEPTH
) -> RetrievalScores:
    """Score rankings against gold passages.

    A hit is *any* gold passage among the first k; the reciprocal rank is that of the first one.

    Args:
        ranked: passage ids of each row, best first, at least :func:`retrieval_depth` of them
            where the knowledge base has as many.
        gold: gold passage ids of each row; empty where unknown.
        k: a further depth to report as ``R@k``.
    """
    positions = [row for row, ids in enumerate(gold) if ids]
    firsts = np.array([first_rank(ranked[row], gold[row]) for row in positions], dtype=np.float64)
    depths = sorted({*RECALL_DEPTHS, k})
    values: dict[str, FloatArray] = {
        f"R@{depth}": (firsts <= depth).astype(np.float64) for depth in depths
    }
    values[f"MRR@{MRR_DEPTH}"] = np.where(firsts <= MRR_DEPTH, 1.0 / firsts, 0.0)
    return RetrievalScores(np.array(positions, dtype=np.int64), values, len(gold) - len(positions))


def first_rank(ranked: Sequence[str], gold: Collection[str]) -> float:
    """1-based rank of the first gold passage, infinity where none is ranked."""
    wanted = frozenset(gold)
    return next(
        (float(rank) for rank, passage in enumerate(ranked, start=1) if passage in wanted), np.inf
    )
