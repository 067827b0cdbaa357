"""A diagnosis as one HTML file in the report's style: curves, errors, questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from jsarag.eval.diagnose import Diagnosis, Question, Questions, Sample
from jsarag.eval.estimator_errors import EstimatorRow
from jsarag.eval.panels import GENERATOR, NEUTRAL, POSTERIOR, PRIOR, Line, Panel, estep_panels
from jsarag.eval.report_format import duration
from jsarag.eval.report_sections import figure, time_per_station
from jsarag.io.atomic import write_text

PAGE_FILE = "diagnose.html"
_TEMPLATE = "report_template.html"
_COLOURS = {"mis": PRIOR, "mis-recycled": 4, "mis-cached": 5, "snis": POSTERIOR}
_SETS = {"prior": NEUTRAL, "union": GENERATOR, "union*": 7}
_MOST_QUESTIONS = 40
_LONGEST = 160


def write_page(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write ``diagnose.html``; an earlier one is replaced."""
    path = folder / PAGE_FILE
    write_text(path, render_page(diagnosis))
    return path


def render_page(diagnosis: Diagnosis) -> str:
    """The whole page."""
    sections = [_header(diagnosis)]
    if diagnosis.sample is not None:
        sections += [_state(diagnosis.sample), _errors(diagnosis.sample)]
    sections += [_training(diagnosis), time_per_station(diagnosis.record)]
    if diagnosis.questions is not None:
        sections.append(_questions(diagnosis.questions))
    sections.append(_notes(diagnosis))
    template = resources.files("jsarag.eval").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(f"{diagnosis.record.name} · jsarag diagnose"),
        body="\n".join(filter(None, sections)),
    )


def error_panels(sample: Sample) -> list[Panel]:
    """Charts of the estimators' errors: against draws, against cost, against k, and the chain."""
    drawn = [row for row in sample.errors if row.mis_steps is not None]
    listed = [row for row in sample.errors if row.mis_steps is None]
    over_m: list[tuple[str, str, str, Callable[[EstimatorRow], float | None], str]] = [
        (
            "gradient-error",
            "Error of the prior's gradient",
            "relative",
            lambda row: row.relative,
            "Root mean square error of (v - p)/T against enumeration; 1 is as wrong as none.",
        ),
        (
            "bias",
            "Bias of v",
            "length",
            lambda row: row.weights.bias,
            "What is left when infinitely many visits are averaged.",
        ),
        (
            "variance",
            "Variance of the gradient",
            "summed over passages",
            lambda row: row.gradient.variance,
            "Of the gradient on the prior's scores, an example.",
        ),
    ]
    found = [
        Panel(name, title, unit, lines, low=0.0, note=note, axis="M", log_x=True)
        for name, title, unit, value, note in over_m
        if (lines := _lines(drawn, lambda row: row.mis_steps, value))
    ]
    cost = _lines(
        [*drawn, *listed],
        lambda row: row.pairs,
        lambda row: row.relative,
    )
    if cost:
        found.insert(
            1,
            Panel(
                "cost",
                "Error against generator scores",
                "relative",
                cost,
                low=0.0,
                note="Passages the generator scores for an example: most of a step's cost.",
                axis="pairs",
                log_x=True,
            ),
        )
    if over_k := _lines(listed, lambda row: row.k, lambda row: row.relative):
        note = "Enumerating the prior's top k, the union, and (union*) the union with "
        note += "log-probabilities over the knowledge base."
        unit = "relative"
        found.append(
            Panel(
                "enumeration",
                "Error of enumeration",
                unit,
                over_k,
                low=0.0,
                note=note,
                axis="k",
                log_x=True,
            )
        )
    lags = sample.chain.autocorrelation
    if sample.chain.examples and lags:
        chain = Line("chain", tuple(map(float, lags)), tuple(lags.values()), 5)
        found.append(
            Panel(
                "autocorrelation",
                "Autocorrelation of a cached chain",
                "of the passage held",
                (chain,),
                low=0.0,
                high=1.0,
                note="At rest, in steps of the chain; a visit makes M of them.",
                axis="lag",
                log_x=True,
            )
        )
    return found


