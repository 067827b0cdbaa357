"""Hits and reciprocal ranks, by hand and against ir-measures."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success

from jsarag import randomness
from jsarag.eval.retrieval import RETRIEVAL_METRICS, retrieval_depth, score_retrieval


def ranking(*first: str) -> list[str]:
    rest = [f"p{row}" for row in range(20) if f"p{row}" not in first]
    return [*first, *rest][:12]


def test_by_hand() -> None:
    ranked = [ranking("p7"), ranking("p1", "p2", "p9"), ranking("p3"), ["p0"] * 1]
    gold = [{"p7"}, {"p9", "p19"}, (), {"p5"}]
    scores = score_retrieval(ranked, gold)
    assert tuple(scores.values) == RETRIEVAL_METRICS == ("R@1", "R@5", "R@10", "MRR@10")
    assert scores.positions.tolist() == [0, 1, 3]
    assert scores.without_gold == 1
    assert scores.values["R@1"].tolist() == [1, 0, 0]
    assert scores.values["R@5"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(scores.values["MRR@10"], [1, 1 / 3, 0])
    assert scores.statistics()["MRR@10"].value == pytest.approx((1 + 1 / 3) / 3)


def test_mrr_stops_at_ten_and_further_depths_are_reported() -> None:
    ranked = [[f"p{row}" for row in range(20)]]
    scores = score_retrieval(ranked, [{"p10"}], k=20)
    assert scores.values["MRR@10"].tolist() == [0.0]
    assert scores.values["R@10"].tolist() == [0.0]
    assert scores.values["R@20"].tolist() == [1.0]
    assert retrieval_depth(3) == 10
    assert retrieval_depth(20) == 20


def test_nothing_to_score() -> None:
    scores = score_retrieval([["p0"]], [()])
    assert scores.without_gold == 1
    assert all(len(values) == 0 for values in scores.values.values())


def test_agrees_with_ir_measures() -> None:
    stream = randomness.generator(3, "ir")
    rows, passages = 60, 30
    ranked, gold = [], []
    for _ in range(rows):
        order = stream.permutation(passages)
        ranked.append([f"p{passage}" for passage in order[:12]])
        count = int(stream.integers(1, 5))
        gold.append({f"p{passage}" for passage in stream.permutation(passages)[:count]})
    scores = score_retrieval(ranked, gold)
    measures = {"R@1": Success @ 1, "R@5": Success @ 5, "R@10": Success @ 10, "MRR@10": RR @ 10}
    qrels = {str(row): dict.fromkeys(ids, 1) for row, ids in enumerate(gold)}
    run = {
        str(row): {name: float(len(ids) - place) for place, name in enumerate(ids)}
        for row, ids in enumerate(ranked)
    }
    for name, measure in measures.items():
        found = {
            int(item.query_id): item.value for item in ir_measures.iter_calc([measure], qrels, run)
        }
        np.testing.assert_allclose(scores.values[name], [found[row] for row in range(rows)])
        assert 0 < scores.values[name].mean() < 1
