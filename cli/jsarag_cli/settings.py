"""Flags that are settings: one table row per flag, from which options and help are made.

A flag's text goes to ``jsarag.config.load.flag`` unread, so a wrong value gets the same message as
in a file. Nothing heavy is imported before a verb runs, so the rows stand here and not in the
schema, which names the same flags (tests/unit/config/test_page.py).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jsarag.em.objectives import objective_names

if TYPE_CHECKING:
    from jsarag.config.load import Setting

    Overrides = list[Setting]
else:
    # typer evaluates a verb's annotations; importing the real type would cost pydantic per --help.
    Overrides = list

SettingsVerb = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its name without dashes, the setting it sets, what it takes, and what it is for."""

    name: str
    key: str
    takes: str
    help: str
    panel: str = "Settings"
    switch: bool = False

    @property
    def parameter(self) -> str:
        """The Python name."""
        return self.name.replace("-", "_")

    def as_parameter(self) -> inspect.Parameter:
        """The option as typer reads it from a signature."""
        if self.switch:
            names = (f"--{self.name}/--no-{self.name}",)
            kind: Any = bool | None
            option = typer.Option(*names, help=self.help, rich_help_panel=self.panel)
        else:
            kind = str | None
            option = typer.Option(
                f"--{self.name}", metavar=self.takes, help=self.help, rich_help_panel=self.panel
            )
        return inspect.Parameter(
            self.parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind, option],
        )


_SET = inspect.Parameter(
    "set_",
    inspect.Parameter.KEYWORD_ONLY,
    default=(),
    annotation=Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="GROUP.KEY=VALUE",
            help="Any setting; repeatable. `train --schema` lists them all.",
            rich_help_panel="Settings",
        ),
    ],
)


def with_settings(flags: Sequence[Flag]) -> Callable[[SettingsVerb], SettingsVerb]:
    """Give a verb these flags and ``--set``; it receives what was given as ``overrides``.

    Args:
        flags: in the order of the help.
    """

    def decorate(verb: SettingsVerb) -> SettingsVerb:
        @functools.wraps(verb)
        def run(**values: Any) -> None:
            given = {flag: values.pop(flag.parameter) for flag in flags}
            overrides = _settings(given, values.pop("set_"))
            verb(**values, overrides=overrides)

        signature = inspect.signature(verb, eval_str=True)
        own = [
            entry.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, entry in signature.parameters.items()
            if name != "overrides"
        ]
        added = [flag.as_parameter() for flag in flags]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *added, _SET]
        )
        return run

    return decorate


def _settings(given: Mapping[Flag, Any], assignments: Sequence[str]) -> Overrides:
    from jsarag.config.load import flag, parse_set

    settings = [
        flag(known.key, value, f"flag --{known.name}")
        for known, value in given.items()
        if value is not None
    ]
    return [*settings, *(parse_set(text) for text in assignments)]


_MODELS, _OBJECTIVE, _STEPS, _RUN = "Models and data", "Objective", "Training", "Run"
_OBJECTIVES = f"One of {', '.join(objective_names())}."

DATA_DIR = Flag("data-dir", "data.data_dir", "FOLDER", "Official files of a data set.", _MODELS)
COLUMNS = Flag(
    "map", "data.map", "OURS=THEIRS,...", "Rename columns, e.g. answers=Answer.", _MODELS
)
DEVICE = Flag("device", "train.device", "auto|cpu|cuda", "Where to compute.", _RUN)
OUTPUT_DIR = Flag("output-dir", "output.output_dir", "FOLDER", "The run folder.", _RUN)
SEED = Flag("seed", "train.seed", "N", "Seed of every random number.", _RUN)
GENERATOR = Flag(
    "generator",
    "generator.model",
    "NAME",
    "copy, query-likelihood, smollm2, a folder, a hub id.",
    _MODELS,
)
BATCH_SIZE = Flag("batch-size", "train.batch_size", "N", "Examples per micro step.", _STEPS)
MAX_STEPS = Flag(
    "max-steps", "train.max_steps", "N", "Optimizer steps; default: by the number of rows.", _STEPS
)