def _lines(
    rows: Sequence[EstimatorRow],
    place: Callable[[EstimatorRow], float | None],
    value: Callable[[EstimatorRow], float | None],
) -> tuple[Line, ...]:
    groups: dict[str, list[tuple[float, float]]] = {}
    colours: dict[str, int] = {}
    for row in rows:
        x, y = place(row), value(row)
        if x is None or y is None:
            continue
        drawn = row.mis_steps is not None
        label = row.estimator if drawn else f"exact {row.support}"
        colours[label] = _COLOURS[row.estimator] if drawn else _SETS.get(row.support, NEUTRAL)
        groups.setdefault(label, []).append((float(x), float(y)))
    lines = []
    for label, points in groups.items():
        xs, ys = zip(*sorted(points), strict=True)
        lines.append(Line(label, xs, ys, colours[label]))
    return tuple(lines)


def _header(diagnosis: Diagnosis) -> str:
    record, sample = diagnosis.record, diagnosis.sample
    dataset = Path(str(record.setting("data.dataset", record.name))).name
    objective = str(record.setting("objective.name", ""))
    chips = [f"step {record.step}" if record.finished else f"unfinished, step {record.step}"]
    if sample is not None:
        state = "before training" if sample.step is None else f"state of step {sample.step}"
        chips += [state, f"{sample.rows} training rows"]
    shown = "".join(f'<span class="chip">{escape(text)}</span>' for text in chips)
    return (
        f'<p class="brand"><b>jsarag</b> diagnosis</p><h1>{escape(dataset)} '
        f'<span>{escape(objective)}</span></h1><div class="chips">{shown}</div>'
    )


def _state(sample: Sample) -> str:
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in state_facts(sample).items()
    )
    return (
        f'<h2>The sample</h2><p class="lead">{escape(tail_sentence(sample))}</p>'
        f'<div class="card"><dl class="facts">{items}</dl></div>'
    )


def state_facts(sample: Sample) -> dict[str, str]:
    """What the sample says about the state, in words and numbers."""
    found, chain = sample.divergences, sample.chain
    return {
        "KL(w || q)": f"{found['kl_posterior']:.2f} nats",
        "KL(w || p)": f"{found['kl_prior']:.2f} nats",
        "Overlap of p and q": f"{found['overlap']:.3f}",
        "Entropy of p, q, w": " / ".join(
            f"{found[f'entropy_{name}']:.2f}" for name in ("prior", "posterior", "exact")
        )
        + " nats",
        "Evidence spread": f"{found['evidence_spread']:.1f} nats",
        "w's best is the prior's first": f"{found['top_is_prior_top']:.0%}",
        "Distinct first passages": f"{sample.distinct_first} of {sample.rows}",
        "Acceptance at rest": f"{chain.acceptance_rate:.1%}",
        "Effective share of a draw": f"{chain.ess_per_draw:.1%}",
        "Second eigenvalue": f"{chain.second_eigenvalue:.3f} (slowest {chain.slowest:.3f})",
        "Autocorrelation time": f"{chain.autocorrelation_time:.1f} steps",
        "Passages scored": f"{sample.passages:.1f} an example",
    }


def tail_sentence(sample: Sample) -> str:
    """What "exact" means here, and what it leaves out."""
    prior, posterior = sample.tail["prior"], sample.tail["posterior"]
    return (
        f"Exact is the enumeration of both retrievers' first {sample.top} passages and all that "
        "was drawn, with log-probabilities over the whole knowledge base. What lies outside is "
        f"ignored: {prior['mean']:.1%} of p's mass ({prior['most']:.1%} at most) and "
        f"{posterior['mean']:.1%} of q's ({posterior['most']:.1%} at most)."
    )


