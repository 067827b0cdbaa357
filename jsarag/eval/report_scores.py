"""The report's scores: the headline and the table before/after, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from jsarag.eval.report_format import BLEU, duration, figure, is_number, number, signed
from jsarag.eval.run_record import EvalRecord, RunRecord
from jsarag.eval.significance import Difference

_GROUPS = (
    ("prior", "Prior retriever: what answers questions", ("R@1", "R@5", "R@10", "MRR@10")),
    ("posterior", "Posterior retriever: also reads the response", ("R@1", "MRR@10")),
    ("generation", "Responses", ("EM", "F1", "BLEU-4", "ROUGE-L")),
)


class Score(NamedTuple):
    """One metric before and after, each with its interval, and the paired difference."""

    name: str
    before: float | None
    after: float | None
    before_interval: Sequence[float] | None
    after_interval: Sequence[float] | None
    difference: Difference | None


def scores(record: RunRecord) -> str:
    """The headline and the table before/after."""
    groups = [(title, _scores_of(record, part, names)) for part, title, names in _GROUPS]
    groups = [(title, found) for title, found in groups if found]
    if not groups:
        return (
            '<div class="card hero plain"><div class="headline"><p class="what">Nothing scored '
            "yet</p><p>No evaluation is stored in this run folder: it was not reached, or the "
            "rows have neither gold passages nor a generator to score.</p></div></div>"
        )
    table = _table(groups, record)
    return f'<div class="card hero">{_headline(record)}<div class="scores">{table}</div></div>'


def _headline(record: RunRecord) -> str:
    part, name, words = _headline_metric(record)
    score = next(iter(_scores_of(record, part, (name,))), None)
    if score is None:
        return ""
    late = score.after is not None
    latest = score.after if score.after is not None else score.before
    assert latest is not None
    numbers = f'<span class="to">{latest:.3f}</span>'
    if score.before is not None and late:
        numbers = (
            f'<span class="from">{score.before:.3f}</span><span class="arrow">→</span>{numbers}'
        )
    when = "before training" if not late else "after training"
    if late and not record.finished:
        when = "at the last evaluation"
    sentence = f"{words.format(share=f'{latest:.1%}')} {_count(record, part)} {when}."
    return (
        f'<div class="headline"><p class="what">{escape(name)} on {escape(record.split)}</p>'
        f'<div class="numbers">{numbers}</div>{_headline_change(score)}<p>{escape(sentence)}</p>'
        f"{_also(record, part)}</div>"
    )


def _headline_change(score: Score) -> str:
    if score.before is None or score.after is None:
        return ""
    change = f"{signed(score.name, score.after - score.before)}"
    if score.difference is None:
        return f'<p class="change">{change}</p>'
    low, high = (signed(score.name, end) for end in (score.difference.low, score.difference.high))
    interval = f"<small>95 % interval {low} to {high}</small>"
    return (
        f'<p class="change {_tone(score)}">{change} {interval}</p>'
        f"<p>{escape(_verdict(score.difference))}</p>"
    )


def _also(record: RunRecord, part: str) -> str:
    """What a reader asks next, in a few words each."""
    pairs = []
    wanted = [("prior", "MRR@10", "MRR@10"), ("posterior", "R@1", "Posterior R@1")]
    if part == "prior":
        wanted.append(("generation", "F1", "Response F1"))
    for group, name, words in wanted:
        for score in _scores_of(record, group, (name,)):
            ends = [end for end in (score.before, score.after) if end is not None]
            start = f"<i>{figure(name, ends[0])} →</i> " if len(ends) == 2 else ""
            pairs.append((words, f"{start}{figure(name, ends[-1])}"))
    evidence = record.rows_of("evidence")
    if evidence and is_number(evidence[-1].get("auc")):
        pairs.append(("Evidence (AUC)", f"{evidence[-1]['auc']:.2f}"))
    if record.seconds is not None:
        pairs.append(("Training time", escape(duration(record.seconds))))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f"<dl>{items}</dl>" if items else ""


def _headline_metric(record: RunRecord) -> tuple[str, str, str]:
    if _scores_of(record, "prior", ("R@1",)):
        return "prior", "R@1", "The prior retriever puts a gold passage first for {share} of"
    return "generation", "F1", "Word overlap with the best answer is {share} over"


def _count(record: RunRecord, part: str) -> str:
    for found in (record.after, record.before):
        n = _part(found, part).get("n")
        if n:
            return f"{int(n):,} questions"
    return "the questions"


def _verdict(difference: Difference) -> str:
    p_value = f"p = {difference.p_value:.2g}" if difference.p_value > 0.001 else "p ≤ 0.001"
    if difference.low <= 0.0 <= difference.high:
        return f"Within noise: the interval of the change includes zero ({p_value})."
    direction = "up" if difference.value > 0 else "down"
    return f"Clearly {direction}, compared question by question ({p_value})."


def _scores_of(record: RunRecord, part: str, names: Sequence[str]) -> list[Score]:
    before, after = _part(record.before, part), _part(record.after, part)
    changes: Mapping[str, Difference | None] = {}
    if record.comparison is not None:
        changes = getattr(record.comparison, part)
    found = []
    for name in names:
        values = [number(scores.get(name)) for scores in (before, after)]
        if values == [None, None]:
            continue
        bounds = [_bounds(scores, name) for scores in (before, after)]
        found.append(Score(name, values[0], values[1], bounds[0], bounds[1], changes.get(name)))
    return found


def _part(found: EvalRecord | None, part: str) -> Mapping[str, Any]:
    if found is None:
        return {}
    if part == "generation":
        return found.metrics.get("generation") or {}
    return (found.metrics.get("retrieval") or {}).get(part) or {}


def _bounds(scores: Mapping[str, Any], name: str) -> Sequence[float] | None:
    interval = (scores.get("intervals") or {}).get(name)
    if isinstance(interval, Sequence) and len(interval) == 2 and all(map(is_number, interval)):
        return interval
    return None


def _table(groups: Sequence[tuple[str, Sequence[Score]]], record: RunRecord) -> str:
    paired = any(
        score.before is not None and score.after is not None for _, rows in groups for score in rows
    )
    late = "after" if record.finished else "latest"
    heads = ["before", late, "change"] if paired else [_only(record, late)]
    body = []
    for title, rows in groups:
        columns = len(heads) + 2
        body.append(f'<tr class="group"><td colspan="{columns}">{escape(title)}</td></tr>')
        body += [_score_row(score, paired) for score in rows]
    keys = ""
    if paired:
        keys = (
            '<span class="key"><i></i>before</span>'
            f'<span class="key"><i class="to"></i>{late}</span>'
        )
    return (
        f'<table><thead><tr><th>metric</th><th class="strip">{keys}</th>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead><tbody>{''.join(body)}</tbody></table>"
        '<p class="note">Small figures: 95 % intervals, resampling whole dialogues; the change is '
        "paired over the same questions. BLEU on its usual scale of 0 to 100.</p>"
    )


def _only(record: RunRecord, late: str) -> str:
    return "before" if record.after is None else late


def _score_row(score: Score, paired: bool) -> str:
    cells = []
    if paired:
        cells.append(_value_cell(score.name, score.before, score.before_interval))
        cells.append(_value_cell(score.name, score.after, score.after_interval, late=True))
        change = _change(score)
        cells.append(f'<td class="{_tone(score)}">{change or "–"}</td>')
    else:
        late = score.after is not None
        value = score.after if late else score.before
        interval = score.after_interval if late else score.before_interval
        cells.append(_value_cell(score.name, value, interval, late=True))
    return (
        f'<tr><td class="name">{escape(score.name)}</td><td class="strip">{_strip(score)}</td>'
        f"{''.join(cells)}</tr>"
    )


def _value_cell(
    name: str, value: float | None, interval: Sequence[float] | None, *, late: bool = False
) -> str:
    if value is None:
        return "<td>–</td>"
    small = ""
    if interval is not None:
        small = (
            f"<small class=interval>{figure(name, interval[0])}–{figure(name, interval[1])}</small>"
        )
    text = figure(name, value)
    return f"<td>{f'<span class=after>{text}</span>' if late else text}{small}</td>"


def _change(score: Score) -> str:
    if score.before is None or score.after is None:
        return ""
    text = signed(score.name, score.after - score.before)
    if score.difference is None:
        return text
    low, high = (signed(score.name, end) for end in (score.difference.low, score.difference.high))
    return f"{text}<small>{low} to {high}</small>"


def _tone(score: Score) -> str:
    if score.difference is None or score.difference.low <= 0.0 <= score.difference.high:
        return ""
    return "good" if score.difference.value > 0 else "bad"


def _strip(score: Score) -> str:
    """Before and after on one axis from 0 to 1 (BLEU: to 100), whiskers for the intervals."""
    width, height = 260.0, 26.0
    top = 100.0 if score.name.startswith(BLEU) else 1.0

    def x(value: float) -> float:
        return 5.0 + max(0.0, min(value / top, 1.0)) * (width - 10.0)

    parts = [f'<line class="track" x1="5" x2="{width - 5}" y1="13" y2="13"/>']
    both = score.before is not None and score.after is not None
    rows = (
        ("c0", score.before, score.before_interval, 8.0 if both else 13.0),
        ("c1", score.after, score.after_interval, 18.0 if both else 13.0),
    )
    for colour, value, interval, y in rows:
        if value is None:
            continue
        if interval is not None:
            parts.append(
                f'<line class="whisker {colour}" x1="{x(interval[0]):.1f}" '
                f'x2="{x(interval[1]):.1f}" y1="{y}" y2="{y}"/>'
            )
        parts.append(f'<circle class="dot {colour}" cx="{x(value):.1f}" cy="{y}" r="4.2"/>')
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" aria-hidden="true">{"".join(parts)}</svg>'
