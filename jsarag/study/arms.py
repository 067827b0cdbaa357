"""The arms of a comparison: a name, and the settings that make a run differ from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from jsarag.config.load import Setting, parse_set, resolve_run
from jsarag.config.schema import Config
from jsarag.em.objectives import objective_class
from jsarag.errors import ConfigError, DataError

# Names that rows without training have; no arm may take them.
FROZEN, BM25, BM25_RESPONSE = "frozen", "bm25", "bm25-with-response"
REFERENCES = (FROZEN, BM25, BM25_RESPONSE)
BUDGETS = {
    "steps": "train.max_steps",
    "seconds": "train.max_seconds",
    "generator-forwards": "train.max_generator_forwards",
}
_STUDY_KEYS = ("dataset", "recipe", "seeds", "common", "arms", "against", "tune")
_ARM_KEYS = ("reason", "settings", "equal_seconds", "pace_of")
# Settings that only say where things lie: no part of what is compared.
PLACES = ("index.cache_dir",)
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
    with; any of :data:`REFERENCES`, too. tune: setting -> values each arm is tried with, as text.
    """

    name: str
    dataset: str
    recipe: str | None
    seeds: Sequence[int]
    arms: Sequence[Arm]
    common: Mapping[str, str] = field(default_factory=dict)
    against: Sequence[str] = (FROZEN,)
    tune: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def check(self) -> Study:
        """Itself, if it can be run.

        Raises:
            ConfigError: an arm's name is taken twice, an arm is compared with one that is not
                there or takes its seconds from one that runs later, a setting is wrong, or arms
                are scored on different splits.
        """
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1 or name in REFERENCES:
                raise ConfigError(
                    f"--arm {name!r}: expected a name of its own, found it "
                    f"{'reserved' if name in REFERENCES else 'twice'}; name arms apart"
                )
            if "/" in name or name.startswith("."):
                raise ConfigError(
                    f"--arm {name!r}: expected a name that can be a folder's, found '/' in it or "
                    "'.' at its start"
                )
        if not names:
            raise ConfigError("--arms: expected at least one objective or --arm; found none")
        if not self.seeds:
            raise ConfigError("--seeds: expected at least one seed; found none")
        known = [*names, *REFERENCES]
        for name in self.against:
            if name not in known:
                raise ConfigError(
                    f"--against {name!r}: expected one of {', '.join(known)}; found no such arm"
                )
        split = self.config().eval.split
        for place, arm in enumerate(self.arms):
            _check_seconds(arm, names[:place])
            found = self.config(arm).eval.split
            if found != split:
                raise ConfigError(
                    f"arm {arm.name!r}: eval.split: expected that of all arms, {split!r}, found "
                    f"{found!r}; give it with --set for every arm"
                )
            self._check_tuning(arm)
        return self

    def _check_tuning(self, arm: Arm) -> None:
        for key, values in self.tune.items():
            if len(values) < 2:
                raise ConfigError(
                    f"--tune {key}: expected two values or more to choose from, found "
                    f"{', '.join(values) or 'none'}"
                )
            for value in values:
                config = self.config(replace(arm, settings={**arm.settings, key: value}))
                if config.train.held_back == 0:
                    raise ConfigError(
                        f"--tune {key}: values are compared on rows held back from training, and "
                        f"arm {arm.name!r} has train.held_back 0; leave that setting out"
                    )

    def config(self, arm: Arm | None = None) -> Config:
        """The configuration an arm runs with; of None, what all arms share.

        Raises:
            ConfigError: a setting is wrong.
        """
        overrides = Arm("", self.common).overrides() + ([] if arm is None else arm.overrides())
        return resolve_run(dataset=self.dataset, recipe=self.recipe, overrides=overrides).config


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


def parse_tune(texts: Sequence[str]) -> dict[str, list[str]]:
    """``["train.learning_rate=1e-5,2e-5"]`` as setting -> values.

    Raises:
        ConfigError: no ``=``.
    """
    found = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"--tune {text!r}: expected group.key=A,B,...")
        found[key] = [value.strip() for value in values.split(",") if value.strip()]
    return found


def read_study(path: Path, data_root: Path | None = None) -> Study:
    """Read a study's YAML: dataset, recipe, seeds, common, tune, arms, against.

    Args:
        path: the file.
        data_root: where the data set is a folder of that name; None, or none there: the name is
            a recipe's, or a folder's path.

    Raises:
        DataError: no such file, or a key is missing or unknown.
        ConfigError: see :meth:`Study.check`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        _refuse_unknown(path, content, _STUDY_KEYS, "")
        for name, arm in content["arms"].items():
            _refuse_unknown(path, arm, _ARM_KEYS, f"arms.{name}.")
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
            dataset=_data_folder(content["dataset"], data_root),
            recipe=content.get("recipe"),
            seeds=_seeds(content["seeds"]),
            arms=arms,
            common=_texts(content.get("common", {})),
            against=_names(content.get("against", FROZEN)),
            tune={key: [*map(setting_text, v)] for key, v in content.get("tune", {}).items()},
        )
    except OSError as error:
        raise DataError(f"expected a study's YAML file ({error.strerror})", path=path) from error
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
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


def _check_seconds(arm: Arm, earlier: Sequence[str]) -> None:
    """An arm at another's seconds runs after those two.

    Raises:
        ConfigError: it does not, or names only one of them.
    """
    named = {"equal_seconds": arm.equal_seconds, "pace_of": arm.pace_of}
    if not any(named.values()):
        return
    for key, name in named.items():
        if name not in earlier:
            raise ConfigError(
                f"arms.{arm.name}.{key}: expected an arm that runs before it "
                f"({', '.join(earlier) or 'none does'}), found {name!r}; equal_seconds and pace_of "
                "go together"
            )


def _refuse_unknown(
    path: Path, content: Mapping[str, Any], known: Sequence[str], prefix: str
) -> None:
    for key in sorted(map(str, content.keys() - set(known))):
        raise DataError(
            f"expected one of {', '.join(known)}; found an unknown key",
            path=path,
            field=f"{prefix}{key}",
        )


def _seeds(value: int | Sequence[int]) -> list[int]:
    return parse_seeds(str(value)) if isinstance(value, int) else [int(seed) for seed in value]


def _names(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _data_folder(name: str, data_root: Path | None) -> str:
    inside = None if data_root is None else data_root / name
    return name if inside is None or not inside.is_dir() else str(inside.resolve())
