"""Panels as PNG files with matplotlib, for papers and slides (extra ``plots``).

Drawn on a canvas of their own: no display is needed and the caller's matplotlib settings and
figures are left alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag.errors import BackendUnavailableError
from jsarag.eval.charts import nice_ticks, spread, value_text
from jsarag.eval.panels import Line, Panel, make_panels
from jsarag.io.atomic import replace_file
from jsarag.io.run_dir import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's hues, told apart with every common colour blindness, darkened where text in them
# would be too faint on white; the report's light theme has the same. 0 is neutral.
PALETTE = (
    "#5d6878",
    "#0b6aae",
    "#c65300",
    "#00805e",
    "#a8508a",
    "#a87400",
    "#2f93c8",
    "#7a6032",
)
_WIDTH, _HEIGHT = 6.4, 3.6
_CHARACTER = 0.1  # inches a character of a label takes, semi-bold
_INK, _SOFT, _GRID = "#1b2330", "#5d6878", "#e3e7ee"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": _GRID,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "figure.facecolor": "white",
}


def has_matplotlib() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_plots(run_dir: RunDir | Path | str) -> list[Path]:
    """Draw every panel of a run into ``plots/*.png``; returns the files.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    if not has_matplotlib():
        raise BackendUnavailableError(
            "plots: PNG files are drawn by matplotlib, which is not installed; "
            "pip install 'jsarag[plots]' (report.html has the same charts without it)"
        )
    run = run_dir if isinstance(run_dir, RunDir) else RunDir(run_dir)
    written = []
    for panel in make_panels(run.read_metrics()):
        path = run.plots_path / f"{panel.name}.png"
        figure = draw_figure(panel)
        with replace_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)
        written.append(path)
    return written


def draw_figure(panel: Panel) -> Figure:
    """A panel as a matplotlib figure that belongs to no window."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        FigureCanvasAgg(figure)
        # Room by arithmetic: matplotlib's own layout engines draw everything twice.
        longest = max(len(_label(line, panel)) for line in panel.lines)
        right = 1.0 - (0.2 + _CHARACTER * longest) / _WIDTH
        axes = figure.add_axes((0.105, 0.145, right - 0.105, 0.72))
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.set_title(panel.title, pad=12)
        axes.set_xlabel("step")
        axes.set_ylabel(panel.unit)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        ends = _draw_stacked(axes, panel) if panel.stacked else _draw_lines(axes, panel)
        _limit(axes, panel)
        if panel.reference is not None:
            value, name = panel.reference
            axes.axhline(value, color=_SOFT, linewidth=1.0, linestyle=(0, (2, 3)))
            axes.annotate(
                name,
                (0.0, value),
                xycoords=("axes fraction", "data"),
                xytext=(4, 3),
                textcoords="offset points",
                color=_SOFT,
                fontsize=9,
            )
        _label_ends(axes, panel, ends)
    return figure


def _draw_lines(axes: Axes, panel: Panel) -> list[float]:
    for line in panel.lines:
        few = len(line.steps) <= 12
        axes.plot(
            line.steps,
            line.values,
            color=PALETTE[line.colour],
            linewidth=2.0,
            linestyle=(0, (4, 2)) if line.dashed else "-",
            marker="o" if few else "",
            markersize=4.5,
            solid_capstyle="round",
            clip_on=False,
        )
        if line.low:
            axes.vlines(
                line.steps,
                line.low,
                line.high,
                color=PALETTE[line.colour],
                linewidth=1.2,
                alpha=0.5,
            )
    return [line.values[-1] for line in panel.lines]


def _draw_stacked(axes: Axes, panel: Panel) -> list[float]:
    colours = [PALETTE[line.colour] for line in panel.lines]
    steps = panel.lines[0].steps
    values = [line.values for line in panel.lines]
    if len(steps) == 1:  # a single row has no width; draw a bar
        steps = (steps[0] - 0.4, steps[0] + 0.4)
        values = [column * 2 for column in values]
    axes.stackplot(steps, *values, colors=colours, alpha=0.85, linewidth=0)
    ends, below = [], 0.0
    for line in panel.lines:
        ends.append(below + line.values[-1] / 2)
        below += line.values[-1]
    return ends


def _limit(axes: Axes, panel: Panel) -> None:
    bottom, top = axes.get_ylim()
    low = bottom if panel.low is None else panel.low
    high = top if panel.high is None else panel.high
    ticks = nice_ticks(low, high)
    axes.set_ylim(ticks[0], ticks[-1])
    axes.set_yticks(ticks)
    axes.margins(x=0.02)


def _label_ends(axes: Axes, panel: Panel, ends: list[float]) -> None:
    """Names beside the curves' ends instead of a legend, pushed apart where they would meet."""
    low, high = axes.get_ylim()
    places = spread([(end - low) / (high - low) for end in ends], 0.0, 1.0, 0.075)
    for line, place in zip(panel.lines, places, strict=True):
        axes.annotate(
            _label(line, panel),
            (1.0, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=PALETTE[line.colour],
            fontsize=10,
            fontweight="bold",
        )


def _label(line: Line, panel: Panel) -> str:
    return line.label if panel.stacked else f"{line.label} {value_text(line.values[-1])}"
