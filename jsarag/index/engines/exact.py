"""Every passage against every query: what all others are measured by."""

from __future__ import annotations

from jsarag.errors import ConfigError
from jsarag.index.flat import FlatIndex
from jsarag.index.interfaces import SearchIndex


def build(index: FlatIndex, options: str) -> SearchIndex:
    """The index itself.

    Raises:
        ConfigError: options were given.
    """
    if options:
        raise ConfigError(f"--engine exact: expected nothing behind its name, found {options!r}")
    return index
