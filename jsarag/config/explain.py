"""Pydantic's complaints in the user's words: one line per problem, with the value's source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jsarag.config.keys import group_names, known_keys, nearest
from jsarag.errors import ConfigError

_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(error: ValidationError, sources: Mapping[str, str]) -> ConfigError:
    """One ConfigError for all problems of a configuration.

    Args:
        error: what validation found.
        sources: dotted setting -> where its value came from.
    """
    lines = [_line(dict(problem), sources) for problem in error.errors(include_url=False)]
    if len(lines) == 1:
        return ConfigError(lines[0])
    return ConfigError("\n".join([f"{len(lines)} settings are wrong:", *lines]))


def _line(problem: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    if problem["type"] == "value_error" and _is_group(problem["loc"]):
        return _several_keys(str(problem["ctx"]["error"]), sources)
    dotted = ".".join(str(part) for part in problem["loc"])
    name = _known_prefix(dotted)
    source = sources.get(name, "default")
    expected = _expectation(problem, name)
    return f"{source}: {name}: expected {expected}, got {_shown(problem['input'])}"


def _is_group(loc: tuple[int | str, ...]) -> bool:
    dotted = ".".join(str(part) for part in loc)
    return dotted == "" or dotted in group_names()


def _several_keys(message: str, sources: Mapping[str, str]) -> str:
    """A rule between settings: the message, then where each setting it mentions was set."""
    mentioned = [key for key in known_keys() if re.search(rf"\b{re.escape(key)}\b", message)]
    group = {key.partition(".")[0] for key in mentioned}
    related = [key for key in sources if key in mentioned or key.partition(".")[0] in group]
    origins = [f"{key} from {sources[key]}" for key in related if sources[key] != "default"]
    return f"{message} ({'; '.join(origins)})" if origins else message


def _known_prefix(dotted: str) -> str:
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in known_keys() or name in group_names():
            return name
    return dotted


def _expectation(problem: Mapping[str, Any], name: str) -> str:
    kind = problem["type"]
    key = known_keys().get(name)
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{words} {problem['ctx'][bound]}"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if key is not None:
        guess = nearest(str(problem["input"]), key.choices) if key.choices else None
        return key.expectation + (f" (did you mean '{guess}'?)" if guess else "")
    return str(problem["msg"])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
