"""Reading a YAML configuration into (setting, value, line); writing none.

Plain scalars under text and choice settings are kept as written, so ``model: no`` is not False and
``rebuild_every: 1000:50`` is not 60050.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from jsarag.config.keys import group_names, known_keys, optional_groups, unknown_key_error
from jsarag.errors import ConfigError

_NULL_TAG = "tag:yaml.org,2002:null"
_VERBATIM = frozenset({"text", "path", "choice"})


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
        if key in optional_groups() and node.tag == _NULL_TAG:
            yield Entry(key, None, _line(node))
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
            return self._loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
        except yaml.YAMLError as error:
            raise ConfigError(_yaml_problem(error, self._name)) from error

    def _value(self, key: str, node: yaml.Node) -> Any:
        verbatim = known_keys()[key].kind in _VERBATIM
        if verbatim and isinstance(node, yaml.ScalarNode) and node.tag != _NULL_TAG:
            return node.value
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


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _yaml_problem(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    where = name if mark is None else f"{name}:{mark.line + 1}"
    problem = getattr(error, "problem", None) or str(error)
    return f"{where}: expected YAML, {problem}; check indentation, colons and quotes there"
