"""Panels as SVG that follows the page's colours, light or dark, and needs nothing but a browser.

Coordinates are CSS pixels at the size a card has, so text stays readable on a telephone. Colours
are classes (``c0`` to ``c7``); the page's style sheet gives them their values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from jsarag.eval.panels import Line, Panel

WIDTH, WIDE, HEIGHT = 330, 680, 200
_LEFT, _TOP, _BOTTOM = 38, 10, 26
_CHARACTER = 6.9  # average width of a label's character at 11.5 px, semi-bold
_LABEL_STEP = 14.0
_MOST_DOTS = 12


def draw(panel: Panel, width: int = WIDTH, *, kind: str = "") -> str:
    """The panel as one ``<svg>`` element, described for screen readers.

    Args:
        panel: what to draw.
        width: in pixels, at the size it will be shown.
        kind: a further class for the page's style sheet.
    """
    lines = _stack(panel.lines) if panel.stacked else panel.lines
    scale = _Scale.of(panel, lines, width)
    body = [_grid(scale)]
    if panel.reference is not None:
        body.append(_reference(panel.reference, scale))
    body += [_area(line, below, scale) for line, below in _pairs(lines)] if panel.stacked else []
    body += [] if panel.stacked else [_curve(line, scale) for line in lines]
    body.append(_labels(panel, lines, scale))
    return (
        f'<svg class="{f"chart {kind}".strip()}" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{escape(_describe(panel))}">{"".join(body)}</svg>'
    )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) covering low to high."""
    span = (high - low) or abs(high) or 1.0
    widest = 1.5 * span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(widest))
    step = next(power * factor for factor in (5, 2, 1) if power * factor <= widest)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)  # equal ends still need an axis
    return [round(number * step, 12) for number in range(first, last + 1)]


def ratio_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in [low, high], or its ends where there is none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high] or [low, high]


