"""The official formats by name: a module here with a ``FORMAT`` is one (adding one = one file)."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from pathlib import Path

from jsarag.data.formats.base import Format
from jsarag.errors import DataError


@cache
def all_formats() -> dict[str, Format]:
    """Every format by its name, sorted."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        format_ = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FORMAT", None)
        if isinstance(format_, Format):
            found[format_.name] = format_
    return dict(sorted(found.items()))


def format_names() -> list[str]:
    """Names of all formats, sorted."""
    return list(all_formats())


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        DataError: there is none; names the nearest.
    """
    formats = all_formats()
    if name not in formats:
        close = difflib.get_close_matches(name, formats, n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        raise DataError(f"no format '{name}'; {guess}Known: {', '.join(formats)}")
    return formats[name]


def recognise(folder: Path) -> Format | None:
    """The format a folder's file names tell of, or None."""
    return next((item for item in all_formats().values() if item.recognises(folder)), None)
