"""The report's sections: each makes HTML of a run's record, '' where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jsarag.eval import charts
from jsarag.eval.panels import Panel, make_panels, station_colours, station_seconds
from jsarag.eval.report_format import duration, is_number
from jsarag.eval.run_record import Event, RunRecord

_MOST_WARNINGS = 40
_TIMES = "stations"
_MEDIUM = 500
_LEAST_SHARE = 0.001


def header(record: RunRecord) -> str:
    """Title, one sentence, and how the run ended."""
    dataset = Path(str(record.setting("data.dataset", record.name))).name
    objective = str(record.setting("objective.name", ""))
    seed = record.setting("train.seed")
    words = [objective, "" if seed is None else f"seed {seed}"]
    state, tone = _state(record)
    chips = [f'<span class="chip {tone}">{escape(state)}</span>']
    chips += [f'<span class="chip">{escape(text)}</span>' for text in _chips(record)]
    title = " · ".join(escape(word) for word in words if word)
    return (
        f'<p class="brand"><b>jsarag</b> run report</p><h1>{escape(dataset)} <span>{title}</span>'
        f'</h1><div class="chips">{"".join(chips)}</div>'
    )


def evidence(record: RunRecord) -> str:
    """Whether the generator's likelihood singles out passages: the method's premise."""
    rows = record.rows_of("evidence")
    if not rows:
        return ""
    last = rows[-1]
    verdict = str(last.get("verdict", "unknown"))
    title, tone = {
        "evidence": ("The likelihood carries evidence", "good"),
        "chance": ("The likelihood carries no evidence", "bad"),
    }.get(verdict, (f"Evidence check: {verdict}", "wait"))
    facts = [*_evidence_numbers(last), f"step {last.get('step', '?')}"]
    spans = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    advice = f"<p>{escape(str(last['advice']))}</p>" if last.get("advice") else ""
    return (
        '<h2>Evidence check</h2><p class="lead">Training learns from how much likelier the '
        "response becomes given a passage. If that says nothing about which passage is right, "
        'nothing can be learned from it.</p><div class="card"><div class="verdict">'
        f'<b class="{tone}">{escape(title)}</b>{spans}</div>{advice}</div>'
    )


def _evidence_numbers(row: Mapping[str, Any]) -> list[str]:
    numbers = []
    if is_number(row.get("auc")):
        other = row.get("auc_shuffled")
        beside = f" against {other:.2f} with another’s" if is_number(other) else ""
        numbers.append(f"AUC {row['auc']:.2f} with the true response{beside}")
    if all(is_number(row.get(name)) for name in ("margin", "low", "high")):
        numbers.append(f"margin {row['margin']:.2f} ({row['low']:.2f} to {row['high']:.2f})")
    return numbers


def curves(record: RunRecord) -> str:
    """Every chart the run has numbers for, but the one of the section on time."""
    panels = [panel for panel in make_panels(record.rows) if panel.name != _TIMES]
    if not panels:
        return ""
    figures = "".join(figure(panel, wide=panel.name == "retrieval") for panel in panels)
    return f'<h2>Over training</h2><div class="charts">{figures}</div>'


def time_per_station(record: RunRecord) -> str:
    """Where a step's time went: one bar for the mean, and how it changed."""
    seconds = station_seconds(record.rows)
    total = sum(seconds.values())
    if total <= 0:
        return ""
    parts = {name: spent for name, spent in seconds.items() if spent / total >= _LEAST_SHARE}
    small = [name for name in seconds if name not in parts]
    colours = station_colours(seconds)
    bar = "".join(
        f'<i class="c{colours[name]}" style="flex:{spent / total:.5f}" '
        f'title="{escape(name)}: {duration(spent)}"></i>'
        for name, spent in parts.items()
    )
    legend = "".join(
        f'<li><i class="c{colours[name]}"></i><span>{escape(name)}</span>'
        f"<span>{duration(spent)}</span><span>{spent / total:.0%}</span></li>"
        for name, spent in sorted(parts.items(), key=lambda part: -part[1])
    )
    if small:
        legend += f'<li class="small">under {_LEAST_SHARE:.1%}: {escape(", ".join(small))}</li>'
    panel = next((panel for panel in make_panels(record.rows) if panel.name == _TIMES), None)
    chart = "" if panel is None else _both(panel, _MEDIUM)
    return (
        f'<h2>Where a step’s time goes</h2><p class="lead">{duration(total)} per step on average, '
        "by station of the training loop; evaluating, rebuilding and saving are spread over the "
        "steps, and left out of the chart.</p>"
        f'<div class="card"><div class="stack">{bar}</div><div class="times">'
        f'<ul class="legend">{legend}</ul><div>{chart}</div></div></div>'
    )


