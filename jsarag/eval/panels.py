"""Which curves a run is drawn as, from the rows of ``metrics.jsonl``.

A :class:`Panel` is a chart without a renderer: ``charts`` draws it as SVG for the report, ``plots``
as PNG with matplotlib. A panel whose numbers the run does not have is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Row = Mapping[str, Any]

# Colour roles; both renderers map them to the same colour-blind safe palette.
NEUTRAL, PRIOR, POSTERIOR, GENERATOR = 0, 1, 2, 3
COLOURS = 8
# A chart is a few hundred pixels wide; more points only make the file larger.
_MOST_POINTS = 240
_MOST_STATIONS = 6
# Not part of a training step: a spike every so often that would flatten everything else.
_OCCASIONAL = ("rebuild", "eval", "save")
_STATIONS = (
    "batch",
    "encode",
    "candidates",
    "score",
    "weights",
    "loss",
    "backward",
    "optimizer",
    "rebuild",
    "eval",
    "save",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: ``steps`` and ``values`` of equal length, ``low``/``high`` too or empty."""

    label: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    colour: int = PRIOR
    dashed: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart.

    Attributes:
        name: file name without ending.
        title: what it shows, in the reader's words.
        unit: of the vertical axis.
        lines: at least one.
        stacked: areas on top of each other rather than lines.
        low, high: fixed ends of the vertical axis.
        reference: a horizontal line and its name.
        note: one sentence on how to read it.
        axis: what runs along the horizontal axis.
        log_x: whether equal distances there are equal ratios.
    """

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    stacked: bool = False
    low: float | None = None
    high: float | None = None
    reference: tuple[float, str] | None = None
    note: str = ""
    axis: str = "step"
    log_x: bool = False


def make_panels(rows: Sequence[Row]) -> list[Panel]:
    """Every panel the rows have numbers for, in reading order."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(str(row.get("kind")), []).append(row)
    train = kinds.get("train", [])
    found = [
        _retrieval(kinds.get("eval", [])),
        _watch(kinds.get("watch", [])),
        _loss(train),
        _retriever_loss(train),
        _acceptance(train),
        _effective_sample(train),
        _overlap(train),
        _distinct(train),
        _evidence(kinds.get("evidence", [])),
        _gradients(train),
        _stations(train),
    ]
    return [panel for panel in found if panel is not None]


def estep_panels(rows: Sequence[Row]) -> list[Panel]:
    """What the rows say about the E-step and about collapse, in reading order."""
    train = [row for row in rows if row.get("kind") == "train"]
    found = [
        _acceptance(train),
        _effective_sample(train),
        _overlap(train),
        _divergence(train),
        _spread(train),
        _distinct(train),
    ]
    return [panel for panel in found if panel is not None]