def _errors(sample: Sample) -> str:
    figures = "".join(figure(panel, wide=False) for panel in error_panels(sample))
    heads = (
        "", "M or k", "bias of v", "rms of v", "gradient error", "gradient variance", "ESS",
        "accepted", "pairs", "time",
    )  # fmt: skip
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=name' if place == 0 else ''}>{escape(text)}</td>"
            for place, text in enumerate(error_cells(row))
        )
        + "</tr>"
        for row in sample.errors
    )
    return (
        '<h2>Estimators against the exact weights</h2><p class="lead">Each replayed '
        f"{sample.visits} times on the same scores; every pair was scored once. Errors are lengths "
        "of vectors over passages, the gradient's relative to the exact one's. Time is measured at "
        f"the stations candidates and score, an example, on {sample.timed_rows} examples.</p>"
        f'<div class="charts">{figures}</div><details><summary>All numbers</summary>'
        f'<div class="card"><table><tr>{head}</tr>{body}</table></div></details>'
    )


def error_cells(row: EstimatorRow) -> tuple[str, ...]:
    """A row of the table of errors: name, setting, errors, costs."""
    drawn = row.mis_steps is not None
    return (
        row.estimator if drawn else f"exact, {row.support}",
        f"M {row.mis_steps}" if drawn else f"k {row.k}",
        f"{row.weights.bias:.3f}",
        f"{row.weights.rms:.3f}",
        f"{row.relative:.3f}",
        f"{row.gradient.variance:.3g}",
        "-" if row.ess is None else f"{row.ess:.1f}",
        "-" if row.acceptance_rate is None else f"{row.acceptance_rate:.0%}",
        f"{row.pairs:.1f}",
        "-" if row.seconds is None else duration(row.seconds),
    )


def _training(diagnosis: Diagnosis) -> str:
    panels = estep_panels(diagnosis.record.rows)
    if not panels:
        return ""
    figures = "".join(figure(panel, wide=False) for panel in panels)
    return f'<h2>Over training</h2><div class="charts">{figures}</div>'


def _questions(questions: Questions) -> str:
    if not questions.items:
        return ""
    failures = questions.failures
    rows = "".join(_question_row(item, questions) for item in failures[:_MOST_QUESTIONS])
    more = len(failures) - _MOST_QUESTIONS
    note = f'<p class="note">and {more} more</p>' if more > 0 else ""
    head = "".join(
        f"<th>{name}</th>" for name in ("Question", "Gold passage", "before", "after", "first now")
    )
    return (
        f"<h2>Questions of {escape(questions.split)}</h2>"
        f'<p class="lead">{escape(questions_sentence(questions))}</p><div class="card">'
        f"<table><tr>{head}</tr>{rows}</table>{note}</div>"
    )


def questions_sentence(questions: Questions) -> str:
    """How many were found, how many moved."""
    total = len(questions.items)
    parts = []
    for when in ("before", "after"):
        first = questions.share(when, 1)
        if first is not None and (when == "after" or questions.has_before):
            among = questions.share(when, questions.k) or 0.0
            parts.append(f"{when}: {first:.1%} first, {among:.1%} among {questions.k}")
    moved = (
        f"; {len(questions.better)} rose, {len(questions.worse)} fell"
        if questions.has_before
        else ""
    )
    return (
        f"Gold passages of {total} questions, {'; '.join(parts)}{moved}. "
        f"{len(questions.failures)} do not have one first."
    )


def _question_row(item: Question, questions: Questions) -> str:
    first = item.retrieved_after[0].title if item.retrieved_after else "nothing"
    context = item.context if len(item.context) <= _LONGEST else f"… {item.context[-_LONGEST:]}"
    cells = (
        context,
        item.gold_title,
        rank_text(item.before, questions.k) if questions.has_before else "-",
        rank_text(item.after, questions.k),
        first,
    )
    shown = "".join(f'<td style="white-space:normal">{escape(text)}</td>' for text in cells)
    return f"<tr>{shown}</tr>"


def rank_text(rank: int | None, k: int) -> str:
    """A rank, or that it lies beyond the stored ones."""
    return f"beyond {k}" if rank is None else str(rank)


def _notes(diagnosis: Diagnosis) -> str:
    notes = [*diagnosis.notes, *(diagnosis.sample.notes if diagnosis.sample is not None else ())]
    if not notes:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in notes)
    return f'<h2>Notes</h2><div class="card"><ul class="events">{items}</ul></div>'
