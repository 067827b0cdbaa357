"""The differences of a comparison as one PNG file for papers and slides (extra ``plots``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsarag.eval.plots import PALETTE, STYLE, has_matplotlib
from jsarag.io.atomic import replace_file
from jsarag.study.summary import ArmDifference, Summary, in_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE_FILE = "compare.png"
PICTURED = ("prior R@1", "prior R@10", "prior MRR@10", "posterior R@1", "generation F1")
_PANEL, _ROW, _CHARACTER, _EDGES = 2.6, 0.28, 0.085, 0.9  # inches


def write_picture(summary: Summary, folder: Path) -> Path | None:
    """Write ``compare.png``: a panel a metric, a dot with its interval a difference.

    Returns:
        The file; None where matplotlib is missing or there is no difference to draw.
    """
    if not has_matplotlib() or not any(item.metric in PICTURED for item in summary.differences):
        return None
    path = folder / PICTURE_FILE
    figure = draw_differences(summary.differences)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    return path


def hue_of(item: ArmDifference) -> int:
    """Which of the house's hues a difference has: better, worse, or not sure of either."""
    if item.low <= 0 <= item.high:
        return 5
    return 3 if item.difference > 0 else 2


def draw_differences(items: Sequence[ArmDifference]) -> Figure:
    """Dot plot of differences in points as a matplotlib figure that belongs to no window."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = [name for name in PICTURED if any(item.metric == name for item in items)]
    pairs = list(dict.fromkeys((item.arm, item.against) for item in items))
    labels = [f"{arm} − {against}" for arm, against in pairs]
    margin = 0.3 + _CHARACTER * max(map(len, labels))
    width, height = margin + _PANEL * len(metrics), _EDGES + _ROW * len(pairs)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        for place, metric in enumerate(metrics):
            left = (margin + _PANEL * place) / width
            axes = figure.add_axes(
                (left, 0.5 / height, (_PANEL - 0.25) / width, _ROW * len(pairs) / height)
            )
            axes.set_title(metric, fontsize=10, pad=6)
            axes.set_ylim(len(pairs) - 0.5, -0.5)
            axes.set_yticks(range(len(pairs)), labels if place == 0 else [""] * len(pairs))
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
            axes.axvline(0.0, color=PALETTE[0], linewidth=1.0, linestyle=(0, (2, 3)))
            axes.set_xlabel("points" if place == 0 else "", fontsize=9)
            _draw_dots(axes, [item for item in items if item.metric == metric], pairs)
    return figure


def _draw_dots(
    axes: Axes, items: Sequence[ArmDifference], pairs: Sequence[tuple[str, str]]
) -> None:
    for item in items:
        row = pairs.index((item.arm, item.against))
        value, low, high = (
            in_points(item.metric, number) for number in (item.difference, item.low, item.high)
        )
        hue = PALETTE[hue_of(item)]
        axes.plot((low, high), (row, row), color=hue, linewidth=2.0, solid_capstyle="round")
        axes.plot((value,), (row,), color=hue, marker="o", markersize=5)
