"""The one family of exceptions the package raises on purpose.

Every message says where the trouble is, what was expected, what came instead and what to do.
Each class carries the exit code the command line ends with, so the mapping lives in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar


class JsaragError(Exception):
    """Base of every error the package raises on purpose; ``exit_code`` is what the CLI returns."""

    exit_code: ClassVar[int] = 1


class ConfigError(JsaragError):
    """A setting, flag or recipe is wrong; names the key, where it came from and the fix."""

    exit_code = 2


class DataError(JsaragError):
    """A data file is missing or malformed; names file, line, field and fix.

    Args:
        problem: what is wrong and how to mend it, in the user's words.
        path: the file, if one is to blame.
        line: 1-based line number inside ``path``.
        field: the row's key that is wrong.
    """

    exit_code = 3

    def __init__(
        self,
        problem: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.problem, self.path, self.line, self.field = problem, path, line, field
        where = "" if path is None else str(path)
        if line is not None:
            where += f":{line}"
        if field is not None:
            where += f": field '{field}'" if where else f"field '{field}'"
        super().__init__(f"{where}: {problem}" if where else problem)


class ShapeError(JsaragError):
    """A tensor does not have the shape its op documents."""

    exit_code = 1


class DtypeError(JsaragError):
    """A tensor does not have a dtype its op accepts."""

    exit_code = 1


class BackendUnavailableError(JsaragError):
    """A backend, device or optional package that was asked for is not there."""

    exit_code = 4


class CheckpointError(JsaragError):
    """A checkpoint or run folder is unfinished, damaged or belongs to something else."""

    exit_code = 4


class StorageError(JsaragError):
    """The system refuses to read or write: a full disk, rights, limits; names path and fix."""

    exit_code = 4


class IndexStaleError(JsaragError):
    """An index does not belong to the encoder or knowledge base it is opened with."""

    exit_code = 4


class ExportMismatchError(JsaragError):
    """An export, loaded in the tool it was made for, gives other numbers than the trainer.

    Args:
        message: which numbers.
        checks: every comparison made, as JSON types.
    """

    exit_code = 1

    def __init__(self, message: str, checks: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.checks = tuple(checks)


class MemoryForecastError(JsaragError):
    """The run would not fit; the message names the cheapest change that does."""

    exit_code = 5


class NumericalError(JsaragError):
    """NaN or infinity where none may be."""

    exit_code = 6


class GuardError(JsaragError):
    """A guard stopped the run (collapse, no evidence); what was learned so far is saved."""

    exit_code = 6


class PreemptedError(JsaragError):
    """The system asked the process to end; the run is saved and can be resumed."""

    exit_code = 75


class LostProcessError(JsaragError):
    """A process of several is gone; the last complete step is saved where that was possible."""

    exit_code = 76
