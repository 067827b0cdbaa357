"""What the two reporters show, when, and that they never disturb the run."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from jsarag.train.reporting import Reporter
from jsarag_cli.progress import (
    PlainReporter,
    RichReporter,
    describe_step,
    make_reporter,
    staged,
)

STEP = {
    "kind": "train", "step": 20, "loss": 2.3456, "acceptance_rate": 0.41, "loss_prior": 9.0,
    "stations": {"score": 0.2, "backward": 0.3},
}  # fmt: skip


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def plain(stream: io.StringIO, clock: Clock) -> PlainReporter:
    return PlainReporter(stream, every_s=5, clock=clock)


class TestPlain:
    def test_it_speaks_every_few_seconds_only(
        self, plain: PlainReporter, stream: io.StringIO, clock: Clock
    ) -> None:
        plain.stage("embed passages", 1000)
        for done in range(0, 880, 10):
            plain.advance(done)
            clock.now += 0.125
        assert stream.getvalue().splitlines() == [
            "embed passages (1,000)",
            "embed passages: 400 of 1,000 (40 %), 7.5 s left",
            "embed passages: 800 of 1,000 (80 %), 2.5 s left",
        ]

    def test_a_continued_stage_counts_its_own_pace(
        self, plain: PlainReporter, stream: io.StringIO, clock: Clock
    ) -> None:
        plain.stage("train", 100)
        plain.advance(80)
        clock.now += 5
        plain.advance(90)
        assert stream.getvalue().endswith("train: 90 of 100 (90 %), 5.0 s left\n")

    def test_a_stage_without_total_counts(
        self, plain: PlainReporter, stream: io.StringIO, clock: Clock
    ) -> None:
        plain.stage("load models", None)
        clock.now = 6
        plain.advance(1234)
        assert stream.getvalue() == "load models\nload models: 1,234\n"

    def test_the_last_steps_numbers_stand_on_the_next_line(
        self, plain: PlainReporter, stream: io.StringIO, clock: Clock
    ) -> None:
        plain.stage("train", 40)
        plain.advance(0)
        for step in range(1, 21):
            clock.now += 0.5
            plain.advance(step)  # the trainer counts before it logs
            plain.step({**STEP, "step": step})
        assert stream.getvalue().splitlines()[-1] == (
            "train: 20 of 40 (50 %), 10.0 s left, loss 2.35  accepted 0.41  0.5 s a step"
        )
        plain.stage("evaluate", 10)
        clock.now += 5
        plain.advance(5)
        assert stream.getvalue().splitlines()[-1] == "evaluate: 5 of 10 (50 %), 5.0 s left"

    def test_events_and_scores_come_at_once_on_one_line_each(
        self, plain: PlainReporter, stream: io.StringIO, make_scores: Callable[..., Any]
    ) -> None:
        plain.event("index\nrebuilt")
        plain.event("collapse", "warning")
        plain.evaluated(40, make_scores(0.25))
        plain.evaluated(41, make_scores(0.25, posterior=False, f1=None))
        plain.finished({"seconds": 75.0, "run_dir": "runs/x"})
        assert stream.getvalue().splitlines() == [
            "index rebuilt",
            "warning: collapse",
            "evaluation at step 40: prior R@1 0.250 MRR@10 0.250, "
            "posterior R@1 0.250 MRR@10 0.250, response F1 0.500",
            "evaluation at step 41: prior R@1 0.250 MRR@10 0.250",
            "finished after 1 min 15 s of training; the run is in runs/x",
        ]

    def test_a_reader_that_left_does_not_stop_the_run(self) -> None:
        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        reporter = PlainReporter(Gone())
        reporter.event("a")
        reporter.event("b")


class TestRich:
    def run(self, columns: int, use: Callable[[RichReporter], None]) -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=columns, color_system=None)
        with RichReporter(console) as reporter:
            use(reporter)
        return file.getvalue()

    @pytest.mark.parametrize("columns", [80, 120])
    def test_everything_is_shown_and_fits(
        self, columns: int, make_scores: Callable[..., Any]
    ) -> None:
        def use(reporter: RichReporter) -> None:
            reporter.stage("load models", None)
            reporter.stage("train", 40)
            reporter.advance(20)
            reporter.step(STEP)
            reporter.event("[bold]not markup[/bold]")
            reporter.event("collapse", "warning")
            reporter.evaluated(20, make_scores(0.25))
            reporter.finished({"seconds": 1.0, "run_dir": "runs/[x]"})

        text = self.run(columns, use)
        for part in ("load models", "[bold]not markup[/bold]", "warning: collapse", "40/40"):
            assert part in text
        assert "runs/[x]" in text
        plain = text.replace("\x1b[2K", "").replace("\x1b[1A", "").replace("\x1b[?25l", "")
        assert max(len(line.rpartition("\r")[2]) for line in plain.split("\n")) <= columns + 8

    def test_numbers_of_the_last_step_stand_under_the_bars(self) -> None:
        def use(reporter: RichReporter) -> None:
            reporter.stage("train", 40)
            reporter.step(STEP)

        assert "step 20: loss 2.35" in self.run(80, use)

    def test_the_terminal_is_given_back_when_the_run_fails(self) -> None:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=80)
        with pytest.raises(ZeroDivisionError), RichReporter(console) as reporter:
            reporter.stage("train", 1 // 0)
        assert "\x1b[?25h" in file.getvalue()


def test_both_fit_the_protocol() -> None:
    reporters: list[Reporter] = [PlainReporter(io.StringIO()), RichReporter(Console(quiet=True))]
    assert len(reporters) == 2


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(make_reporter(), PlainReporter)


def test_stages_follow_the_names_of_a_callback(plain: PlainReporter, stream: io.StringIO) -> None:
    tell = staged(plain)
    for name, done in (("search", 1), ("search", 2), ("generate", 1)):
        tell(name, done, 2)
    assert stream.getvalue() == "search (2)\ngenerate (2)\n"


@pytest.mark.parametrize("record", [{}, {"loss": None}, {"loss": "x", "stations": None}])
def test_a_record_without_known_numbers_is_no_error(record: dict[str, Any]) -> None:
    assert describe_step(record) == ""
