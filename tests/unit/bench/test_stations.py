"""Stations of a step are read from a run's metrics and shown side by side."""

from __future__ import annotations

import json

import pytest

from jsarag.data.demo import make_demo
from jsarag.errors import DataError
from jsarag_bench.end_to_end.stations import (
    STATIONS,
    large_passages,
    read_stations,
    stations_table,
)


def record(kind, **stations):
    return json.dumps({"kind": kind, "stations": stations})


def test_the_mean_of_training_records_in_milliseconds():
    found = read_stations(
        [record("warmup", encode=9.0), record("train", encode=0.1), record("train", encode=0.3), ""]
    )
    assert found["encode"] == pytest.approx(200.0)
    assert found["optimizer"] == 0.0
    assert tuple(found) == STATIONS


def test_a_run_without_training_records_is_refused():
    with pytest.raises(DataError, match="training records"):
        read_stations([record("warmup", encode=1.0)])


def test_the_newest_row_of_each_backend_counts():
    def row(backend, ms, case="demo"):
        return {"backend": backend, "case": case, "stations": dict.fromkeys(STATIONS, ms)}

    shown = stations_table([row("auto", 1.0), row("reference", 6.0), row("auto", 3.0)])
    assert "| encode | 6.0 | 3.0 | 2.00x |" in shown
    assert "| whole step | 42.0 | 21.0 | 2.00x |" in shown
    assert "No rows yet" in stations_table([row("auto", 1.0)])
    large = [row("auto", 2.0, "large"), row("reference", 6.0, "large"), row("auto", 9.0)]
    assert "| encode | 6.0 | 2.0 | 3.00x |" in stations_table(large, "large")


def test_a_large_knowledge_base_begins_with_the_demos_own_passages():
    own = make_demo().passages
    passages = list(large_passages(own, len(own) + 30))
    assert passages[: len(own)] == list(own)
    assert len({passage.id for passage in passages}) == len(own) + 30
    assert passages == list(large_passages(own, len(own) + 30))
    assert {len(passage.text.split()) for passage in passages[len(own) :]} == {10}
