"""TREC files: what tools that sort by score make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jsarag.errors import DataError
from jsarag.eval.evaluate import Evaluation
from jsarag.eval.trec import write_trec


def evaluation(row: str, scores: dict[str, float], gold: list[str]) -> Evaluation:
    """One row's ranking by the prior alone."""
    passages: list[dict[str, Any]] = [
        {"id": name, "score": score, "rank": rank}
        for rank, (name, score) in enumerate(scores.items(), start=1)
    ]
    row_json = {"id": row, "passages": passages, "gold_passages": gold}
    return Evaluation({}, None, "", [row_json])


def test_equal_scores_keep_their_order_in_32_bits(tmp_path: Path) -> None:
    found = evaluation("q", {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.25}, ["a"])
    ranking, qrels = write_trec(found, tmp_path)
    assert [path.name for path in (ranking, qrels)] == ["run.prior.txt", "qrels.txt"]
    lines = [line.split() for line in ranking.read_text(encoding="utf-8").splitlines()]
    assert [line[:4] for line in lines] == [
        ["q", "Q0", name, str(rank)] for rank, name in enumerate("abcd", start=1)
    ]
    ir_measures = pytest.importorskip("ir_measures")
    read = ir_measures.read_trec_run(str(ranking)), ir_measures.read_trec_qrels(str(qrels))
    measure = ir_measures.parse_measure("RR@10")
    # Ties would be broken by descending id, 'c' first.
    assert ir_measures.calc_aggregate([measure], list(read[1]), list(read[0]))[measure] == 1.0
    assert len({line[4] for line in lines}) == 4
    assert float(lines[3][4]) == 0.25


def test_rows_without_gold_are_in_no_qrels(tmp_path: Path) -> None:
    _, qrels = write_trec(evaluation("q", {"a": 1.0}, []), tmp_path)
    assert qrels.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("name", ["two words", "", "a\u00a0b"])
def test_ids_that_would_tear_columns_apart_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="white space"):
        write_trec(evaluation(name, {"a": 1.0}, ["a"]), tmp_path)
