"""What ``jsarag diagnose`` does with its options, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from jsarag_cli.output import duration, facts, note, result_console, table

if TYPE_CHECKING:
    from jsarag.eval.diagnose import Diagnosis, Found, Question, Questions, Sample
    from jsarag.train.reporting import Reporter

_SWEEPS = ("mis_steps", "k")
_CHECKPOINTS = ("last", "untrained")
_BARS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 24
# Passages listed of a retrieval, questions listed of those that moved.
_LISTED, _MOVED = 3, 5
# Of the two columns 'beyond 10', and what is between columns.
_RANKS_WIDTH = 26


def look_at(
    run: Path, sweep: Sequence[str], reporter: Reporter, *, checkpoint: str, **options: Any
) -> tuple[Diagnosis, Path]:
    """Diagnose a run and write its page.

    Args:
        run: the folder.
        sweep: texts of ``--sweep``.
        reporter: told what happens.
        checkpoint: text of ``--checkpoint``.
        options: further fields of ``DiagnoseSettings``.

    Raises:
        ConfigError: a sweep or a checkpoint that does not exist.
    """
    from jsarag.errors import ConfigError
    from jsarag.eval.diagnose_page import write_page
    from jsarag.train.diagnose import DiagnoseSettings, diagnose_run

    if checkpoint not in _CHECKPOINTS:
        raise ConfigError(
            f"--checkpoint: expected {' or '.join(_CHECKPOINTS)}, found '{checkpoint}'"
        )
    sweeps: dict[str, Any] = dict(parse_sweeps(sweep))
    settings = DiagnoseSettings(checkpoint=checkpoint, **sweeps, **options)
    found = diagnose_run(run, settings, reporter)
    return found, write_page(found, run)


def look_at_failures(run: Path) -> Diagnosis:
    """Only what the folder says about single questions.

    Raises:
        DataError: no evaluation stored its rows, or none of them names gold passages.
    """
    from jsarag.errors import DataError
    from jsarag.train.diagnose import read_diagnosis

    found = read_diagnosis(run)
    if found.questions is None:
        raise DataError(
            "expected an evaluation's predictions.jsonl, found none; run `jsarag eval RUN` first",
            path=run / "eval",
        )
    if not found.questions.items:
        raise DataError(
            f"none of the {found.questions.without_gold} evaluated questions names gold passages, "
            "so nobody knows which were missed; add 'gold_passages' to the split's rows",
            path=run / "eval" / found.questions.split,
        )
    return found


def parse_sweeps(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``["k=2,4"]`` -> ``{"k": (2, 4)}``; ascending, each value once.

    Raises:
        ConfigError: an unknown name, or something else than whole numbers from 1.
    """
    from jsarag.errors import ConfigError

    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        key = name.strip().replace("-", "_")
        if key not in _SWEEPS:
            raise ConfigError(
                f"--sweep: expected mis-steps=A,B,... or k=A,B,..., found '{text}'; other settings "
                "change what is trained, not what is measured"
            )
        parts = [part.strip() for part in values.split(",") if part.strip()]
        if not parts or not all(part.isdecimal() and int(part) >= 1 for part in parts):
            raise ConfigError(
                f"--sweep {name}: expected whole numbers from 1, found '{values}'; such as "
                f"--sweep {name}=1,2,4"
            )
        found[key] = tuple(sorted({int(part) for part in parts}))
    return found


def show(found: Diagnosis, page: Path) -> None:
    """Everything, for people."""
    from jsarag.eval.diagnose_page import questions_sentence

    console = result_console()
    record = found.record
    state = f"{record.step:,} steps" if record.finished else f"unfinished, step {record.step:,}"
    console.print(f"{record.name}, {state}", style="bold", markup=False, soft_wrap=True)
    _show_training(found, console)
    if found.sample is not None:
        _show_sample(found.sample, console)
    if found.questions is not None and found.questions.items:
        console.print()
        console.print("Questions", style="bold")
        console.print(questions_sentence(found.questions), markup=False)
        _show_moved(found.questions, console)
        console.print("--failures shows what was retrieved.", style="dim")
    console.print(f"\n{page}", markup=False, soft_wrap=True)
    for text in (*found.notes, *(found.sample.notes if found.sample is not None else ())):
        note(text)


def show_failures(found: Diagnosis, most: int) -> None:
    """Questions whose gold passage does not come first; text is cut to the terminal's width."""
    from jsarag.eval.diagnose_page import questions_sentence, rank_text

    questions = found.questions
    assert questions is not None
    console = result_console()
    console.print(questions_sentence(questions), markup=False)
    failures = questions.failures
    for item in failures[:most]:
        console.print()
        _line(console, Text(_end_of(item.context, console.width), style="bold"))
        ranks = _ranks(item, questions, rank_text)
        _line(console, Text.assemble(("gold   ", "green"), item.gold_title, ("  " + ranks, "dim")))
        if questions.has_before:
            _show_list(console, "before", item.retrieved_before)
        _show_list(console, "after", item.retrieved_after)
    if len(failures) > most:
        console.print(f"\nand {len(failures) - most} more; --most {len(failures)} shows all")
    for text in found.notes:
        note(text)