def figure(panel: Panel, *, wide: bool) -> str:
    """A chart on a card with its title and note; a wide one has a drawing for telephones, too."""
    note = f'<p class="note">{escape(panel.note)}</p>' if panel.note else ""
    drawn = _both(panel, charts.WIDE) if wide else charts.draw(panel)
    return (
        f'<figure class="card{" wide" if wide else ""}"><figcaption><h3>{escape(panel.title)}</h3>'
        f"<span>{escape(panel.unit)}</span></figcaption>{drawn}{note}</figure>"
    )


def _both(panel: Panel, width: int) -> str:
    """A wide drawing and one for narrow windows, where the wide one's text would be too small."""
    return charts.draw(panel, kind="narrow") + charts.draw(panel, width, kind="wide")


def warnings(record: RunRecord) -> str:
    """Warnings, truncation counts and notes; the whole log folded below."""
    shown = [event for event in record.events if event.level != "info"]
    notes = [Event("", "note", text) for text in (*_eval_notes(record), *record.problems)]
    items = [*notes, *_once(shown)]
    if not items and not record.events:
        return ""
    listed = "".join(_event_item(event) for event in items[:_MOST_WARNINGS])
    if len(items) > _MOST_WARNINGS:
        listed += f"<li>and {len(items) - _MOST_WARNINGS} more in events.log</li>"
    body = f'<ul class="events">{listed}</ul>' if items else "<p>No warnings, nothing cut.</p>"
    log = ""
    if record.events:
        lines = "\n".join(
            escape(
                f"{event.time[:19].replace('T', ' ')}  "
                + (f"{event.level}: " if event.level != "info" else "")
                + event.text
            )
            for event in record.events
        )
        title = f"All {len(record.events)} events"
        log = f"<details><summary>{title}</summary><pre>{lines}</pre></details>"
    return f'<h2>Warnings and notes</h2><div class="card">{body}</div>{log}'


def facts(record: RunRecord) -> str:
    """What the run was: data, method, machine."""
    pairs = [(name, value) for name, value in _facts(record) if value]
    if not pairs:
        return ""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs
    )
    return f'<h2>What was run</h2><div class="card"><dl class="facts">{items}</dl></div>'


def configuration(record: RunRecord) -> str:
    """The resolved configuration, folded; what was not a default stands out."""
    if not record.config_text.strip():
        return ""
    lines = []
    for line in record.config_text.rstrip("\n").split("\n"):
        chosen = "  # " in line and not line.endswith("# default")
        lines.append(f"<b>{escape(line)}</b>" if chosen else escape(line))
    return (
        "<details><summary>Full configuration, and where each value came from</summary>"
        f"<pre>{chr(10).join(lines)}</pre></details>"
    )


def footer(record: RunRecord) -> str:
    """Signature and version: what is needed to make the numbers again."""
    parts = []
    for name, found in (("before", record.before), ("after", record.after)):
        signature = found.metrics.get("signature") if found is not None else None
        if signature:
            parts.append(
                f'<p>Scores {name}: <span class="mono">{escape(str(signature))}</span></p>'
            )
    version = record.environment.get("jsarag")
    made = f"jsarag {version}" if version else "jsarag"
    parts.append(f"<p>Run folder {escape(record.name)} · {escape(made)}</p>")
    return f"<footer>{''.join(parts)}</footer>"


def _state(record: RunRecord) -> tuple[str, str]:
    goal = record.setting("train.max_steps")
    if record.finished:
        return f"finished after {record.step} steps", "good"
    if not record.step:
        return "not trained yet", "wait"
    return f"unfinished: step {record.step}{f' of {goal}' if goal else ''}", "wait"


