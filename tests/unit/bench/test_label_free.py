"""The label-free measure is put beside R@1 state by state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jsarag.errors import DataError
from jsarag.io.run_dir import RunDir
from jsarag_bench.end_to_end.label_free import label_free_table, read_points, spearman


def run_with(folder: Path, *rows: dict[str, Any]) -> RunDir:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunDir(folder)


def watch(step: int, value: float, measure: str = "likelihood") -> dict[str, Any]:
    return {"kind": "watch", "step": step, "measure": measure, "value": value}


def scored(step: int, first: float) -> dict[str, Any]:
    return {
        "kind": "eval",
        "step": step,
        "retrieval": {"prior": {"R@1": first, "MRR@10": first + 0.1}},
    }


def test_states_with_both_measures_are_paired(tmp_path: Path) -> None:
    run = run_with(
        tmp_path / "run",
        *(scored(0, 0.1), watch(0, -9.0), watch(7, -7.0), scored(7, 0.4), watch(8, -6.0)),
        *(watch(14, -8.0), scored(14, 0.3), scored(14, 0.45)),
    )
    points = read_points(run)
    assert [point["step"] for point in points] == [0, 7, 14]
    # The evaluation at the end is of the kept state; the one of step 14 came first.
    assert [point["R@1"] for point in points] == [0.1, 0.4, 0.3]
    assert [point["likelihood"] for point in points] == [-9.0, -7.0, -8.0]
    gold = run_with(tmp_path / "gold", scored(0, 0.1), watch(0, 0.2, "gold"))
    with pytest.raises(DataError, match=r"train\.watch=likelihood"):
        read_points(gold)


def test_rank_correlation_shares_the_ranks_of_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    one, other = [1.0, 2.0, 2.0, 5.0, 4.0], [0.1, 0.4, 0.3, 0.3, 0.9]
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert spearman(one, [-value for value in one]) == pytest.approx(-1)


def test_the_table_has_a_column_a_state() -> None:
    points = [
        {"step": step, "likelihood": -9.0 + step, "R@1": 0.1 * step, "MRR@10": 0.2 * step}
        for step in (0, 7, 14)
    ]
    row = {"dataset": "demo", "objective": "jsa", "generator": "copy", "learning_rate": 1e-4}
    shown = label_free_table([{**row, "points": points, "spearman": {"R@1": 1.0, "MRR@10": 0.5}}])
    assert "R@1 1.00, MRR@10 0.50" in shown
    assert "| after step | 0 | 7 | 14 |" in shown
    assert "learning rate 0.0001" in shown
