"""Stations of a step are read from a run's metrics and shown side by side."""

from __future__ import annotations

import json

import pytest

from jsarag.errors import DataError
from jsarag_bench.end_to_end.stations import STATIONS, read_stations, stations_table


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
    def row(backend, ms):
        return {"backend": backend, "stations": dict.fromkeys(STATIONS, ms)}

    shown = stations_table([row("auto", 1.0), row("reference", 6.0), row("auto", 3.0)])
    assert "| encode | 6.0 | 3.0 | 2.00x |" in shown
    assert "| whole step | 42.0 | 21.0 | 2.00x |" in shown
    assert "No rows yet" in stations_table([row("auto", 1.0)])
