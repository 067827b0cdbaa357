"""Arms by turns on the toy world: what is reported, and that an arm is what it says."""

from __future__ import annotations

from pathlib import Path

from jsarag.config.load import flag
from jsarag.study.arms import objective_arm
from jsarag_bench.end_to_end import toy_world
from jsarag_bench.end_to_end.train_step import run, train_step_tables


def test_steps_by_turns_are_timed_and_compared(tmp_path: Path) -> None:
    data, encoder = tmp_path / "data", tmp_path / "encoder"
    data.mkdir()
    encoder.mkdir()
    toy_world.write_data(data)
    toy_world.write_encoder(encoder)
    settings = {**toy_world.SETTINGS, "retriever.model": encoder, "generator.model": "copy"}
    result = run(
        [objective_arm("jsa"), objective_arm("rag")],
        dataset=str(data),
        recipe=None,
        overrides=[flag(key, str(value), "test") for key, value in settings.items()],
        steps=2,
    )
    assert set(result["arms"]) == {"jsa", "rag"}
    for arm in result["arms"].values():
        assert 0 < arm["p20_s"] <= arm["median_s"] <= arm["p80_s"]
        assert arm["peak_bytes"] > 0
        # Stations are all of the step but the loop's own bookkeeping.
        assert 0.5 * arm["median_s"] < sum(arm["stations"].values())
        assert arm["stations"]["score"] > 0
    assert result["ratio"]["jsa/rag"] > 0
    shown = train_step_tables([{"date": "2026-01-01T00:00:00", **result}])
    assert "| jsa |" in shown
    assert "jsa/rag: **" in shown
    assert "No rows yet" in train_step_tables([])
