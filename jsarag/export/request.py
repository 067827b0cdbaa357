"""What is asked for, checked against a run's settings before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from jsarag.assemble import Parts
from jsarag.config.keys import nearest
from jsarag.config.schema import Config
from jsarag.em.objectives import objective_class
from jsarag.errors import ConfigError
from jsarag.io.run_dir import RunDir
from jsarag.models.load_generator import OFFLINE
from jsarag.models.retrievers import PART_NAMES

Target = Literal["sentence-transformers", "hf", "silver"]
TARGETS: tuple[Target, ...] = ("sentence-transformers", "hf", "silver")
GENERATOR = "generator"
PARTS = (*(name.replace("_", "-") for name in PART_NAMES), GENERATOR)
FORMATS = ("dpr", "tevatron", "triplets", "beir")

Embed = Callable[[Sequence[str]], Tensor]
"""Vectors [n, D] of some texts."""


class TrainedRun(Protocol):
    """What an export needs of a run; ``runs.OpenRun`` has it."""

    run_dir: RunDir
    config: Config
    parts: Parts
    step: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """What to write, and how.

    Attributes:
        to: 'sentence-transformers' (encoders), 'hf' (the generator), 'silver' (labels).
        part: one of :data:`PARTS`; None takes all that the target holds.
        adapter: leave LoRA as an adapter folder instead of merging it.
        format: of silver labels, one of :data:`FORMATS`.
        k: the posterior's passages considered for an example.
        min_weight: passages of less weight are no positives (the best one always is).
        negatives: the most negatives of an example.
        verify: load the result in the foreign tool and compare.
        force: replace an earlier export.
    """

    to: str
    part: str | None = None
    adapter: bool = False
    format: str | None = None
    k: int = 10
    min_weight: float = 0.1
    negatives: int = 5
    verify: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        _one_of("--to", self.to, TARGETS)
        if self.part is not None:
            _one_of("--part", self.part, PARTS)
        if self.format is not None:
            _one_of("--format", self.format, FORMATS)
        if self.adapter and self.to != "hf":
            raise ConfigError(
                f"--adapter: expected --to hf, which writes the generator, found --to {self.to}; "
                "leave --adapter out"
            )
        if (self.format is None) == (self.to == "silver"):
            raise ConfigError(
                f"--format: expected one of {', '.join(FORMATS)} with --to silver, and only there"
            )
        holds_generator = {"sentence-transformers": False, "hf": True}.get(self.to)
        if self.part is not None and (self.part == GENERATOR) is not holds_generator:
            raise ConfigError(
                f"--part {self.part}: expected an encoder with --to sentence-transformers, the "
                f"generator with --to hf, and no part with --to silver; found --to {self.to}"
            )
        if self.k < 1 or self.negatives < 0 or not 0 <= self.min_weight <= 1:
            raise ConfigError(
                "silver labels: expected --k of at least 1, --negatives of at least 0 and "
                f"--min-weight from 0 to 1; found {self.k}, {self.negatives}, {self.min_weight}"
            )

    def check(self, config: Config) -> None:
        """Refuse what a run of this configuration cannot give.

        Raises:
            ConfigError: says what can be exported instead.
        """
        model = config.generator.model
        if self.to == "hf" and model in OFFLINE:
            raise ConfigError(
                f"--to hf: expected a run whose generator is a language model; this run's is "
                f"'{model}', which is made for training without one and loads nowhere else. "
                "Export the retrievers with --to sentence-transformers or their labels with "
                "--to silver, or train with --generator FOLDER, HUB-ID or smollm2"
            )
        if self.adapter and config.generator.lora is None:
            raise ConfigError(
                "--adapter: expected a run trained with generator.lora; this run trained the "
                "generator's own weights. Leave --adapter out"
            )
        wants = self.to == "silver" or self.part in ("posterior", "posterior-passages")
        if wants and not trains_posterior(config):
            raise ConfigError(
                f"--to {self.to}: this run's objective '{config.objective.name}' trains no "
                "posterior retriever, so there is none to export or to take labels from. Export "
                "--part prior or passages, or use a run of an objective that trains one, such as "
                "'jsa'"
            )
        separate = config.retriever.passage_encoder == "separate"
        if self.part == "posterior-passages" and not separate:
            raise ConfigError(
                "--part posterior-passages: this run's retrievers share one passage encoder; use "
                "--part passages"
            )


def trains_posterior(config: Config) -> bool:
    """Whether the run's posterior learned anything; one that did not is there all the same."""
    return objective_class(config.objective.name).needs_posterior


def _one_of(flag: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        guess = nearest(found, known)
        advice = f"; did you mean '{guess}'?" if guess else ""
        raise ConfigError(f"{flag}: expected one of {', '.join(known)}, found '{found}'{advice}")
