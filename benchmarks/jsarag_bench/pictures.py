"""Pictures of ``scan``: time against B and against N, ours, the rivals and the ceilings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag.io.atomic import replace_file
from jsarag_bench.kernel_tables import newest_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Points = Sequence[tuple[int, float]]

# Okabe and Ito's hues: told apart with every common colour blindness.
_OURS = {"float32": "#0b6aae", "bfloat16": "#c65300", "int8": "#00805e"}
_RIVALS = ("#5d6878", "#a8508a", "#a87400", "#2f93c8", "#7a6032")
_WORDS = {"float32": "f32", "bfloat16": "bf16", "int8": "int8, certified"}


def draw_pictures(rows: Iterable[Row], folder: Path) -> list[Path]:
    """One PNG per machine that has enough rows; returns the files."""
    written = []
    for machine, found in newest_rows(rows).items():
        scans = [row for row in found if row["op"] == "scan" and not row["options"].get("tile_lse")]
        panels = [
            panel
            for panel in (_panel(scans, "B", ("N", "D")), _panel(scans, "N", ("B", "D")))
            if panel
        ]
        if panels:
            path = folder / f"scan-{machine}.png"
            _draw(panels, path, title=f"scan on {machine}")
            written.append(path)
    return written


def _panel(rows: Sequence[Row], along: str, fixed: Sequence[str]) -> tuple[str, list[Row]] | None:
    """The largest group of rows that differ in ``along`` only; None if it has under 3 sizes."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row["shape"][letter] for letter in fixed), []).append(row)
    if not groups:
        return None
    largest = max(groups.values(), key=lambda group: len({row["shape"][along] for row in group}))
    if len({row["shape"][along] for row in largest}) < 3:
        return None
    return along, largest


def _draw(panels: Sequence[tuple[str, list[Row]]], path: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for place, (along, rows) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        _fill(axes, along, rows)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _fill(axes: Axes, along: str, rows: Sequence[Row]) -> None:
    for dtype, colour in _OURS.items():
        mine = [row for row in rows if row["dtype"] == dtype]
        _line(axes, _points(mine, along, "median_ms"), f"jsarag {_WORDS[dtype]}", colour, "o-")
        floor = _points([row for row in mine if row["floor_ms"]], along, "floor_ms")
        _line(axes, floor, f"ceiling {_WORDS[dtype]}", colour, ":")
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    for place, name in enumerate(names):
        # The same rival is timed beside each of our dtypes; its fastest time counts.
        best: dict[int, float] = {}
        for row in rows:
            ms, at = row["peers"].get(name), row["shape"][along]
            if ms is not None:
                best[at] = min(ms, best.get(at, ms))
        _line(axes, sorted(best.items()), name, _RIVALS[place % len(_RIVALS)], "x--")
    fixed = "N" if along == "B" else "B"
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=f"{along} ({fixed} = {rows[0]['shape'][fixed]:,}, D = {rows[0]['shape']['D']})",
        ylabel="milliseconds",
    )
    sizes = sorted({row["shape"][along] for row in rows})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.grid(visible=True, color="#e3e7ee")
    axes.legend(fontsize=8, frameon=False)


def _points(rows: Sequence[Row], along: str, value: str) -> list[tuple[int, float]]:
    """One per size: of two cases with the same shape the later in the list counts."""
    return sorted({row["shape"][along]: row[value] for row in rows}.items())


def _line(axes: Axes, points: Points, label: str, colour: str, style: str) -> None:
    if len(points) > 1:
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, style, color=colour, label=label, linewidth=1.4, markersize=4)
