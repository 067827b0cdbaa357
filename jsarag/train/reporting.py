"""What a run tells whoever is watching, as one small protocol; the command line draws it.

The trainer calls these methods and nothing else: no printing, no progress bars, no terminal here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

Level = Literal["info", "warning"]


class Reporter(Protocol):
    """Receives a run's progress; every method returns quickly and never raises."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins ("embed passages", "warm up generator", "train", "evaluate dev", ...).

        Args:
            name: what is being done, in the user's words.
            total: how many units :meth:`advance` will count to, None where that is unknown.
        """

    def advance(self, done: int) -> None:
        """``done`` of the current stage's units are finished."""

    def step(self, record: Mapping[str, Any]) -> None:
        """One training step: the row ``metrics.jsonl`` gets (``kind`` 'train' or 'warmup')."""

    def evaluated(self, step: int, result: Mapping[str, Any]) -> None:
        """An evaluation during or around training: the JSON of ``Evaluation.to_json``."""

    def event(self, text: str, level: Level = "info") -> None:
        """Something the user should read once: a fallback, a rebuild, a warning."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run is over: its folder, seconds, and the scores before and after."""


class SilentReporter:
    """Tells nobody; the default for library use and tests."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignored."""

    def advance(self, done: int) -> None:
        """Ignored."""

    def step(self, record: Mapping[str, Any]) -> None:
        """Ignored."""

    def evaluated(self, step: int, result: Mapping[str, Any]) -> None:
        """Ignored."""

    def event(self, text: str, level: Level = "info") -> None:
        """Ignored."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Ignored."""
