"""The arms of a comparison: a name, and the settings that make a run differ from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jsarag.config.load import Setting, parse_set, resolve_run
from jsarag.em.objectives import objective_class
from jsarag.errors import ConfigError, DataError

# Names that rows without training have; no arm may take them.
FROZEN, BM25, BM25_RESPONSE = "frozen", "bm25", "bm25-with-response"
_RESERVED = frozenset({FROZEN, BM25, BM25_RESPONSE})
BUDGETS = {
    "steps": "train.max_steps",
    "seconds": "train.max_seconds",
    "generator-forwards": "train.max_generator_forwards",
}
# With another limit, steps are only what it lets through.
_MANY_STEPS = "1000000"


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting of a comparison.

    settings: dotted key -> value as text, on top of what all arms share.
    reason: why the arm is there; shown in tables.
    equal_seconds: the arm whose training seconds this one gets as steps, or None.
    pace_of: the arm whose seconds a step tell how many steps that is.
    """

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    equal_seconds: str | None = None
    pace_of: str | None = None

    def overrides(self) -> list[Setting]:
        """The settings, checked.

        Raises:
            ConfigError: a key or value is wrong.
        """
        return [parse_set(f"{key}={value}") for key, value in self.settings.items()]


@dataclass(frozen=True, slots=True)
class Study:
    """Arms over one data set, each run once a seed.

    common: settings that all arms share, as text. against: names of the arms every arm is compared
    with; :data:`FROZEN` is the state before training.
    """

    name: str
    dataset: str
    recipe: str | None
    seeds: Sequence[int]
    arms: Sequence[Arm]
    common: Mapping[str, str] = field(default_factory=dict)
    against: Sequence[str] = (FROZEN,)

    def check(self) -> Study:
        """Itself, if it can be run.

        Raises:
            ConfigError: an arm's name is taken twice, an arm is compared with one that is not
                there, or a setting is wrong.
        """
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1 or name in _RESERVED:
                raise ConfigError(
                    f"--arm {name!r}: expected a name of its own, found it "
                    f"{'reserved' if name in _RESERVED else 'twice'}; name arms apart"
                )
        if not names:
            raise ConfigError("--arms: expected at least one objective or --arm; found none")
        known = [*names, FROZEN]
        shared = Arm("common", self.common).overrides()
        for arm in self.arms:
            resolve_run(
                dataset=self.dataset, recipe=self.recipe, overrides=[*shared, *arm.overrides()]
            )
        for name in [*self.against, *(a.equal_seconds for a in self.arms if a.equal_seconds)]:
            if name not in known:
                raise ConfigError(
                    f"--against {name!r}: expected one of {', '.join(known)}; found no such arm"
                )
        return self


def objective_arm(name: str) -> Arm:
    """An arm that is an objective; one not defined on a union takes its own first support.

    Raises:
        ConfigError: no such objective.
    """
    supports = objective_class(name).supports
    settings = {"objective.name": name}
    if "union" not in supports:
        settings["objective.support"] = supports[0]
    return Arm(name, settings)


def parse_arm(text: str) -> Arm:
    """Read ``NAME: group.key=value group.key=value``.

    Raises:
        ConfigError: no name, or a setting that is none.
    """
    name, colon, rest = text.partition(":")
    if not name.strip() or not colon:
        raise ConfigError(
            f"--arm: expected 'NAME: group.key=value ...', found {text!r}; such as "
            "'jsa-full: objective.name=jsa objective.mstep_passages=0'"
        )
    settings = dict(_pair(part) for part in rest.split())
    arm = Arm(name.strip(), settings)
    arm.overrides()
    return arm


def parse_seeds(text: str) -> list[int]:
    """``3`` is the seeds 1 to 3, ``1,4,9`` those.

    Raises:
        ConfigError: anything else.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts) or parts == ["0"]:
        raise ConfigError(
            f"--seeds {text!r}: expected how many seeds, or a list of them such as 1,2,3"
        )
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and "," not in text:
        return list(range(1, numbers[0] + 1))
    return list(dict.fromkeys(numbers))


def parse_budget(text: str) -> dict[str, str]:
    """``steps=60``, ``seconds=300`` or ``generator-forwards=20000`` as settings of every arm.

    Raises:
        ConfigError: anything else.
    """
    name, equals, value = text.partition("=")
    key = BUDGETS.get(name.strip().replace("_", "-"))
    value = value.strip()
    if key is None or not equals or not value.isdecimal() or int(value) == 0:
        raise ConfigError(
            f"--budget {text!r}: expected one of {', '.join(f'{known}=N' for known in BUDGETS)}, "
            "N a whole number above 0"
        )
    return {key: value} if key == BUDGETS["steps"] else {BUDGETS["steps"]: _MANY_STEPS, key: value}


def read_study(path: Path) -> Study:
    """Read a study's YAML: dataset, recipe, seeds, common, arms (settings, reason), against.

    Raises:
        DataError: no such file, or a key is missing.
        ConfigError: see :meth:`Study.check`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        arms = [
            Arm(
                name,
                _texts(arm.get("settings", {})),
                arm["reason"],
                arm.get("equal_seconds"),
                arm.get("pace_of"),
            )
            for name, arm in content["arms"].items()
        ]
        study = Study(
            name=path.stem,
            dataset=content["dataset"],
            recipe=content.get("recipe"),
            seeds=content["seeds"],
            arms=arms,
            common=_texts(content.get("common", {})),
            against=content.get("against", [FROZEN]),
        )
    except OSError as error:
        raise DataError(f"expected a study's YAML file ({error.strerror})", path=path) from error
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise DataError(
            f"expected a study with dataset, seeds and arms, each with a reason ({error!r})",
            path=path,
        ) from error
    return study.check()


def setting_text(value: Any) -> str:
    """A setting's value as ``--set`` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: setting_text(value) for key, value in settings.items()}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--arm: expected group.key=value, found {text!r}")
    return key, value