TRAIN_FLAGS = (
    DATA_DIR,
    COLUMNS,
    Flag(
        "dev-fraction",
        "data.dev_fraction",
        "SHARE",
        "Cut a dev split off the training rows where there is none.",
        _MODELS,
    ),
    Flag("retriever", "retriever.model", "NAME", "Encoder: minilm, a folder, a hub id.", _MODELS),
    GENERATOR,
    Flag("objective", "objective.name", "NAME", _OBJECTIVES, _OBJECTIVE),
    Flag(
        "estimator",
        "objective.estimator",
        "NAME",
        "mis, mis-cached, mis-recycled, snis or exact.",
        _OBJECTIVE,
    ),
    Flag("support", "objective.support", "NAME", "prior, union, batch or kb.", _OBJECTIVE),
    Flag("likelihood", "objective.likelihood", "NAME", "sum or mean, over tokens.", _OBJECTIVE),
    Flag("k", "objective.k", "N", "Candidates per retriever.", _OBJECTIVE),
    Flag("mis-steps", "objective.mis_steps", "N", "Draws per example and step.", _OBJECTIVE),
    Flag("temperature", "retriever.temperature", "T", "Of the retrievers' softmax.", _OBJECTIVE),
    Flag("learning-rate", "train.learning_rate", "X", "Of the retrievers.", _STEPS),
    BATCH_SIZE,
    Flag(
        "gradient-accumulation-steps",
        "train.gradient_accumulation_steps",
        "N",
        "Micro steps per optimizer step.",
        _STEPS,
    ),
    Flag("warmup-steps", "train.warmup_steps", "N", "Of the learning rate.", _STEPS),
    MAX_STEPS,
    Flag("max-seconds", "train.max_seconds", "S", "Stop at this much training time.", _STEPS),
    Flag("eval-steps", "train.eval_steps", "N", "Evaluate every N steps; 0: at the ends.", _STEPS),
    Flag("save-steps", "train.save_steps", "N", "Save every N steps; 0: at the end.", _STEPS),
    Flag(
        "rebuild-every",
        "index.rebuild_every",
        "SCHEDULE",
        "Rebuild the index, e.g. 0-1000:100,1000-:500.",
        _STEPS,
    ),
    Flag(
        "index", "index.path", "FOLDER", "Use this index of the passages; embed nothing.", _MODELS
    ),
    Flag("freeze", "train.freeze", "PART,...", "prior, posterior, passages, generator.", _STEPS),
    Flag("bf16", "train.bf16", "", "Networks in bfloat16.", _RUN, switch=True),
    Flag(
        "strict",
        "guards.strict",
        "",
        "Stop, not only warn, where the likelihood carries no evidence.",
        _RUN,
        switch=True,
    ),
    SEED,
    DEVICE,
    OUTPUT_DIR,
    Flag("report-to", "output.report_to", "NAME,...", "tensorboard, wandb, trackio.", _RUN),
)

STEP_FLAGS = (GENERATOR, BATCH_SIZE, SEED, DEVICE)
COMPARE_FLAGS = (GENERATOR, BATCH_SIZE, DEVICE)

DEMO_FLAGS = (
    Flag("objective", "objective.name", "NAME", _OBJECTIVES, _OBJECTIVE),
    MAX_STEPS,
    SEED,
    DEVICE,
    OUTPUT_DIR,
)

EVAL_FLAGS = (
    Flag("k", "eval.k", "N", "Passages retrieved per example."),
    Flag(
        "decoding",
        "eval.decoding",
        "NAME",
        "top1, concat, rag-sequence, rag-sequence-fast or rag-token.",
    ),
    Flag("max-examples", "eval.max_examples", "N", "Generate for the first N examples."),
    Flag("generation", "eval.generation", "", "Score responses, too.", switch=True),
    DATA_DIR,
)
