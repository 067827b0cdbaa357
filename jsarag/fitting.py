"""Defaults that fit the data, where neither a recipe nor the user set them.

A hundred steps on 68 rows are an hour for nothing, and a passage limit that suits everyone suits
nobody. Each choice is a function of the data, so that a run that is started again makes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from jsarag.config.load import Resolved
from jsarag.config.schema import Config
from jsarag.data.registry import Dataset
from jsarag.limits import fitting_limits
from jsarag.types import Passage

STEPS, WARM_UP = "train.max_steps", "train.warmup_steps"
LIMITS = ("retriever.max_passage_tokens", "generator.max_passage_tokens")
# Most of what a recipe's run gains it gains in its first steps; ten passes overfit nothing we ran.
_PASSES = 10
_LEAST, _MOST = 20, 100


def is_fitted(resolved: Resolved) -> bool:
    """Whether the data decide any of this run's settings."""
    return any(_is_free(resolved, key) for key in (STEPS, *LIMITS))


def fit_data(resolved: Resolved, dataset: Dataset) -> Resolved:
    """The same run with its free settings chosen for a data set; each choice is a note.

    Raises:
        BackendUnavailableError: a tokeniser is neither on this machine nor reachable.
    """
    return fit_limits(_fit_steps(resolved, len(dataset.splits["train"])), dataset.kb.passages)


def fit_limits(resolved: Resolved, passages: Sequence[Passage]) -> Resolved:
    """The same run with passage limits that suit the passages, where nobody set them.

    Raises:
        BackendUnavailableError: a tokeniser is neither on this machine nor reachable.
    """
    if not any(_is_free(resolved, key) for key in LIMITS):
        return resolved
    for fitting in fitting_limits(resolved.config, passages):
        if _is_free(resolved, fitting.setting):
            source = f"{fitting.there:,} passages"
            resolved = _with(resolved, fitting.setting, fitting.limit, source, fitting.describe())
    return resolved


def _fit_steps(resolved: Resolved, rows: int) -> Resolved:
    settings = resolved.config.train
    # Who gives time or pairs has said how long the run is.
    budgeted = settings.max_seconds is not None or settings.max_generator_forwards is not None
    if budgeted or not _is_free(resolved, STEPS):
        return resolved
    a_step = settings.batch_size * settings.gradient_accumulation_steps
    passes = -(-_PASSES * rows // a_step)
    steps = min(_MOST, max(_LEAST, round(passes, -1)))
    note = (
        f"{STEPS}: {steps} steps, {steps * a_step / rows:.1f} passes over {rows:,} rows at "
        f"{a_step} a step (--max-steps sets another number)"
        if rows
        else ""
    )
    resolved = _with(resolved, STEPS, steps, f"{rows:,} rows", note)
    warm_up = min(settings.warmup_steps, steps // 4)
    if warm_up < settings.warmup_steps and _is_free(resolved, WARM_UP):
        resolved = _with(resolved, WARM_UP, warm_up, f"{steps} steps", "")
    return resolved


def _is_free(resolved: Resolved, key: str) -> bool:
    return resolved.sources.get(key, "default") == "default"


def _with(resolved: Resolved, key: str, value: int, source: str, note: str) -> Resolved:
    group, _, name = key.partition(".")
    changed = getattr(resolved.config, group).model_copy(update={name: value})
    config: Config = resolved.config.model_copy(update={group: changed})
    notes = (*resolved.notes, note) if note else resolved.notes
    return Resolved(config, {**resolved.sources, key: source}, notes)