def _chips(record: RunRecord) -> list[str]:
    support = {"kb": "whole knowledge base", "union": "union of top k", "prior": "prior's top k"}
    chips = []
    if (name := record.setting("objective.support")) is not None:
        chips.append(f"support: {support.get(str(name), name)}")
    if (name := record.setting("objective.estimator")) is not None:
        chips.append(f"E-step: {name}")
    if (name := record.setting("generator.model")) is not None:
        chips.append(f"generator: {Path(str(name)).name}")
    if record.seconds is not None:
        chips.append(f"trained for {duration(record.seconds)}")
    return chips


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    setting, environment = record.setting, record.environment
    frozen = setting("train.freeze") or []
    machine = str(environment.get("cuda_device") or environment.get("cpu") or "")
    cores = environment.get("usable_cores")
    steps = setting("train.max_steps")
    size = setting("train.batch_size")
    accumulation = setting("train.gradient_accumulation_steps", 1)
    batches = f"{size} × {accumulation}" if accumulation and accumulation != 1 else size
    packages = environment.get("packages")
    versions = [f"jsarag {environment['jsarag']}"] if environment.get("jsarag") else []
    if isinstance(packages, Mapping):
        versions += [
            f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages
        ]
    commit = environment.get("commit")
    return [
        ("Data set", str(setting("data.dataset", ""))),
        ("Objective", str(setting("objective.name", ""))),
        ("Support", str(setting("objective.support", ""))),
        ("Estimator", _estimator(record)),
        ("Likelihood", str(setting("objective.likelihood", ""))),
        ("Retriever", f"{setting('retriever.model', '')}"),
        ("Temperature", str(setting("retriever.temperature", ""))),
        ("Generator", str(setting("generator.model", ""))),
        ("Frozen", ", ".join(map(str, frozen)) if frozen else "nothing" if record.config else ""),
        ("Steps", f"{record.step} of {steps}" if steps is not None else ""),
        ("Batch", f"{batches} questions" if batches else ""),
        ("Learning rate", str(setting("train.learning_rate", ""))),
        ("Seed", str(setting("train.seed", ""))),
        ("Training time", "" if record.seconds is None else duration(record.seconds)),
        ("Machine", f"{machine}{f', {cores} cores' if cores and machine else ''}"),
        (
            "Commit",
            str(commit)[:12] + ("-dirty" if str(commit).endswith("-dirty") else "")
            if commit
            else "",
        ),
        ("Versions", ", ".join(versions)),
        ("Command", " ".join(map(str, environment.get("command") or []))),
    ]


def _estimator(record: RunRecord) -> str:
    name = record.setting("objective.estimator")
    draws, k = record.setting("objective.mis_steps"), record.setting("objective.k")
    if name is None:
        return ""
    return f"{name}, k = {k}" if name == "exact" else f"{name}, {draws} draws, k = {k}"


def _eval_notes(record: RunRecord) -> list[str]:
    notes: list[str] = []
    for found in (record.before, record.after):
        notes += [] if found is None else [str(note) for note in found.metrics.get("notes") or []]
    if record.before is not None and record.after is not None:
        changed = _changed_settings(record.before.metrics, record.after.metrics)
        if changed:
            notes.append("before and after were not scored alike: " + "; ".join(changed))
    if record.comparison is not None and record.comparison.dropped:
        notes.append(
            f"{record.comparison.dropped} rows were scored only before or only after; the changes "
            "are over the rows both have"
        )
    return list(dict.fromkeys(notes))


def _changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Signature fields that differ; the index generation may."""
    first, second = (
        dict(part.partition(":")[::2] for part in str(found.get("signature") or "").split("|"))
        for found in (before, after)
    )
    return [
        f"{key} {first[key]} then {second[key]}"
        for key in first
        if key != "index" and key in second and first[key] != second[key]
    ]


def _once(events: Sequence[Event]) -> list[Event]:
    """Each text once, at its first time."""
    return list({(event.level, event.text): event for event in reversed(events)}.values())[::-1]


def _event_item(event: Event) -> str:
    tone = {"warning": "wait"}.get(event.level, "")
    time = event.time[11:19]
    stamp = f"<time>{escape(time)}</time>" if time else ""
    return (
        f'<li><span class="tag {tone}">{escape(event.level)}</span>{stamp}{escape(event.text)}</li>'
    )
