"""Means, differences and intervals against cases that can be done by hand; page and picture."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jsarag.errors import DataError
from jsarag.eval.generation import bleu_counts, bleu_reducer, has_bleu
from jsarag.study.arms import Arm, Study
from jsarag.study.page import PAGE_FILE, differences_svg, write_page
from jsarag.study.picture import hue_of, write_picture
from jsarag.study.summary import (
    BLEU,
    ArmDifference,
    Summary,
    comparison_rows,
    in_points,
    summarise,
)

Rows = Sequence[Mapping[str, Any]]
# Two dialogues of one row and one of two; what each arm and seed scores on the four rows.
DIALOGUES = ("x", "y", "z", "z")
START = (0, 0, 0, 0)
SCORES = {"a-1": (1, 0, 0, 0), "a-2": (1, 0, 1, 0), "b-1": (1, 1, 1, 1), "b-2": (1, 1, 0, 1)}


def predictions(values: Sequence[float], **more: Sequence[Any]) -> list[dict[str, Any]]:
    def metrics(place: int) -> dict[str, Any]:
        prior = dict.fromkeys(("R@1", "R@10", "MRR@10"), values[place])
        further = {name: column[place] for name, column in more.items()}
        return {"prior": prior, "posterior": None, **further}

    return [
        {"id": f"r{place}", "dialogue_id": dialogue, "metrics": metrics(place)}
        for place, dialogue in enumerate(DIALOGUES)
    ]


def write(folder: Path, run: str, name: str, rows: Rows) -> None:
    path = folder / run / "eval" / name / "predictions.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_row(arm: str, seed: int, **more: Any) -> dict[str, Any]:
    made = {"kind": "run", "arm": arm, "seed": seed, "steps": 10 * seed, "seconds": 2.0 * seed}
    return made | {"generator_forwards": 100, "peak_bytes": seed, "stopped": None} | more


ROWS = [run_row(arm, seed) for arm in "ab" for seed in (1, 2)]


def study(*against: str) -> Study:
    arms = [Arm("a", {}, "one"), Arm("b", {"objective.k": "3"}, "two")]
    return Study("s", "demo", None, [1, 2], arms, against=against)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run, values in SCORES.items():
        write(tmp_path, run, "dev", predictions(values))
        write(tmp_path, run, "dev-before", predictions(START))
    return tmp_path


def test_means_and_costs_are_over_seeds(folder: Path) -> None:
    rows = [*ROWS[:3], run_row("b", 2, peak_bytes=None, stopped="retrieval has collapsed")]
    frozen, a, b = summarise(study("a"), rows, folder, {}).arms
    assert frozen.metrics["prior R@1"] == 0
    assert frozen.seconds is None
    assert a.metrics["prior R@1"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert b.metrics["prior R@1"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert (a.steps, a.seconds, a.generator_forwards, a.peak_bytes) == (15, 3.0, 100, 2)
    assert b.peak_bytes == 1
    assert b.stopped == {2: "retrieval has collapsed"}
    assert "posterior R@1" not in a.metrics


def test_intervals_are_those_of_all_resamples_of_dialogues_and_seeds(folder: Path) -> None:
    summary = summarise(study("a", "frozen"), ROWS, folder, {})
    (found,) = (
        item
        for item in summary.differences
        if (item.arm, item.against, item.metric) == ("b", "a", "prior R@1")
    )
    # b - a on the four rows: 0, 1, 1, 1 in one seed and 0, 1, -1, 1 in the other. By dialogue:
    sums, sizes = np.array([[0, 1, 2], [0, 1, 0]]), np.array([1, 1, 2])
    assert found.difference == pytest.approx((3 / 4 + 1 / 4) / 2)
    # All 27 resamples of three dialogues with all 4 of two seeds:
    every = [
        np.mean([sums[run, list(drawn)].sum() / sizes[list(drawn)].sum() for run in runs])
        for drawn in itertools.product(range(3), repeat=3)
        for runs in itertools.product(range(2), repeat=2)
    ]
    low, high = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    # An arm is not compared with itself; frozen is compared with both.
    assert {(item.arm, item.against) for item in summary.differences} == {
        ("a", "frozen"),
        ("b", "a"),
        ("b", "frozen"),
    }


def test_references_are_compared_on_what_they_are_scored_on(folder: Path) -> None:
    bm25 = predictions((1, 0, 0, 0))
    bm25[3]["metrics"]["prior"] = None
    summary = summarise(study("bm25"), ROWS, folder, {"bm25": bm25})
    metrics = {arm.name: arm.metrics for arm in summary.arms}
    assert metrics["bm25"]["prior R@1"] == pytest.approx(1 / 3)
    found = {item.arm: item for item in summary.differences if item.metric == "prior R@1"}
    assert found["a"].difference == pytest.approx((0 + 0 + 0.5) / 3)


@pytest.mark.skipif(not has_bleu(), reason="needs sacrebleu")
def test_bleu_is_that_of_the_whole_split_seed_by_seed(tmp_path: Path) -> None:
    answers = [[f"the {word} cat sat on the mat"] for word in ("grey", "old", "fat", "small")]
    said = {
        "a-1": [answer[0] for answer in answers],
        "a-2": ["the cat sat on a mat"] * 4,
        "b-1": ["the old cat sat on the mat"] * 4,
        "b-2": ["nothing at all"] * 4,
    }
    counts = {run: bleu_counts(texts, answers) for run, texts in said.items()}
    for run, values in SCORES.items():
        generation = [
            {"EM": 0.0, "F1": 0.5, "ROUGE-L": 0.5, "bleu_counts": row.tolist()}
            for row in counts[run]
        ]
        write(tmp_path, run, "dev", predictions(values, generation=generation))
        write(tmp_path, run, "dev-before", predictions(START))
    summary = summarise(study("a"), ROWS, tmp_path, {})
    bleu = {run: bleu_reducer(4)(rows.sum(axis=0)[None])[0] for run, rows in counts.items()}
    arms = {arm.name: arm.metrics for arm in summary.arms}
    assert arms["a"][BLEU] == pytest.approx((100.0 + bleu["a-2"]) / 2)
    assert 0 < bleu["a-2"] < bleu["b-1"] < 100
    (found,) = (item for item in summary.differences if item.metric == BLEU)
    assert found.difference == pytest.approx(arms["b"][BLEU] - arms["a"][BLEU])
    assert found.low < found.difference < found.high
    assert in_points(BLEU, 25.0) == in_points("generation F1", 0.25) == 25.0


def test_json_and_rows_hold_the_same_differences(folder: Path) -> None:
    made = study("a")
    summary = summarise(made, ROWS, folder, {})
    plain = json.loads(json.dumps(summary.to_json()))
    assert set(plain) == {"arms", "differences", "trials"}
    promised = {"name", "seeds", "metrics", "seconds", "generator_forwards", "peak_bytes"}
    assert promised <= set(plain["arms"][1])
    assert plain["arms"][1]["seeds"] == [1, 2]
    (row,) = comparison_rows(made, summary)
    assert (row["arm"], row["against"], row["seeds"]) == ("b", "a", [1, 2])
    for item in plain["differences"]:
        found = row["differences"][item["metric"]]
        assert (found["value"], found["low"]) == (item["difference"], item["low"])


def test_a_run_without_predictions_is_named(folder: Path) -> None:
    (folder / "b-2" / "eval" / "dev" / "predictions.jsonl").unlink()
    with pytest.raises(DataError, match=r"b-2/eval/dev/predictions\.jsonl"):
        summarise(study("a"), ROWS, folder, {})


def test_the_page_shows_arms_differences_and_what_was_stopped(folder: Path) -> None:
    rows = [*ROWS[:3], run_row("b", 2, stopped="step 9: <collapsed>")]
    made = study("a")
    write_page(made, summarise(made, rows, folder, {}), folder)
    page = (folder / PAGE_FILE).read_text()
    for text in ("b − a", "objective.k=3", "seed 2: step 9: &lt;collapsed&gt;", "<svg", "87.5"):
        assert text in page
    assert "<script" not in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_what_was_tried_is_shown_and_compared_with_nothing(folder: Path) -> None:
    def trial(rate: str, value: float) -> dict[str, Any]:
        held_back = {"measure": "gold", "step": 5, "value": value}
        more = {"kind": "trial", "tried": {"train.learning_rate": rate}, "held_back": held_back}
        return run_row("a", 1, seconds=999.0) | more

    made = study("a")
    rows = [trial("1e-5", 0.2), trial("2e-5", 0.4), *ROWS]
    summary = summarise(made, rows, folder, {})
    assert [(item.value, item.chosen) for item in summary.trials] == [(0.2, False), (0.4, True)]
    assert [arm.seconds for arm in summary.arms if arm.name == "a"] == [3.0]
    assert summary.to_json()["trials"][1]["tried"] == {"train.learning_rate": "2e-5"}
    write_page(made, summary, folder)
    page = (folder / PAGE_FILE).read_text()
    assert "train.learning_rate=2e-5" in page
    assert "<b>0.400</b>" in page
    assert "MRR@10 of the prior" in page


def test_hues_tell_what_is_sure() -> None:
    def item(low: float, high: float) -> ArmDifference:
        return ArmDifference("a", "b", "prior R@1", (low + high) / 2, low, high)

    better, worse, unsure = item(0.1, 0.2), item(-0.2, -0.1), item(-0.1, 0.2)
    assert len({hue_of(better), hue_of(worse), hue_of(unsure)}) == 3
    assert hue_of(item(0.0, 0.2)) == hue_of(unsure)
    svg = differences_svg([better, worse, unsure])
    assert svg.count("<circle") == 3
    assert svg.count(f"var(--c{hue_of(better)})") == 2


def test_the_picture_is_drawn_where_matplotlib_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    summary = summarise(study("a", "frozen"), ROWS, folder, {})
    path = write_picture(summary, folder)
    assert path == folder / "compare.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert write_picture(Summary(summary.arms, []), folder) is None
    monkeypatch.setattr("jsarag.study.picture.has_matplotlib", lambda: False)
    assert write_picture(summary, folder) is None
