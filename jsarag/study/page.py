"""A comparison as one HTML file that needs nothing but a browser, with its picture inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from jsarag.eval.report_format import duration
from jsarag.io.atomic import write_text
from jsarag.study.arms import PLACES, Study
from jsarag.study.picture import PICTURED, hue_of
from jsarag.study.summary import BLEU, GENERATION, RETRIEVAL, ArmDifference, Summary, in_points
from jsarag.train.watch import MEASURES

PAGE_FILE = "compare.html"
_COLUMNS = (
    *(f"{part} {name}" for part in ("prior", "posterior") for name in RETRIEVAL),
    *(f"generation {name}" for name in GENERATION),
    BLEU,
)
_WIDTH, _LABEL, _ROW = 760, 250, 26


def write_page(study: Study, summary: Summary, folder: Path) -> Path:
    """Write ``compare.html``; an earlier one is replaced."""
    body = "\n".join(
        (
            _head(study),
            _table(summary),
            _stopped(summary),
            _pictures(summary),
            _trials(summary),
            _foot(study),
        )
    )
    template = resources.files("jsarag.eval").joinpath("report_template.html")
    title = escape(f"{study.name} · jsarag compare")
    page = Template(template.read_text(encoding="utf-8")).substitute(title=title, body=body)
    path = folder / PAGE_FILE
    write_text(path, page)
    return path


def differences_svg(items: Sequence[ArmDifference]) -> str:
    """Differences of one metric in points: a dot and its interval each, zero marked."""
    ends = [(in_points(item.metric, item.low), in_points(item.metric, item.high)) for item in items]
    low = min(0.0, *(end for end, _ in ends))
    high = max(0.0, *(end for _, end in ends))
    margin = 0.06 * ((high - low) or 1.0)
    low, high = low - margin, high + margin
    height = _ROW * len(items) + 34

    def x(points: float) -> float:
        return _LABEL + (points - low) / (high - low) * (_WIDTH - _LABEL - 90)

    parts = [
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{height - 28}" '
        'stroke="currentColor" stroke-opacity=".35" stroke-dasharray="3 3"/>',
        f'<text x="{x(0):.1f}" y="{height - 10}" text-anchor="middle" fill="currentColor" '
        'fill-opacity=".7" font-size="12">no difference</text>',
    ]
    for place, (item, (left, right)) in enumerate(zip(items, ends, strict=True)):
        y = 16 + _ROW * place
        value = in_points(item.metric, item.difference)
        hue = f"var(--c{hue_of(item)})"
        parts.append(
            f'<text x="{_LABEL - 12}" y="{y + 4}" text-anchor="end" fill="currentColor" '
            f'font-size="13">{escape(item.arm)} − {escape(item.against)}</text>'
            f'<line x1="{x(left):.1f}" x2="{x(right):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{hue}" stroke-width="3" stroke-linecap="round"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{hue}"/>'
            f'<text x="{x(right) + 10:.1f}" y="{y + 4}" fill="currentColor" '
            f'font-size="12">{value:+.1f}</text>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" style="width:100%;max-width:{_WIDTH}px" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _head(study: Study) -> str:
    seeds = ", ".join(map(str, study.seeds))
    common = " ".join(f"{key}={value}" for key, value in study.common.items() if key not in PLACES)
    return (
        '<p class="brand"><b>jsarag</b> compare</p>'
        f"<h1>{escape(study.name)}</h1>"
        f'<p class="lead">Data {escape(Path(study.dataset).name)}, recipe '
        f"{escape(study.recipe or 'none')}, seeds {seeds}. Every arm ran on the same rows with the "
        f"same models and schedule{': ' + escape(common) if common else ''}.</p>"
    )


def _table(summary: Summary) -> str:
    shown = [name for name in _COLUMNS if any(name in arm.metrics for arm in summary.arms)]
    heads = [*shown, "steps", "seconds", "pairs", "peak"]
    lines = []
    for arm in summary.arms:
        cells = [
            *(
                f"{in_points(name, arm.metrics[name]):.1f}" if name in arm.metrics else "-"
                for name in shown
            ),
            "-" if arm.steps is None else f"{arm.steps:,.0f}",
            "-" if arm.seconds is None else duration(arm.seconds),
            "-" if arm.generator_forwards is None else f"{arm.generator_forwards:,.0f}",
            "-" if not arm.peak_bytes else f"{arm.peak_bytes / 2**30:.1f} GiB",
        ]
        numbers = "".join(f'<td style="text-align:right">{escape(cell)}</td>' for cell in cells)
        name = f"<b>{escape(arm.name)}</b><br><small>{escape(arm.reason)}</small>"
        cell = f"<td style='text-align:left;white-space:normal;min-width:14rem'>{name}</td>"
        lines.append(f"<tr>{cell}{numbers}</tr>")
    header = "<th style='text-align:left'>arm</th>" + "".join(
        f"<th style='text-align:right'>{escape(head)}</th>" for head in heads
    )
    return (
        "<h2>Scores</h2><p class='lead'>Means over examples and seeds, in points. <i>pairs</i>: "
        "(example, passage) pairs through the generator in training.</p>"
        f"<div style='overflow-x:auto'><table style='border-spacing:.9rem .25rem'>"
        f"<thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _stopped(summary: Summary) -> str:
    lines = "".join(
        f"<li><b>{escape(arm.name)}</b>, seed {seed}: {escape(reason)}</li>"
        for arm in summary.arms
        for seed, reason in arm.stopped.items()
    )
    if not lines:
        return ""
    return (
        "<h2>Stopped by a guard</h2><p class='lead'>What is scored is the state that was kept.</p>"
        f"<ul style='list-style:none'>{lines}</ul>"
    )


def _trials(summary: Summary) -> str:
    if not summary.trials:
        return ""
    lines = "".join(
        "<tr><td class=name>{}</td><td class=name>{}</td><td>{}</td><td>{}</td></tr>".format(
            escape(trial.arm),
            escape(", ".join(f"{key}={value}" for key, value in trial.tried.items())),
            escape(MEASURES[trial.measure]),
            f"<b>{trial.value:.3f}</b>" if trial.chosen else f"{trial.value:.3f}",
        )
        for trial in summary.trials
    )
    return (
        "<h2>Settings tried</h2><p class='lead'>Each arm with the first seed; measured on training "
        "rows that were held back. The best of an arm, in bold, is what it is compared with.</p>"
        "<div class='card'><table><tr><th>arm</th><th>tried</th><th>measure</th><th>value</th>"
        f"</tr>{lines}</table></div>"
    )


def _pictures(summary: Summary) -> str:
    parts = [
        "<h2>Differences</h2><p class='lead'>In points, with 95 % intervals over whole dialogues "
        "and seeds. Green: better and sure of it; orange: worse and sure; yellow: the interval "
        "holds 0.</p>"
    ]
    for metric in PICTURED:
        items = [item for item in summary.differences if item.metric == metric]
        if items:
            parts.append(f"<h3>{escape(metric)}</h3>{differences_svg(items)}")
    return "\n".join(parts)


def _foot(study: Study) -> str:
    arms = "".join(
        f"<li><b>{escape(arm.name)}</b> <span class='mono'>"
        f"{escape(' '.join(f'{key}={value}' for key, value in arm.settings.items()))}</span></li>"
        for arm in study.arms
    )
    return f"<h2>The arms' settings</h2><ul style='list-style:none'>{arms}</ul>"
