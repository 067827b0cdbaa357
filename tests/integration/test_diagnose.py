"""``jsarag diagnose`` on small real runs: every support, generator and kind of passage encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.train.diagnose import DiagnoseSettings, diagnose_run
from jsarag.train.run import TrainResult
from jsarag_cli.main import run as run_cli

SHORT = {"train.max_steps": 3, "eval.generation": False}
LOOK = DiagnoseSettings(rows=20, mis_steps=(1, 4, 16), k=(2, 24), top=4, visits=60)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective.estimator": "mis-cached", "retriever.passage_encoder": "separate"},
        {"objective.support": "union", "objective.estimator": "exact", "generator.model": "tiny"},
        {"objective.name": "rag", "objective.support": "prior", "objective.likelihood": "mean"},
        {"objective.name": "wrag", "objective.support": "batch"},
    ],
)
def test_every_kind_of_run_is_looked_into(
    train_toy: Callable[..., TrainResult], settings: dict[str, Any]
) -> None:
    result = train_toy("run", SHORT | settings)
    found = diagnose_run(result.run_dir, LOOK)
    sample = found.sample
    assert sample is not None
    assert (sample.rows, sample.step, sample.timed_rows) == (20, 3, 4)
    support = sample.chosen["support"]
    by_name = {(row.estimator, row.support, row.mis_steps or row.k): row for row in sample.errors}
    for row in sample.errors:
        assert row.seconds is not None
        assert row.seconds > 0
        assert row.weights.rms >= row.weights.bias >= 0
    # k beyond the whole knowledge base: nothing is left out, so nothing errs.
    assert by_name["exact", "union*", 24].relative < 1e-3
    assert by_name["exact", "union*", 2].relative > by_name["exact", "union*", 24].relative
    assert (
        by_name["snis", support, 16].weights.variance < by_name["snis", support, 1].weights.variance
    )
    assert by_name["mis", support, 1].pairs == 1
    assert (("mis-cached", "kb", 4) in by_name) == (support == "kb")
    assert sample.tail["prior"]["most"] < 1e-4
    assert 0 < sample.chain.acceptance_rate <= 1
    assert found.questions is not None
    assert len(found.questions.items) == 24
    assert found.to_json()["sample"]["chosen"]["k"] == 8


def test_two_looks_see_the_same_but_for_the_clock(
    train_toy: Callable[..., TrainResult],
) -> None:
    result = train_toy("run", SHORT)

    def look(**changes: Any) -> dict[str, Any]:
        found = diagnose_run(result.run_dir, DiagnoseSettings(rows=6, visits=20, **changes))
        plain = found.to_json()["sample"]
        for row in plain["errors"]:
            row.pop("seconds")
        return dict(plain)

    assert look() == look()
    start = look(checkpoint="untrained")
    assert start["step"] is None
    assert start["divergences"] != look()["divergences"]


def test_a_small_pool_says_what_it_leaves_out(train_toy: Callable[..., TrainResult]) -> None:
    result = train_toy("run", SHORT)
    settings = DiagnoseSettings(rows=6, mis_steps=(1,), k=(1,), top=1, visits=5)
    sample = diagnose_run(result.run_dir, settings).sample
    assert sample is not None
    assert sample.top == 8, "the run's own k is always in"
    assert 0.01 < sample.tail["prior"]["mean"] < 0.9


def test_the_command_line(
    train_toy: Callable[..., TrainResult], capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = train_toy("run", SHORT).run_dir
    code = run_cli(
        ["diagnose", str(folder), "--rows", "5", "--sweep", "mis-steps=1,16", "--visits", "10"]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    for text in ("mis-recycled", "M 16", "exact, union*", "KL(w || q)", "is ignored", "Questions"):
        assert text in " ".join(captured.out.split())
    assert "score pairs" in captured.err
    page = (folder / "diagnose.html").read_text(encoding="utf-8")
    for title in (
        "Error against generator scores",
        "Bias of v",
        "Autocorrelation",
        "Error of enumeration",
    ):
        assert title in page
