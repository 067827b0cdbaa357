"""Arms by turns on the toy world: what is reported, and that an arm is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from jsarag.config.load import flag
from jsarag.errors import ConfigError
from jsarag_bench.end_to_end import toy_world
from jsarag_bench.end_to_end.train_step import (
    objective_arm,
    parse_arm,
    run,
    train_step_tables,
)


def test_an_arm_is_read_from_text() -> None:
    arm = parse_arm("jsa-full: objective.name=jsa objective.mstep_passages=0")
    assert arm.name == "jsa-full"
    assert {s.key: s.value for s in arm.settings} == {
        "objective.name": "jsa",
        "objective.mstep_passages": "0",
    }
    for wrong in ("objective.name=jsa", ": objective.name=jsa"):
        with pytest.raises(ConfigError, match="NAME"):
            parse_arm(wrong)
    with pytest.raises(ConfigError, match="nothing"):
        parse_arm("a: objective.nothing=1")


def test_an_objective_without_a_union_takes_a_support_it_has() -> None:
    assert {s.key: s.value for s in objective_arm("rag").settings}["objective.support"] == "prior"
    assert [s.key for s in objective_arm("jsa").settings] == ["objective.name"]


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
