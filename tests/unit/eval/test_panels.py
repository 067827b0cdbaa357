"""Panels hold what the rows hold, and both renderers draw all of it."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from jsarag.errors import BackendUnavailableError
from jsarag.eval import charts, plots
from jsarag.eval.panels import (
    NEUTRAL,
    Line,
    Panel,
    estep_panels,
    make_panels,
    station_colours,
    station_seconds,
)

from .fake_run import make_run

TRAIN = [
    {
        "kind": "train",
        "step": step,
        "loss": 10.0 - step,
        "loss_prior": 1.0,
        "ess": None,
        "acceptance_rate": float("nan"),
        "stations": {"save": 0.01, "encode": 0.2 * step, "made up": 0.1},
    }
    for step in (1, 2, 3)
]


def panels_of(rows: list[dict[str, object]]) -> dict[str, Panel]:
    return {panel.name: panel for panel in make_panels(rows)}


def test_panels_show_the_rows_and_leave_out_what_is_not_there() -> None:
    found = panels_of(TRAIN)
    assert set(found) == {"loss", "loss-retrievers", "stations"}
    assert found["loss"].lines[0].steps == (1.0, 2.0, 3.0)
    assert found["loss"].lines[0].values == (9.0, 8.0, 7.0)
    assert make_panels([]) == []
    assert make_panels([{"kind": "train"}, {"kind": "else", "step": 1, "loss": 2.0}]) == []


def test_retrieval_comes_with_intervals_in_order_of_steps() -> None:
    rows = [
        {
            "kind": "eval",
            "step": step,
            "split": "test",
            "retrieval": {
                "prior": {"R@1": value, "R@10": None, "intervals": {"R@1": [value - 0.1, 0.9]}},
                "posterior": None,
            },
        }
        for step, value in ((20, 0.5), (0, 0.3))
    ]
    (panel,) = make_panels(rows)
    assert panel.title == "Retrieval on test"
    (line,) = panel.lines
    assert (line.steps, line.values) == ((0.0, 20.0), (0.3, 0.5))
    assert line.low == pytest.approx((0.2, 0.4))
    assert line.high == (0.9, 0.9)


def test_long_runs_are_thinned_by_means() -> None:
    rows = [{"kind": "train", "step": step, "loss": float(step)} for step in range(1, 1001)]
    (panel,) = make_panels(rows)
    (line,) = panel.lines
    assert len(line.steps) == 200
    assert line.steps[-1] == 1000.0
    assert line.values[0] == 3.0  # mean of 1..5
    assert line.values[-1] == 998.0


def test_stations_keep_the_loops_order_and_sum_up() -> None:
    seconds = station_seconds(TRAIN)
    assert list(seconds) == ["encode", "save", "made up"]
    assert seconds["encode"] == pytest.approx(0.4)
    many = {f"s{number}": float(number) for number in range(10)}
    colours = station_colours(many)
    assert [name for name, colour in colours.items() if colour == NEUTRAL] == [
        "s0",
        "s1",
        "s2",
        "s3",
    ]
    assert sorted(colours[f"s{number}"] for number in range(4, 10)) == [1, 2, 3, 4, 5, 6]
    rows = [{"kind": "train", "step": 1, "stations": many}]
    (panel,) = make_panels(rows)
    assert [line.label for line in panel.lines] == [*(f"s{n}" for n in range(4, 10)), "other"]
    assert sum(line.values[0] for line in panel.lines) == pytest.approx(45e3)
    rows = [{"kind": "train", "step": 1, "stations": {"score": 0.2, "eval": 9.0}}]
    (panel,) = make_panels(rows)
    assert [line.label for line in panel.lines] == ["score"]  # an evaluation is not a step


def test_svg_is_well_formed_inside_its_box_and_escaped() -> None:
    lines = tuple(
        Line(f"<b>&{number}", (0.0, 50.0, 100.0), (0.1, 0.5, 0.9 - number / 100), number)
        for number in range(4)
    )
    panel = Panel("x", 'a "title" <', "unit", lines, low=0.0, high=1.0, reference=(0.5, "<ref>"))
    root = ET.fromstring(charts.draw(panel))
    labels = [item for item in root.iter("text") if "label" in item.attrib["class"]]
    assert [item.text for item in labels] == [
        f"<b>&{number} {0.9 - number / 100:.2f}" for number in range(4)
    ]
    heights = sorted(float(item.attrib["y"]) for item in labels)
    assert all(below - above >= 13.9 for above, below in itertools.pairwise(heights))
    for item in root.iter("circle"):
        assert 0 <= float(item.attrib["cx"]) <= charts.WIDTH
        assert 0 <= float(item.attrib["cy"]) <= charts.HEIGHT
    (first, *_) = list(root.iter("polyline"))
    points = [tuple(map(float, point.split(","))) for point in first.attrib["points"].split()]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[1][1] > points[2][1]  # larger values are higher up


@pytest.mark.parametrize("stacked", [False, True])
def test_a_single_point_and_equal_values_can_be_drawn(stacked: bool) -> None:
    for steps in ((5.0,), (5.0, 6.0)):
        line = Line("x", steps, (0.0,) * len(steps))
        for panel in (
            Panel("x", "t", "u", (line,), stacked),
            Panel("x", "t", "u", (line,), stacked, 0),
        ):
            ET.fromstring(charts.draw(panel))
            plots.draw_figure(panel).canvas.draw()


def test_ticks_are_round_and_cover() -> None:
    assert charts.nice_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in (
        (0.0, 233.0),
        (39.5, 59.6),
        (-3.0, 4.0),
        (1e-6, 2e-6),
        (7.0, 7.0),
        (0.0, 0.0),
    ):
        ticks = charts.nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 9


def test_the_e_steps_panels_are_those_there_are_numbers_for() -> None:
    rows = [{**TRAIN[0], "kl_posterior": 0.5, "evidence_spread": 3.0, "distinct_passages": 9}]
    assert [panel.name for panel in estep_panels(rows)] == [
        "divergence", "evidence-spread", "distinct",
    ]  # fmt: skip
    assert estep_panels([]) == []


def test_ratio_ticks_are_round_and_inside() -> None:
    assert charts.ratio_ticks(1.0, 32.0) == [1.0, 2.0, 5.0, 10.0, 20.0]
    assert charts.ratio_ticks(0.03, 0.3) == pytest.approx([0.05, 0.1, 0.2])
    assert charts.ratio_ticks(3.0, 4.0) == [3.0, 4.0]
    assert charts.ratio_ticks(3.0, 3.0) == [3.0, 3.0]


def test_on_a_logarithmic_axis_equal_ratios_are_equally_far_apart() -> None:
    line = Line("error", (1.0, 4.0, 16.0), (0.9, 0.5, 0.1))
    panel = Panel("error", "Error", "share", (line,), axis="M", log_x=True)
    svg = charts.draw(panel)
    points = re.search(r'polyline [^>]*points="([^"]+)"', svg)
    assert points is not None
    first, middle, last = (float(pair.split(",")[0]) for pair in points[1].split())
    assert middle - first == pytest.approx(last - middle, abs=0.2)
    assert ">M</text>" in svg
    assert "error, M 4: 0.50" in svg


def test_spread_keeps_order_distance_and_bounds() -> None:
    placed = charts.spread([10.0, 11.0, 12.0, 90.0], 0.0, 100.0, 10.0)
    assert placed == [10.0, 20.0, 30.0, 90.0]
    placed = charts.spread([99.0, 98.0, 97.0], 0.0, 100.0, 10.0)
    assert placed == [100.0, 90.0, 80.0]


def test_png_files_are_written_and_leave_matplotlib_alone(tmp_path: Path) -> None:
    import matplotlib

    backend, size = matplotlib.get_backend(), matplotlib.rcParams["font.size"]
    run = make_run(tmp_path / "run", steps=40)
    files = plots.write_plots(run)
    assert {path.stem for path in files} == {
        "retrieval", "loss", "loss-retrievers", "acceptance", "ess", "overlap", "distinct",
        "evidence", "gradients", "stations",
    }  # fmt: skip
    for path in files:
        assert path.parent == run.plots_path
        with Image.open(path) as image:
            assert image.size == (1024, 576)
            assert len(image.convert("L").getcolors(256) or []) > 20
    assert (matplotlib.get_backend(), matplotlib.rcParams["font.size"]) == (backend, size)


def test_without_matplotlib_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "has_matplotlib", lambda: False)
    with pytest.raises(BackendUnavailableError, match=r"jsarag\[plots\]"):
        plots.write_plots(tmp_path)
