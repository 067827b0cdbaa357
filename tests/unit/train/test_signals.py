"""Signals between steps: noted, told apart, and the handlers given back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from jsarag.errors import PreemptedError
from jsarag.train.signals import StopSignal


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, PreemptedError), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_is_noted_and_says_how_to_end(number: int, error: type[BaseException]) -> None:
    with StopSignal() as stop:
        assert not stop.requested
        send(number)
        assert stop.requested
        with pytest.raises(error):
            stop.raise_stop()


def test_a_second_ctrl_c_stops_at_once() -> None:
    with StopSignal() as stop:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert stop.requested


def test_a_ctrl_c_that_the_shell_ignored_is_heard_while_training() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a shell's background jobs
    try:
        with StopSignal() as stop:
            send(signal.SIGINT)
            assert stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_given_back_also_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="step"), StopSignal():
        assert signal.getsignal(signal.SIGTERM) is not before
        raise ValueError("step")
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with StopSignal() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