def station_seconds(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds per step spent at each station in the loop's order, mean of the logged rows."""
    train = [row for row in rows if row.get("kind") == "train" and row.get("stations")]
    totals: dict[str, float] = {}
    for row in train:
        for name, seconds in row["stations"].items():
            totals[name] = totals.get(name, 0.0) + float(seconds or 0.0) / len(train)
    return dict(sorted(totals.items(), key=_station_order))


def station_colours(seconds: Mapping[str, float]) -> dict[str, int]:
    """A colour for each of the stations that take longest, the neutral one for the rest."""
    largest = sorted(seconds, key=lambda name: -seconds[name])[:_MOST_STATIONS]
    shown = [name for name in seconds if name in largest]
    return {name: 1 + shown.index(name) if name in shown else NEUTRAL for name in seconds}


def _retrieval(rows: Sequence[Row]) -> Panel | None:
    lines = []
    for part, metric, colour, dashed in (
        ("prior", "R@1", PRIOR, False),
        ("prior", "R@10", PRIOR, True),
        ("posterior", "R@1", POSTERIOR, False),
    ):
        points = []
        for row in rows:
            scores = (row.get("retrieval") or {}).get(part) or {}
            interval = (scores.get("intervals") or {}).get(metric) or (None, None)
            points.append((row.get("step"), scores.get(metric), *interval))
        line = _line(f"{part} {metric}", points, colour, dashed)
        if line is not None:
            lines.append(line)
    split = next((str(row["split"]) for row in rows if row.get("split")), "dev")
    return _panel(
        Panel(
            "retrieval",
            f"Retrieval on {split}",
            "share of questions",
            tuple(lines),
            low=0.0,
            high=1.0,
            note="A gold passage among the first 1 or 10. Whiskers: 95 % intervals over dialogues. "
            "The posterior sees the response; the prior is what answers questions.",
        )
    )


def _loss(rows: Sequence[Row]) -> Panel | None:
    lines = _lines(
        rows,
        {
            "loss": ("total", NEUTRAL),
            "loss_generator": ("generator", GENERATOR),
            "loss_marginal": ("marginal", PRIOR),
        },
    )
    # A total that is one part alone would be drawn twice.
    if len(lines) == 2 and lines[0].values == lines[1].values:
        lines = lines[:1]
    return _panel(Panel("loss", "Loss", "nats per example", lines))


def _retriever_loss(rows: Sequence[Row]) -> Panel | None:
    lines = _lines(
        rows, {"loss_prior": ("prior", PRIOR), "loss_posterior": ("posterior", POSTERIOR)}
    )
    return _panel(
        Panel(
            "loss-retrievers",
            "Retriever losses",
            "nats per example",
            lines,
            note="How surprised each retriever is by the passages the E-step chose.",
        )
    )


def _acceptance(rows: Sequence[Row]) -> Panel | None:
    return _panel(
        Panel(
            "acceptance",
            "Acceptance rate",
            "share of proposals",
            _lines(rows, {"acceptance_rate": ("accepted", POSTERIOR)}),
            low=0.0,
            high=1.0,
            note="1 would mean that the posterior proposes exactly the target.",
        )
    )


def _effective_sample(rows: Sequence[Row]) -> Panel | None:
    return _panel(
        Panel(
            "ess",
            "Effective sample size",
            "draws",
            _lines(rows, {"ess": ("effective", POSTERIOR)}),
            low=0.0,
            note="How many equally weighted passages the E-step's weights are worth.",
        )
    )


def _overlap(rows: Sequence[Row]) -> Panel | None:
    return _panel(
        Panel(
            "overlap",
            "Prior/posterior overlap",
            "shared mass",
            _lines(rows, {"prior_posterior_overlap": ("overlap", POSTERIOR)}),
            low=0.0,
            high=1.0,
        )
    )


def _divergence(rows: Sequence[Row]) -> Panel | None:
    return _panel(
        Panel(
            "divergence",
            "Posterior and weights",
            "nats",
            _lines(
                rows,
                {
                    "kl_posterior": ("KL(w || q)", POSTERIOR),
                    "weight_entropy": ("entropy of v", NEUTRAL),
                },
            ),
            low=0.0,
            note="How far the posterior is from what the likelihood says, and how many passages "
            "share the weight: 0 nats is one passage.",
        )
    )


def _spread(rows: Sequence[Row]) -> Panel | None:
    return _panel(
        Panel(
            "evidence-spread",
            "Evidence spread",
            "nats",
            _lines(rows, {"evidence_spread": ("best - median", GENERATOR)}),
            low=0.0,
            note="How much likelier the best scored passage makes the response than the median.",
        )
    )


def _distinct(rows: Sequence[Row]) -> Panel | None:
    return _panel(
        Panel(
            "distinct",
            "Distinct passages retrieved",
            "passages",
            _lines(rows, {"distinct_passages": ("distinct", PRIOR)}),
            low=0.0,
            note="First passages over the last steps. A sharp fall is retrieval collapse: every "
            "question gets the same few passages.",
        )
    )


def _watch(rows: Sequence[Row]) -> Panel | None:
    """The measure that says which state is kept; its start as the reference."""
    if not rows:
        return None
    gold = rows[0].get("measure") == "gold"
    return _panel(
        Panel(
            "watch",
            "Held-back training rows",
            "MRR@10" if gold else "log p(y|x), nats",
            _lines(rows, {"value": ("prior", PRIOR)}),
            low=0.0 if gold else None,
            reference=(float(rows[0]["value"]), "start"),
            note="The best of these states is kept"
            + ("." if gold else "; measured without labels, by the starting generator."),
        )
    )


def _evidence(rows: Sequence[Row]) -> Panel | None:
    lines = _lines(
        rows, {"auc": ("true response", GENERATOR), "auc_shuffled": ("another's", NEUTRAL)}
    )
    return _panel(
        Panel(
            "evidence",
            "Evidence in the likelihood",
            "AUC",
            lines,
            low=0.0,
            high=1.0,
            reference=(0.5, "chance"),
            note="How well the likelihood of the true response, and of another question's, "
            "singles out the passage a reader of the response would pick.",
        )
    )


def _gradients(rows: Sequence[Row]) -> Panel | None:
    names: dict[str, tuple[str, int]] = {"grad_norm": ("all", NEUTRAL)}
    parts = {"prior": PRIOR, "posterior": POSTERIOR, "generator": GENERATOR, "passages": 4}
    names |= {f"grad_norm_{part}": (part, colour) for part, colour in parts.items()}
    return _panel(
        Panel("gradients", "Gradient norms", "before clipping", _lines(rows, names), low=0.0)
    )


def _stations(rows: Sequence[Row]) -> Panel | None:
    timed = [row for row in rows if row.get("stations")]
    colours = station_colours(station_seconds(rows))

    def line(label: str, names: Sequence[str], colour: int) -> Line | None:
        spent = [sum(float(row["stations"].get(name) or 0.0) for name in names) for row in timed]
        steps = [row.get("step") for row in timed]
        return _line(label, list(zip(steps, (1e3 * s for s in spent), strict=True)), colour)

    shown = {name: colour for name, colour in colours.items() if name not in _OCCASIONAL}
    lines = [line(name, [name], colour) for name, colour in shown.items() if colour != NEUTRAL]
    rest = [name for name, colour in shown.items() if colour == NEUTRAL]
    if rest:
        lines.append(line("other", rest, NEUTRAL))
    return _panel(
        Panel(
            "stations",
            "Time per step",
            "milliseconds",
            tuple(found for found in lines if found is not None),
            stacked=True,
            low=0.0,
        )
    )


def _panel(panel: Panel) -> Panel | None:
    return panel if panel.lines else None


def _lines(rows: Sequence[Row], names: Mapping[str, tuple[str, int]]) -> tuple[Line, ...]:
    found = [
        _line(label, [(row.get("step"), row.get(key)) for row in rows], colour)
        for key, (label, colour) in names.items()
    ]
    return tuple(line for line in found if line is not None)


def _line(
    label: str, points: Iterable[Sequence[Any]], colour: int, dashed: bool = False
) -> Line | None:
    """A curve of the points that have finite numbers; None where no point has."""
    kept = [tuple(point) for point in points if all(map(_is_number, point[:2]))]
    if not kept:
        return None
    kept.sort(key=lambda point: point[0])
    line = Line(
        label,
        tuple(float(point[0]) for point in kept),
        tuple(float(point[1]) for point in kept),
        colour,
        dashed,
    )
    if all(len(point) == 4 and all(map(_is_number, point)) for point in kept):
        return replace(
            line,
            low=tuple(float(point[2]) for point in kept),
            high=tuple(float(point[3]) for point in kept),
        )
    return _thinned(line)


def _thinned(line: Line) -> Line:
    """Means of neighbouring points where there are too many; the last step stays the last."""
    size = math.ceil(len(line.steps) / _MOST_POINTS)
    if size <= 1:
        return line
    starts = range(0, len(line.steps), size)
    steps = tuple(line.steps[min(start + size, len(line.steps)) - 1] for start in starts)
    chunks = [line.values[start : start + size] for start in starts]
    return replace(
        line, steps=steps, values=tuple(math.fsum(chunk) / len(chunk) for chunk in chunks)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _station_order(item: tuple[str, float]) -> tuple[int, str]:
    name = item[0]
    return (_STATIONS.index(name) if name in _STATIONS else len(_STATIONS), name)
