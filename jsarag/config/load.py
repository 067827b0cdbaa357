"""From recipe, file, environment and flags to one checked configuration that knows its sources.

Precedence: default < recipe < YAML file < environment (``JSARAG_TRAIN__SEED``, or ``JSARAG_SEED``
where the short name is unambiguous) < flag or ``--set group.key=value``. Reads files, writes none:
:meth:`Resolved.to_yaml` is text for whoever owns the run folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jsarag.config.explain import explain
from jsarag.config.keys import (
    group_names,
    known_keys,
    optional_groups,
    parse_text,
    resolve_path,
    short_names,
    unknown_key_error,
)
from jsarag.config.recipes import (
    LANGUAGE_MODEL,
    OFFLINE_GENERATORS,
    list_recipes,
    recipe_text,
)
from jsarag.config.schema import Config
from jsarag.config.yaml_file import read_yaml
from jsarag.errors import ConfigError

_PREFIX = "JSARAG_"
# Read by other parts of the package or by its tests and build; never settings of a run.
NOT_SETTINGS = frozenset(
    {
        "JSARAG_ADMIN_KEY",
        "JSARAG_API_KEY",
        "JSARAG_BACKEND",
        "JSARAG_CACHE",
        "JSARAG_CUDA",
        "JSARAG_REQUIRE",
    }
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value for one dotted key, and where it came from in the user's words."""

    key: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration, the source of each of its values, and notes the user should see once."""

    config: Config
    sources: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def changed(self) -> list[Setting]:
        """The settings that something other than the schema's default decided."""
        values = _flatten(self.config.model_dump(mode="json"))
        return [
            Setting(key, values[key], source)
            for key, source in self.sources.items()
            if source != "default"
        ]

    def to_yaml(self) -> str:
        """Every setting as YAML, each value's source as a comment; reading it back is exact."""
        lines: list[str] = []
        _render(self.config.model_dump(mode="json"), "", self.sources, lines)
        return "\n".join(lines) + "\n"


def resolve(
    *,
    recipe: str | None = None,
    file: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Iterable[Setting] = (),
) -> Resolved:
    """Merge all layers and check the result.

    Args:
        recipe: a shipped recipe to start from; wins over the one the file names.
        file: a YAML configuration; its relative paths resolve against its folder.
        environment: variables to read ``JSARAG_*`` from; None reads the process's.
        overrides: flags and ``--set``, later ones win (:func:`flag`, :func:`parse_set`).

    Raises:
        ConfigError: a file, key or value is wrong; says which, where it came from, and the fix.
    """
    named, from_file = _read_file(Path(file)) if file is not None else (None, [])
    recipe = recipe or named
    found, notes = _from_environment(os.environ if environment is None else environment)
    shipped = _read_recipe(recipe) if recipe else []
    chosen = [*from_file, *found, *overrides]
    if recipe and _replaces_offline_generator(shipped, chosen):
        shipped += _read_recipe(LANGUAGE_MODEL, f"recipe {recipe}, for language models")
    return _build([*shipped, *chosen], notes)


def resolve_run(
    *,
    dataset: str | None = None,
    recipe: str | None = None,
    file: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[Setting] = (),
) -> Resolved:
    """:func:`resolve` for a run named by its data set: a recipe's name, or a folder.

    A folder whose base name is a shipped recipe's uses that recipe unless one is given (by
    ``recipe`` or by the file); the choice is among the notes.
    """
    chosen, named_dataset, notes = _choose_recipe(dataset, recipe, file)
    settings = list(overrides)
    if named_dataset is not None:
        settings.insert(0, flag("data.dataset", named_dataset, "flag --dataset"))
    resolved = resolve(recipe=chosen, file=file, environment=environment, overrides=settings)
    return Resolved(resolved.config, resolved.sources, (*notes, *resolved.notes))


def load_run_config(path: Path | str, overrides: Iterable[Setting] = ()) -> Resolved:
    """The configuration a finished run was made with, plus flags; the environment is not read."""
    return resolve(file=path, environment={}, overrides=overrides)


def flag(key: str, value: str | bool, source: str) -> Setting:
    """A setting from a flag's text; relative paths resolve against the caller's folder.

    Raises:
        ConfigError: the key is unknown.
    """
    if key in optional_groups() and str(value).lower() in ("none", "null"):
        return Setting(key, None, source)
    if key not in known_keys():
        raise unknown_key_error(key, source)
    known = known_keys()[key]
    parsed = value if isinstance(value, bool) else parse_text(known, value, source)
    return Setting(key, resolve_path(known, parsed, Path.cwd()), source)


def parse_set(text: str) -> Setting:
    """A setting from ``group.key=value``.

    Raises:
        ConfigError: there is no '=', or the key is unknown.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: expected group.key=value, for example train.seed=2")
    key = key.strip().replace("-", "_")
    return flag(key, value, f"--set {key}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors."""
    schema = Config.model_json_schema()
    schema["title"] = "jsarag configuration"
    schema["properties"]["recipe"] = {
        "description": "the shipped recipe this file builds on",
        "enum": list_recipes(),
    }
    return schema


