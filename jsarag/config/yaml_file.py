"""Reading a YAML configuration into (setting, value, line); writing none.

Scalars are kept as written and converted by the schema, as flags are: YAML 1.1 by itself would make
``model: no`` False, ``rebuild_every: 1000:50`` 60050, ``seed: 010`` 8 and ``1e-4`` a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from jsarag.config.keys import group_names, known_keys, optional_groups, unknown_key_error
from jsarag.errors import ConfigError

_NULL_TAG = "tag:yaml.org,2002:null"
_TEXT_TAG = "tag:yaml.org,2002:str"
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "bool", "int", "float", "timestamp", "value")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting of a file: dotted name, value, 1-based line."""

    key: str
    value: Any
    line: int


def read_yaml(text: str, name: str) -> tuple[str | None, list[Entry]]:
    """Read a configuration's text.

    Args:
        text: YAML; an optional top-level ``recipe: NAME`` says what the file builds on.
        name: the file's name, for messages.

    Returns:
        The recipe it names (or None), and its settings in order.

    Raises:
        ConfigError: no valid YAML, an unknown or repeated setting, or a group that is no mapping.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_problem(error, name)) from error
    if root is None:
        return None, []
    reader = _Reader(loader, name)
    recipe = None
    entries: list[Entry] = []
    for key, node in reader.pairs(root, "the file"):
        if key == "recipe":
            recipe = str(reader.construct(node))
        else:
            entries.extend(reader.read(key, node))
    return recipe, entries


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, name: str) -> None:
        self._loader, self._name = loader, name

    def where(self, node: yaml.Node) -> str:
        return f"{self._name}:{_line(node)}"

    def read(self, key: str, node: yaml.Node) -> Iterator[Entry]:
        if key in optional_groups() and _is_none(node):
            yield Entry(key, None, _line(node))
        elif key in group_names() and node.tag == _NULL_TAG:
            return  # a group whose settings are all commented out
        elif key in group_names():
            for name, child in self.pairs(node, f"'{key}'"):
                yield from self.read(f"{key}.{name}", child)
        elif key in known_keys():
            yield Entry(key, self._value(key, node), _line(node))
        else:
            raise unknown_key_error(key, self.where(node))

    def pairs(self, node: yaml.Node, what: str) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{self.where(node)}: {what} must hold 'setting: value' lines")
        self._refuse_repeats(node)
        self._loader.flatten_mapping(node)
        merged = {str(name.value): (name, value) for name, value in node.value}
        for text, (name, value) in merged.items():
            # A group's own line is where its name stands, not where its first setting does.
            value.start_mark = name.start_mark
            yield text, value

    def construct(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except yaml.YAMLError as error:
            raise ConfigError(_yaml_problem(error, self._name)) from error

    def _value(self, key: str, node: yaml.Node) -> Any:
        if known_keys()[key].optional and _is_none(node):
            return None
        _keep_as_written(node, set())
        return self.construct(node)

    def _refuse_repeats(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for name, _ in node.value:
            text = str(name.value)
            if text in seen and text != "<<":
                raise ConfigError(
                    f"{self.where(name)}: '{text}' is set twice, first on line {seen[text]}; "
                    "keep one of them"
                )
            seen[text] = _line(name)


def _is_none(node: yaml.Node) -> bool:
    """Null, or the bare word that flags and messages use for it."""
    if node.tag == _NULL_TAG:
        return True
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return plain and str(node.value).lower() == "none"


def _keep_as_written(node: yaml.Node, seen: set[int]) -> None:
    """Turn every scalar at and below ``node`` into text, nulls apart."""
    if id(node) in seen:  # an alias may point to what holds it
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _PLAIN_TAGS:
            node.tag = _TEXT_TAG
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _keep_as_written(child, seen)
    elif isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            _keep_as_written(name, seen)
            _keep_as_written(child, seen)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _yaml_problem(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    where = name if mark is None else f"{name}:{mark.line + 1}"
    problem = getattr(error, "problem", None) or str(error)
    return f"{where}: expected YAML, {problem}; check indentation, colons and quotes there"
