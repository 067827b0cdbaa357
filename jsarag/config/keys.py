"""The dotted names of all settings, read off the schema: what exists, its kind, the nearest match.

Knows nothing of files, recipes or precedence; ``load`` puts values under these names.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from jsarag.config.schema import Config
from jsarag.errors import ConfigError

Kind = Literal["text", "path", "int", "float", "bool", "choice", "list", "mapping"]

# Settings that hold either a name or a folder; a value that looks like a path is one.
NAME_OR_PATH = frozenset({"data.dataset", "retriever.model", "generator.model"})
_NO_VALUE = frozenset({"none", "null"})


@dataclass(frozen=True, slots=True)
class Key:
    """One setting, as the schema declares it.

    Its dotted name, kind, whether it may be unset, choices, default, meaning, flag of the command
    line without dashes ("" for none), unit, and whether a continued run may change it.
    """

    name: str
    kind: Kind
    optional: bool
    choices: tuple[str, ...]
    default: Any
    description: str
    flag: str
    unit: str
    resume: bool

    @property
    def expectation(self) -> str:
        """What a value must look like, in words."""
        if self.choices:
            listed = ", ".join(self.choices)
            base = f"one of {listed}" if self.kind == "choice" else f"a list of {listed}"
        else:
            base = _IN_WORDS[self.kind]
        return f"{base}, or none" if self.optional else base


_IN_WORDS: dict[Kind, str] = {
    "text": "text",
    "path": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "choice": "one of the choices",
    "list": "a list (a,b,c)",
    "mapping": "pairs (name=value,...)",
}


@cache
def known_keys() -> dict[str, Key]:
    """Every setting that can be given a value, by dotted name, in the schema's order."""
    return {key.name: key for key in _walk(Config, "")}


@cache
def may_change_on_resume() -> frozenset[str]:
    """Settings that may differ between a run and its continuation."""
    return frozenset(key.name for key in known_keys().values() if key.resume)


@cache
def group_names() -> frozenset[str]:
    """Dotted names of the groups (``train``, ``generator.lora``)."""
    names: set[str] = set()
    for name in known_keys():
        parts = name.split(".")
        names.update(".".join(parts[:end]) for end in range(1, len(parts)))
    return frozenset(names)


@cache
def optional_groups() -> frozenset[str]:
    """Groups that may be absent (``generator.lora``): setting them to none removes them."""
    return frozenset(_optional_groups(Config, ""))


@cache
def short_names() -> dict[str, tuple[str, ...]]:
    """Last part of each dotted name -> the names that end in it; more than one is ambiguous."""
    found: dict[str, tuple[str, ...]] = {}
    for name in known_keys():
        short = name.rpartition(".")[2]
        found[short] = (*found.get(short, ()), name)
    return found


def nearest(name: str, among: Iterable[str]) -> str | None:
    """The known name a misspelt one most likely meant, or None."""
    known = list(among)
    by_end: dict[str, list[str]] = {}
    for candidate in known:
        by_end.setdefault(candidate.rpartition(".")[2], []).append(candidate)
    end = name.rpartition(".")[2]
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if match:
        return match[0]
    close_ends = difflib.get_close_matches(end, list(by_end), n=1, cutoff=0.7)
    if close_ends:
        group = name.partition(".")[0]
        ends = by_end[close_ends[0]]
        return next((candidate for candidate in ends if candidate.startswith(group)), ends[0])
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def unknown_key_error(name: str, source: str) -> ConfigError:
    """The error for a setting that does not exist; names the nearest one that does."""
    if name in group_names():
        inside = [key for key in known_keys() if key.startswith(f"{name}.")]
        return ConfigError(
            f"{source}: '{name}' is a group of settings, expected one of them: {', '.join(inside)}"
        )
    guess = nearest(name, known_keys())
    advice = f"did you mean '{guess}'?" if guess else "`jsarag train --schema` lists all settings"
    return ConfigError(f"{source}: unknown setting '{name}'; {advice}")


def parse_text(key: Key, text: str, source: str) -> Any:
    """Turn text from a flag or the environment into what the schema validates.

    Scalars stay text (the schema converts and checks them), lists and pairs are split at commas,
    ``none`` unsets what may be unset.

    Raises:
        ConfigError: a pair without '='.
    """
    if key.kind != "text":  # a template or prefix may begin or end with a space
        text = text.strip()
    is_none = text.strip().lower() in _NO_VALUE
    if key.optional and is_none:
        return None
    if key.kind == "list":
        return [] if is_none or not text else _split(text)
    if key.kind == "mapping":
        return {} if is_none or not text else _pairs(key, text, source)
    return text


def resolve_path(key: Key, value: Any, base: Path) -> Any:
    """Make a path setting absolute, relative ones from ``base``; other values pass through."""
    if not isinstance(value, str) or not (key.kind == "path" or key.name in NAME_OR_PATH):
        return value
    if key.kind != "path" and not _looks_like_path(key, value):
        return value
    return str((base / Path(value).expanduser()).resolve())


def _looks_like_path(key: Key, value: str) -> bool:
    if value.startswith((".", "~", "/")):
        return True
    if key.name == "data.dataset":  # a model's hub id has a slash, too
        return "/" in value
    return value.endswith(".gguf")


def _split(text: str) -> list[str]:
    # Brackets and quotes as in YAML and JSON, where somebody copies a list from there.
    parts = (part.strip().strip("'\"") for part in text.strip("[]").split(","))
    return [part for part in parts if part]


def _pairs(key: Key, text: str, source: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in _split(text.strip("{}")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(
                f"{source}: {key.name} expects name=value pairs separated by commas, got '{part}'"
            )
        pairs[name.strip()] = value.strip()
    return pairs


def _walk(model: type[BaseModel], prefix: str) -> Iterable[Key]:
    for name, info in model.model_fields.items():
        dotted = prefix + name
        inner, optional = _strip_none(info.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _walk(inner, f"{dotted}.")
            continue
        kind, choices = _kind_of(inner)
        default = info.get_default(call_default_factory=True)
        about = info.json_schema_extra
        assert isinstance(about, dict), f"{dotted} is declared without setting()"
        yield Key(
            dotted,
            kind,
            optional,
            choices,
            default,
            info.description or "",
            str(about["flag"]),
            str(about["unit"]),
            bool(about["may_change_on_resume"]),
        )


def _optional_groups(model: type[BaseModel], prefix: str) -> Iterable[str]:
    for name, info in model.model_fields.items():
        inner, optional = _strip_none(info.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if optional:
                yield prefix + name
            yield from _optional_groups(inner, f"{prefix}{name}.")


def _strip_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    rest = [part for part in get_args(annotation) if part is not type(None)]
    if len(rest) != 1:
        raise TypeError(f"the schema may only unite a type with None, found {annotation}")
    return rest[0], True


def _kind_of(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice", tuple(str(choice) for choice in get_args(annotation))
    if origin in (list, tuple):
        element = get_args(annotation)[0]
        choices = get_args(element) if get_origin(element) is Literal else ()
        return "list", tuple(str(choice) for choice in choices)
    if origin is dict:
        return "mapping", ()
    return _SCALARS[annotation], ()


_SCALARS: dict[Any, Kind] = {str: "text", Path: "path", int: "int", float: "float", bool: "bool"}
