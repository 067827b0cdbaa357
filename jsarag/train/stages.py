"""The stages of a run, each an objective with its rows and its length; ``loop.py`` runs any.

Before end-to-end training the generator may be warmed up, after it tuned on joined passages; both
are ``em/generator_stages.py``'s. Which stage a run is in is ``state.Progress``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsarag.assemble import make_em_settings
from jsarag.config.schema import Config
from jsarag.data.batching import BatchSchedule
from jsarag.em.generator_stages import Concatenate, WarmUp
from jsarag.em.objectives import Objective
from jsarag.train.optimizer import schedule_factor

Kind = Literal["warmup", "train", "concat"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage minimises, on which rows, and for how many optimizer steps in all."""

    kind: Kind
    title: str
    objective: Objective
    batches: BatchSchedule
    steps: int

    def learning_rate_factor(self, config: Config, step: int, spent: float = 0.0) -> float:
        """Factor on the peak learning rates for the update after ``step`` completed ones.

        ``spent``: share of another limit (seconds, the generator's work) that is used up; the rate
        falls by whichever limit comes first, so that arms of one budget all end annealed.

        The generator's own stages rise and then stay: what follows (training, decoding) wants a
        settled generator, not one whose learning rate was annealed for that stage alone.
        """
        settings = config.train
        if self.kind == "train":
            rise = settings.warmup_steps
            place = step if step < rise else max(step, spent * self.steps)
            return schedule_factor(settings.schedule, place, rise, self.steps)
        rise = min(settings.warmup_steps, self.steps)
        return schedule_factor("constant", step, rise, self.steps)


def warm_up_stage(config: Config, examples: int) -> Stage:
    """The generator on the posterior's own passages."""
    objective = WarmUp(make_em_settings(config), config.train.generator_warmup_top)
    steps = config.train.generator_warmup_steps
    return _stage(config, "warmup", "warm up the generator", objective, examples, steps)


def train_stage(config: Config, objective: Objective, examples: int) -> Stage:
    """All parts end to end."""
    return _stage(config, "train", "train", objective, examples, config.train.max_steps)


def concatenation_stage(config: Config, examples: int) -> Stage:
    """The generator on the prior's passages joined in one prompt."""
    objective = Concatenate(make_em_settings(config), config.train.concat_passages)
    title = "tune the generator on joined passages"
    return _stage(config, "concat", title, objective, examples, config.train.concat_steps)


# Each stage shuffles the rows for itself.
_SHUFFLES: dict[Kind, int] = {"train": 0, "warmup": 1, "concat": 2}


def _stage(
    config: Config, kind: Kind, title: str, objective: Objective, examples: int, steps: int
) -> Stage:
    seed = config.train.seed + _SHUFFLES[kind]
    batches = BatchSchedule(examples, config.train.batch_size, seed)
    return Stage(kind, title, objective, batches, steps)
