"""Runs a ``jsarag`` verb in a process of its own: its result, or its error as ours.

A process of its own gives every run the same start: no memory another run left behind, no thread
pool it sized.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsarag.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GuardError,
    JsaragError,
    MemoryForecastError,
    PreemptedError,
)
from jsarag.train.signals import StopSignal

# How often a signal is looked for while the process runs.
_LOOK_EVERY_S = 0.2
_SAID = 2000
_KINDS: dict[int, type[JsaragError]] = {
    kind.exit_code: kind
    for kind in (
        ConfigError,
        DataError,
        CheckpointError,
        MemoryForecastError,
        GuardError,
        PreemptedError,
    )
}


class ArmFailedError(JsaragError):
    """A run of an arm ended in a way no other error stands for; carries what it said."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    result: the JSON object it printed, or None. said: the end of its log.
    """

    code: int
    result: dict[str, Any] | None
    said: str

    def error(self, what: str) -> JsaragError:
        """What went wrong, with the exit code the process had.

        Args:
            what: whose run it was.
        """
        text = f"{what} ended with exit code {self.code}: {self.said}"
        return _KINDS.get(self.code, ArmFailedError)(text)


def run_process(command: Sequence[str]) -> Ended:
    """Run a command to its end.

    A signal to stop is handed on as SIGTERM, and the process is waited for, so that it can save.

    Raises:
        KeyboardInterrupt: after Ctrl-C. A second one kills the process.
        PreemptedError: after SIGTERM.
    """
    with StopSignal() as stop:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        try:
            printed, log = _wait(process, stop)
        finally:
            if process.poll() is None:  # a second Ctrl-C
                process.kill()
                process.communicate()
        if stop.requested:
            try:
                stop.raise_stop()
            except PreemptedError as error:
                raise PreemptedError(
                    "stopped by SIGTERM; what was run is saved, and the same command goes on"
                ) from error
    if process.returncode == 130:  # Ctrl-C reached it and not us
        raise KeyboardInterrupt
    result = json.loads(printed) if printed.strip() else None
    return Ended(process.returncode, result, log[-_SAID:].strip())


def _wait(process: subprocess.Popen[str], stop: StopSignal) -> tuple[str, str]:
    handed_on = False
    while True:
        try:
            return process.communicate(timeout=_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if stop.requested and not handed_on:
                # Not SIGINT: a terminal has sent that to both of us, and two of them kill.
                process.terminate()
                handed_on = True
