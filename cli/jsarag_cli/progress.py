"""A run's progress on stderr: live bars on a terminal, else a plain line every few seconds.

Implements ``jsarag.train.reporting.Reporter``; nothing here may raise into the trainer, and only
rank 0 shows anything.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from jsarag_cli.output import duration, leads, log_console

if TYPE_CHECKING:
    from rich.console import Console

    from jsarag.train.reporting import Level, Reporter

_EVERY_S = 5.0
_SHOWN = (
    ("loss", "loss"),
    ("acceptance_rate", "accepted"),
    ("ess", "ess"),
    ("distinct_ratio", "distinct"),
    ("prior_posterior_overlap", "overlap"),
)


class _Nowhere(io.StringIO):
    """A stream that forgets."""

    def write(self, text: str) -> int:
        return len(text)


class PlainReporter(AbstractContextManager["PlainReporter"]):
    """One line at a time, for files, pipes and CI.

    Args:
        stream: where to.
        every_s: seconds between two lines about the same stage.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._every_s, self._clock = every_s, clock
        self._name = ""
        self._total: int | None = None
        self._began = self._shown_at = clock()
        self._done, self._numbers = 0, ""
        self._first: int | None = None

    def __exit__(self, *_: object) -> None:
        return None

    def stage(self, name: str, total: int | None) -> None:
        """Say what begins; a stage with a total says how far it is now and then."""
        self._name, self._total, self._numbers = name, total, ""
        self._done, self._first = 0, None
        self._began = self._shown_at = self._clock()
        self._line(name if total is None else f"{name} ({total:,})")

    def advance(self, done: int) -> None:
        """A line with the share and the time left, if the last one is old enough."""
        self._done = done
        if self._first is None:
            # What is done at once was done before: a run is continued.
            at_once = self._clock() - self._began < 0.1 * self._every_s
            self._first = done if at_once else 0
        self._show_if_due()

    def step(self, record: Mapping[str, Any]) -> None:
        """Put the step's numbers on the next line."""
        self._numbers = describe_step(record)
        self._show_if_due()

    def evaluated(self, step: int, result: Mapping[str, Any]) -> None:
        """One line of scores."""
        self._line(f"evaluation at step {step}: {describe_scores(result)}")

    def event(self, text: str, level: Level = "info") -> None:
        """The text; warnings say that they are."""
        self._line(f"warning: {text}" if level == "warning" else text)

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Where the run is and how long it took."""
        self._line(describe_end(summary))

    def _show_if_due(self) -> None:
        now = self._clock()
        if now - self._shown_at < self._every_s:
            return
        self._shown_at = now
        parts = [f"{self._name}: {self._done:,}"]
        if self._total:
            share = 100 * self._done / self._total
            parts[0] += f" of {self._total:,} ({share:.0f} %)"
            walked = self._done - (self._first or 0)
            if walked > 0:
                left = (now - self._began) / walked * max(self._total - self._done, 0)
                parts.append(f"{duration(left)} left")
        self._line(", ".join(filter(None, [*parts, self._numbers])))

    def _line(self, text: str) -> None:
        try:
            self._stream.write(" ".join(text.splitlines()) + "\n")
            self._stream.flush()
        except OSError:  # whoever listened is gone; the run goes on
            self._stream = _Nowhere()


class RichReporter(AbstractContextManager["RichReporter"]):
    """Live bars and the last step's numbers; use as a context manager.

    Args:
        console: a terminal, on stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class _Count(ProgressColumn):
            """``done/total``, or ``done`` alone where the total is unknown."""

            def render(self, task: Task) -> Text:
                total = "" if task.total is None else f"/{task.total:,.0f}"
                return Text(f"{task.completed:,.0f}{total}" if task.completed or total else "")

        self._console = console or log_console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            _Count(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._numbers = Text(style="dim")
        self._task: Any = None
        self._live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def stage(self, name: str, total: int | None) -> None:
        """The stage before is done; a new bar."""
        self._end_stage()
        self._task = self._progress.add_task(name, total=total)

    def advance(self, done: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def step(self, record: Mapping[str, Any]) -> None:
        """Show the step's numbers under the bar."""
        self._numbers.plain = f"step {record.get('step', '?')}: {describe_step(record)}"

    def evaluated(self, step: int, result: Mapping[str, Any]) -> None:
        """One line of scores above the bars."""
        self.event(f"evaluation at step {step}: {describe_scores(result)}")

    def event(self, text: str, level: Level = "info") -> None:
        """A line above the bars."""
        from rich.text import Text

        style = "yellow" if level == "warning" else "dim"
        prefix = "warning: " if level == "warning" else ""
        self._live.console.print(Text(prefix + text, style=style))

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Where the run is and how long it took."""
        self._end_stage()
        self._numbers.plain = ""
        self._live.console.print(describe_end(summary), markup=False)

    def _end_stage(self) -> None:
        if self._task is None:
            return
        task = self._progress.tasks[-1]
        # A stage that counted nothing still ends with a full bar.
        total = task.total if task.total is not None else max(task.completed, 1)
        self._progress.update(self._task, total=total, completed=total)
        self._progress.stop_task(self._task)
        self._task = None

    def _picture(self) -> Any:
        from rich.console import Group

        return Group(self._progress, self._numbers) if self._numbers.plain else self._progress


def make_reporter(*, quiet: bool = False) -> PlainReporter | RichReporter:
    """The reporter for this process's stderr.

    Args:
        quiet: only what ends the run is shown.
    """
    if quiet or not leads():
        return PlainReporter(_Nowhere())
    console = log_console()
    return RichReporter(console) if console.is_terminal else PlainReporter()


def describe_step(record: Mapping[str, Any]) -> str:
    """The numbers of a step a reader looks at first."""
    known = [f"{word} {_short(record[key])}" for key, word in _SHOWN if _is_number(record, key)]
    stations = record.get("stations") or {}
    if stations:
        known.append(f"{duration(sum(stations.values()))} a step")
    return "  ".join(known)


def describe_scores(result: Mapping[str, Any]) -> str:
    """The main scores of an evaluation on one line."""
    parts = []
    for name, scores in (result.get("retrieval") or {}).items():
        shown = [
            f"{key} {scores[key]:.3f}" for key in ("R@1", "MRR@10") if _is_number(scores or {}, key)
        ]
        if shown:
            parts.append(f"{name} {' '.join(shown)}")
    generation = result.get("generation") or {}
    if _is_number(generation, "F1"):
        parts.append(f"response F1 {generation['F1']:.3f}")
    return ", ".join(parts) or "no scores"


def describe_end(summary: Mapping[str, Any]) -> str:
    """The last line of a run."""
    seconds, folder = summary.get("seconds"), summary.get("run_dir")
    took = f" after {duration(seconds)} of training" if isinstance(seconds, int | float) else ""
    return f"finished{took}" + (f"; the run is in {folder}" if folder else "")


def staged(reporter: Reporter) -> Callable[[str, int, int], None]:
    """A (stage, done, total) callback that starts the reporter's stages as their names change."""
    current: str | None = None

    def tell(name: str, done: int, total: int) -> None:
        nonlocal current
        if name != current:
            current = name
            reporter.stage(name, total)
        reporter.advance(done)

    return tell


def _is_number(record: Mapping[str, Any], key: str) -> bool:
    value = record.get(key)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