def tick_text(value: float) -> str:
    """A tick as short as it can be said."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:g}"


def value_text(value: float) -> str:
    """A value as a curve's label shows it."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(wanted: Sequence[float], low: float, high: float, step: float) -> list[float]:
    """Positions near ``wanted`` that keep ``step`` apart inside [low, high], order kept."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed: list[float] = []
    for place in order:
        least = placed[-1] + step if placed else low
        placed.append(max(wanted[place], least))
    ceiling = high
    for slot in range(len(placed) - 1, -1, -1):
        placed[slot] = min(placed[slot], ceiling)
        ceiling = placed[slot] - step
    result = [0.0] * len(wanted)
    for place, position in zip(order, placed, strict=True):
        result[place] = position
    return result


class _Scale:
    """Data to pixels; with ``log_x`` equal ratios are equally far apart."""

    def __init__(
        self,
        x: tuple[float, float],
        ticks: list[float],
        right: float,
        *,
        axis: str = "step",
        log_x: bool = False,
    ) -> None:
        self.x_low, self.x_high = x
        self.ticks = ticks
        self.right = right
        self.axis = axis
        self._log = log_x

    @classmethod
    def of(cls, panel: Panel, lines: Sequence[Line], width: int) -> _Scale:
        steps = [step for line in lines for step in line.steps]
        values = [value for line in lines for value in (*line.values, *line.low, *line.high)]
        low = min(values) if panel.low is None else panel.low
        high = max(values) if panel.high is None else panel.high
        longest = max(len(_label(line, panel)) for line in lines)
        right = width - 10 - longest * _CHARACTER
        ends, log_x = (min(steps), max(steps)), panel.log_x and min(steps) > 0
        return cls(ends, nice_ticks(low, high), right, axis=panel.axis, log_x=log_x)

    def x(self, step: float) -> float:
        low, high, place = self.x_low, self.x_high, step
        if self._log:
            low, high, place = math.log(low), math.log(high), math.log(step)
        share = (place - low) / (high - low) if high > low else 0.5
        return _LEFT + share * (self.right - _LEFT)

    @property
    def x_ticks(self) -> list[float]:
        """Round numbers along the horizontal axis."""
        if self._log:
            return ratio_ticks(self.x_low, self.x_high)
        ticks = nice_ticks(self.x_low, self.x_high, max(3, round(self.right / 70)))
        return [tick for tick in ticks if self.x_low <= tick <= self.x_high]

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        share = (value - low) / (high - low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)


def _grid(scale: _Scale) -> str:
    parts = []
    for tick in scale.ticks:
        parts.append(_rule("grid", scale, tick))
        parts.append(_text(_LEFT - 7, scale.y(tick) + 4, tick_text(tick), anchor="end"))
    for tick in scale.x_ticks:
        parts.append(_text(scale.x(tick), HEIGHT - 8, tick_text(tick), anchor="middle"))
    parts.append(_text(_LEFT - 12, HEIGHT - 8, scale.axis, anchor="end"))
    return "".join(parts)


def _rule(kind: str, scale: _Scale, value: float) -> str:
    y = scale.y(value)
    return f'<line class="{kind}" x1="{_LEFT}" x2="{scale.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, text: str, *, kind: str = "tick", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _reference(reference: tuple[float, str], scale: _Scale) -> str:
    value, name = reference
    return _rule("reference", scale, value) + _text(_LEFT + 4, scale.y(value) - 5, name)


def _curve(line: Line, scale: _Scale) -> str:
    points = list(zip(line.steps, line.values, strict=True))
    kind = f"c{line.colour}{' dashed' if line.dashed else ''}"
    parts = []
    for step, low, high in zip(line.steps, line.low, line.high, strict=False):
        x = scale.x(step)
        parts.append(
            f'<line class="whisker c{line.colour}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{scale.y(low):.1f}" y2="{scale.y(high):.1f}"/>'
        )
    if len(points) > 1:
        path = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in points)
        parts.append(f'<polyline class="line {kind}" points="{path}"/>')
    shown = len(points) <= _MOST_DOTS
    for step, value in points:
        text = escape(f"{line.label}, {scale.axis} {step:g}: {value_text(value)}")
        where = f'cx="{scale.x(step):.1f}" cy="{scale.y(value):.1f}"'
        dot = f'<circle class="dot c{line.colour}" {where} r="2.8"/>' if shown else ""
        parts.append(f'<g>{dot}<circle class="target" {where} r="7"/><title>{text}</title></g>')
    return "".join(parts)


def _area(line: Line, below: Line | None, scale: _Scale) -> str:
    top = list(zip(line.steps, line.values, strict=True))
    floor = [0.0] * len(top) if below is None else list(below.values)
    xs = [scale.x(step) for step in line.steps]
    if len(xs) == 1:  # a single row has no width; draw a bar
        xs = [xs[0] - 22, xs[0] + 22]
        top, floor = top * 2, floor * 2
    upper = [f"{x:.1f},{scale.y(value):.1f}" for x, (_, value) in zip(xs, top, strict=True)]
    lower = [f"{x:.1f},{scale.y(value):.1f}" for x, value in zip(xs, floor, strict=True)]
    points = " ".join([*upper, *reversed(lower)])
    return (
        f'<polygon class="area c{line.colour}" points="{points}">'
        f"<title>{escape(line.label)}</title></polygon>"
    )


def _stack(lines: Sequence[Line]) -> tuple[Line, ...]:
    total = [0.0] * len(lines[0].values)
    stacked = []
    for line in lines:
        total = [sum(pair) for pair in zip(total, line.values, strict=True)]
        stacked.append(Line(line.label, line.steps, tuple(total), line.colour))
    return tuple(stacked)


def _pairs(lines: Sequence[Line]) -> list[tuple[Line, Line | None]]:
    return [(line, lines[place - 1] if place else None) for place, line in enumerate(lines)]


def _label(line: Line, panel: Panel) -> str:
    return line.label if panel.stacked else f"{line.label} {value_text(line.values[-1])}"


def _labels(panel: Panel, lines: Sequence[Line], scale: _Scale) -> str:
    """Each curve's name and last value beside its end, pushed apart where they would meet."""
    ends = [line.values[-1] for line in lines]
    if panel.stacked:
        floors = [0.0, *ends[:-1]]
        ends = [(end + floor) / 2 for end, floor in zip(ends, floors, strict=True)]
    wanted = [scale.y(end) for end in ends]
    placed = spread(wanted, _TOP + 2, HEIGHT - _BOTTOM, _LABEL_STEP)
    return "".join(
        _text(scale.right + 8, y + 4, _label(line, panel), kind=f"label c{line.colour}")
        for line, y in zip(lines, placed, strict=True)
    )


def _describe(panel: Panel) -> str:
    ends = ", ".join(
        f"{line.label} from {value_text(line.values[0])} to {value_text(line.values[-1])}"
        for line in panel.lines
    )
    return f"{panel.title} ({panel.unit}): {ends}"
