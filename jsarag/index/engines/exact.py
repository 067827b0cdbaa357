"""Every passage against every query: what all others are measured by."""

from __future__ import annotations

from jsarag.index.engines import refuse_options
from jsarag.index.flat import FlatIndex
from jsarag.index.interfaces import SearchIndex


def build(index: FlatIndex, options: str) -> SearchIndex:
    """The index itself.

    Raises:
        ConfigError: options were given.
    """
    refuse_options("exact", options)
    return index