def curve(values: Sequence[float], width: int = _BAR_WIDTH) -> str:
    """Values as bars of eight heights, means of neighbours where there are more than fit."""
    size = -(-len(values) // width)
    means = [
        sum(values[start : start + size]) / len(values[start : start + size])
        for start in range(0, len(values), size)
    ]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in means)


def _show_training(found: Diagnosis, console: Console) -> None:
    from jsarag.eval.diagnose import SERIES, training_series
    from jsarag.eval.panels import station_seconds

    series = training_series(found.record)
    if not series:
        console.print("Nothing of end-to-end training is logged yet.")
        return
    made = table("over training", "first", "middle", "last", "", numbers=(1, 2, 3))
    for name, points in series.items():
        values = points["values"]
        ends = (values[0], values[len(values) // 2], values[-1])
        made.add_row(SERIES[name], *(f"{value:.4g}" for value in ends), curve(values))
    console.print(made)
    seconds = station_seconds(found.record.rows)
    total = sum(seconds.values())
    if total <= 0:
        return
    console.print()
    stations = table("station", "a step", "share", numbers=(1, 2))
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        if spent / total >= 0.005:
            stations.add_row(name, _time(spent), f"{spent / total:.0%}")
    console.print(stations)


def _show_sample(sample: Sample, console: Console) -> None:
    from jsarag.eval.diagnose_page import error_cells, state_facts, tail_sentence

    state = "before training" if sample.step is None else f"state of step {sample.step}"
    console.print()
    console.print(f"{sample.rows} training rows, {state}", style="bold")
    console.print(facts(state_facts(sample)))
    console.print()
    made = table(
        "estimator", "", "bias v", "rms v", "gradient", "variance", "ESS", "taken", "pairs", "time",
        numbers=range(2, 10),
    )  # fmt: skip
    names = [error_cells(row)[0] for row in sample.errors]
    made.columns[0].min_width = max(map(len, names), default=0)
    last = None
    for row in sample.errors:
        if last is not None and last != (row.estimator, row.support):
            made.add_section()
        last = (row.estimator, row.support)
        made.add_row(*error_cells(row), style="bold" if _is_own(row.to_json(), sample) else "")
    console.print(made)
    console.print(
        "gradient: rms error of (v - p)/T over the exact gradient's length; time an example at the "
        f"stations candidates and score, measured on {sample.timed_rows}. union* enumerates the "
        "union with log-probabilities over the knowledge base. Bold: as trained. "
        + tail_sentence(sample),
        style="dim",
        markup=False,
    )


def _show_moved(questions: Questions, console: Console) -> None:
    """The largest falls and rises of the gold passage, a line each."""
    from jsarag.eval.diagnose_page import rank_text

    for name, items in (("worse", questions.worse), ("better", questions.better)):
        if not items:
            continue
        heads = (f"{name}: {len(items)}", "gold passage", "before", "after")
        made = table(*heads, numbers=(2, 3))
        room = console.width - _RANKS_WIDTH
        for column, width in zip(made.columns[:2], (3 * room // 5, 2 * room // 5), strict=True):
            column.no_wrap, column.overflow, column.max_width = True, "ellipsis", width
        for item in items[:_MOVED]:
            ranks = (rank_text(item.before, questions.k), rank_text(item.after, questions.k))
            context = _end_of(item.context, 3 * room // 5)
            made.add_row(Text(context), Text(item.gold_title), *ranks)
        console.print(made)


def _is_own(row: Mapping[str, Any], sample: Sample) -> bool:
    """Whether this is how the run trained."""
    chosen = sample.chosen
    if chosen["objective"] != "jsa" or row["estimator"] != chosen["estimator"]:
        return False
    if row["mis_steps"] is not None:
        return bool(row["mis_steps"] == chosen["mis_steps"])
    support = "union*" if chosen["support"] == "kb" else chosen["support"]
    return bool(row["support"] == support and row["k"] == chosen["k"])


def _show_list(console: Console, when: str, found: Sequence[Found]) -> None:
    """The first few, and the gold passage where it comes later."""
    shown = list(found[:_LISTED])
    shown += [item for item in found[_LISTED:] if item.gold][:1]
    for place, item in enumerate(shown):
        head = f"{when if place == 0 else '':<7}"
        style = "green" if item.gold else ""
        _line(console, Text.assemble((head, "dim"), (f"{item.rank:>3} {item.title}", style)))
    if not shown:
        _line(console, Text(f"{when:<7}  - nothing retrieved", style="dim"))


def _ranks(item: Question, questions: Questions, rank_text: Any) -> str:
    after = rank_text(item.after, questions.k)
    if not questions.has_before:
        return f"rank {after}"
    return f"rank {rank_text(item.before, questions.k)} before, {after} after"


def _line(console: Console, text: Text) -> None:
    """One line, cut where the terminal ends."""
    console.print(text, no_wrap=True, overflow="ellipsis", crop=True)


def _end_of(context: str, width: int) -> str:
    """The end of a context, which holds the question, on one line."""
    flat = " ".join(context.split())
    return flat if len(flat) <= width else f"…{flat[-(width - 1) :]}"


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
