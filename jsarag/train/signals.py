"""Ctrl-C and SIGTERM during training: finish the step, save, then stop.

A second Ctrl-C stops at once, as impatient users expect.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jsarag.errors import PreemptedError


class StopSignal:
    """Notes SIGINT and SIGTERM while active; the training loop asks between steps.

    Outside the main thread Python delivers no signals, and nothing is installed.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._received is not None

    @property
    def number(self) -> int:
        """The signal that came, 0 for none."""
        return self._received or 0

    def adopt(self, number: int) -> None:
        """Take a signal another process received for one of our own; 0 changes nothing."""
        if number:
            self._received = number

    def raise_stop(self) -> None:
        """Raise what the signal means, once the state is saved.

        Raises:
            KeyboardInterrupt: after SIGINT.
            PreemptedError: after SIGTERM.
        """
        if self._received == signal.SIGTERM:
            raise PreemptedError("stopped by SIGTERM; the state is saved, --resume continues")
        raise KeyboardInterrupt

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
