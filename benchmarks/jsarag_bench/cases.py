"""Named benchmark cases, read from ``cases.yaml``.

A case is a shape and the reason it matters; how it is built, verified and timed is in ``kernels/``.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any, Literal

import yaml

from jsarag.errors import ConfigError

Tier = Literal["quick", "full", "test"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a case must reach.

    against: ``floor`` (the measured ceilings), ``best`` (of all rivals), ``best float32`` (of the
        rivals computing in it), a rival's or a companion's name; with ``memory``: a rival whose
        extra bytes are measured.
    at_most: our time (or extra bytes) divided by theirs may not exceed it, or None.
    at_least: their time divided by ours must reach it, or None.
    """

    against: str
    at_most: float | None = None
    at_least: float | None = None
    memory: bool = False

    @property
    def text(self) -> str:
        """The target in words."""
        what = "memory" if self.memory else "time"
        if self.at_most is not None:
            return f"{what} at most {self.at_most:g}x {self.against}"
        return f"at least {self.at_least:g}x faster than {self.against}"


@dataclass(frozen=True, slots=True)
class Case:
    """One named shape.

    Attributes:
        op: the kernel, a module of ``jsarag_bench.kernels``.
        shape: sizes by their letter (B, N, D, T, H, V, M).
        dtype: of the passages or the model (``float32``, ``bfloat16``, ``int8``).
        reason: why this shape matters.
        k: of ``scan``.
        options: what else the kernel's module reads (``tile_lse``, ``certify``, ``backward``, ...).
        device: ``cpu`` or ``cuda``.
        tier: ``quick`` runs by default, ``full`` with ``--full``, ``test`` only by name.
        headline: shown in the short table.
        targets: what must be reached.
        skip_peers: rival -> why it is not timed here.
    """

    name: str
    op: str
    shape: Mapping[str, int]
    dtype: str
    reason: str
    k: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    tier: Tier = "full"
    headline: bool = False
    targets: Sequence[Target] = ()
    skip_peers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON types, for a worker process."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Case:
        """The inverse of :meth:`to_json`."""
        targets = tuple(Target(**target) for target in content["targets"])
        return cls(**{**content, "targets": targets})

    def shrunk(self, sizes: Mapping[str, int]) -> Case:
        """The same case with some sizes cut down, to warm libraries up without its memory."""
        content = self.to_json()
        content["shape"] = {
            letter: min(size, sizes.get(letter, size)) for letter, size in self.shape.items()
        }
        return Case.from_json(content)


def read_cases(text: str | None = None) -> dict[str, Case]:
    """All cases by name, in the file's order.

    Args:
        text: YAML; default the shipped ``cases.yaml``.

    Raises:
        ConfigError: a key is missing or unknown.
    """
    if text is None:
        text = (resources.files("jsarag_bench") / "cases.yaml").read_text(encoding="utf-8")
    found: dict[str, Case] = {}
    for entry in yaml.safe_load(text)["cases"]:
        case = _case(entry)
        if case.name in found:
            raise ConfigError(f"cases.yaml: the name '{case.name}' is used twice; rename one")
        found[case.name] = case
    return found


def select_cases(
    cases: Mapping[str, Case], names: Collection[str] | None, *, device: str, full: bool
) -> list[Case]:
    """The cases to run: those named, else the device's quick ones, or all with ``full``.

    Raises:
        ConfigError: a name is unknown, or belongs to another device.
    """
    if names:
        return [_named(cases, name, device) for name in names]
    tiers = ("quick", "full") if full else ("quick",)
    return [case for case in cases.values() if case.device == device and case.tier in tiers]


def _named(cases: Mapping[str, Case], name: str, device: str) -> Case:
    if name not in cases:
        near = difflib.get_close_matches(name, cases, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(cases)}"
        raise ConfigError(f"bench: unknown case '{name}'; {hint}")
    case = cases[name]
    if case.device != device:
        raise ConfigError(
            f"bench: case '{name}' is for {case.device}, this run is for {device}; "
            f"pass --device {case.device}"
        )
    return case


def _case(entry: Mapping[str, Any]) -> Case:
    values = dict(entry)
    quick, test = values.pop("quick", False), values.pop("test", False)
    values["tier"] = "test" if test else "quick" if quick else "full"
    try:
        values["targets"] = tuple(Target(**target) for target in values.get("targets", ()))
        return Case(**values)
    except TypeError as error:
        raise ConfigError(f"cases.yaml: case '{entry.get('name')}': {error}") from error