def _choose_recipe(
    dataset: str | None, recipe: str | None, file: Path | str | None
) -> tuple[str | None, str | None, list[str]]:
    """(recipe, data set to set, notes)."""
    if dataset is None:
        if recipe is None and file is None:
            raise ConfigError(
                "nothing to run: give --dataset NAME or FOLDER, a configuration file, or --recipe; "
                f"shipped recipes: {', '.join(list_recipes())}"
            )
        return recipe, None, []
    is_name = os.sep not in dataset and not dataset.startswith((".", "~"))
    if is_name and dataset in list_recipes():
        # The recipe sets data.dataset itself; a second recipe on top keeps the data set's name.
        return recipe or dataset, dataset if recipe or file else None, []
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        dataset = str(folder.resolve())
        base = Path(dataset).name
        if recipe is None and file is None and base in list_recipes():
            return base, dataset, [f"using the shipped recipe '{base}' (--recipe picks another)"]
        return recipe, dataset, []
    if recipe is None and file is None and is_name:
        return None, dataset, [f"no recipe is named '{dataset}': the defaults apply"]
    return recipe, dataset, []


def _read_file(path: Path) -> tuple[str | None, list[Setting]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error})") from error
    recipe, entries = read_yaml(text, str(path))
    base = path.resolve().parent
    return recipe, [
        Setting(
            entry.key,
            _resolve_known(entry.key, entry.value, base),
            f"{path}:{entry.line}",
        )
        for entry in entries
    ]


def _read_recipe(name: str, source: str | None = None) -> list[Setting]:
    source = source or f"recipe {name}"
    _, entries = read_yaml(recipe_text(name), source)
    return [Setting(entry.key, entry.value, source) for entry in entries]


def _replaces_offline_generator(recipe: Sequence[Setting], chosen: Sequence[Setting]) -> bool:
    """Whether a language model is chosen where the recipe was made for an offline generator."""

    def model(settings: Sequence[Setting], default: str) -> str:
        found = [setting.value for setting in settings if setting.key == "generator.model"]
        return str(found[-1]) if found else default

    of_recipe = model(recipe, "copy")
    return of_recipe in OFFLINE_GENERATORS and model(chosen, of_recipe) not in OFFLINE_GENERATORS


def _resolve_known(key: str, value: Any, base: Path) -> Any:
    known = known_keys().get(key)
    return value if known is None else resolve_path(known, value, base)


def _from_environment(environment: Mapping[str, str]) -> tuple[list[Setting], tuple[str, ...]]:
    settings: list[Setting] = []
    notes: list[str] = []
    for name in sorted(environment):
        if not name.startswith(_PREFIX) or name in NOT_SETTINGS:
            continue
        short = name.removeprefix(_PREFIX).lower()
        key = short.replace("__", ".")
        if "." not in key:
            keys = short_names().get(short, ())
            if not keys:
                notes.append(f"environment {name} is no setting and was ignored")
                continue
            if len(keys) > 1:
                spelled = ", ".join(_PREFIX + full.upper().replace(".", "__") for full in keys)
                raise ConfigError(f"environment {name} is ambiguous; write one of {spelled}")
            key = keys[0]
        settings.append(flag(key, environment[name], f"environment {name}"))
    return settings, tuple(notes)


def _build(settings: Iterable[Setting], notes: tuple[str, ...]) -> Resolved:
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for setting in settings:
        _put(values, setting)
        given = {key: text for key, text in given.items() if not _inside(key, setting.key)}
        given[setting.key] = setting.source
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise explain(error, given) from error
    leaves = _flatten(config.model_dump(mode="json"))
    return Resolved(config, {key: given.get(key, "default") for key in leaves}, notes)


def _put(values: dict[str, Any], setting: Setting) -> None:
    *groups, last = setting.key.split(".")
    inside = values
    for name in groups:
        if inside.get(name) is None:  # a group switched off by an earlier layer comes back
            inside[name] = {}
        inside = inside[name]
    inside[last] = setting.value


def _inside(key: str, group: str) -> bool:
    return key.startswith(f"{group}.")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted leaves in the schema's order; a mapping that is a setting is one leaf."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        dotted = prefix + name
        if dotted in group_names() and isinstance(value, Mapping):
            leaves.update(_flatten(value, f"{dotted}."))
        else:
            leaves[dotted] = value
    return leaves


def _render(
    values: Mapping[str, Any], prefix: str, sources: Mapping[str, str], lines: list[str]
) -> None:
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        dotted = prefix + name
        if dotted in group_names() and isinstance(value, Mapping):
            lines.append(f"{indent}{name}:")
            _render(value, f"{dotted}.", sources, lines)
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}  # {sources[dotted]}")


def _scalar(value: Any) -> str:
    # JSON is YAML on one line, except that YAML 1.1 reads a float only with a dot in it.
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
