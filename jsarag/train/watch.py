"""No run ends worse than it began: rows held back from training say which state to keep.

At intervals the present state is measured on these rows: where they carry gold passages, by the
reciprocal rank of the prior's search; else without labels, by log p(y|x) with the passages the
prior finds now under the generator *as it was when end-to-end training began* (one that moves would
judge itself). Labels choose among states here; no gradient ever sees them.

The decision is one rule on numbers (:func:`decide`), so a continued run comes to the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from jsarag import randomness
from jsarag.assemble import Parts
from jsarag.data.registry import Dataset
from jsarag.eval.retrieval import score_retrieval
from jsarag.index.rows import excluded_rows
from jsarag.io.tensors import load_tensors, save_tensors
from jsarag.models.prompts import render_context
from jsarag.train.problem import Windows
from jsarag.types import Example, GeneratorInput

Measure = Literal["gold", "likelihood"]
HELD_BACK = "held-back"
START_GENERATOR = "start_generator.safetensors"
# Held back by default: a tenth of the rows, no more than this; fewer than _LEAST say too little.
_MOST, _LEAST = 64, 8
# A collapse is to be seen within this many steps.
_FIRST_LOOK = 20
# Looks in a run, by steps or by shares of another limit.
LOOKS = 8
# Passages the likelihood is averaged over, by the prior's probabilities among them.
_PASSAGES = 4
_BATCH = 64
_BOOTSTRAPS = 2000
# What the numbers of a measure are.
MEASURES: Mapping[Measure, str] = {
    "gold": "MRR@10 of the prior",
    "likelihood": "log p(y|x) under the starting generator",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The measure after ``step`` steps: one number a held-back row, larger is better."""

    step: int
    measure: Measure
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the rows."""
        return float(np.mean(self.values))

    def to_row(self) -> dict[str, Any]:
        """As a row of ``metrics.jsonl``."""
        return {
            "kind": "watch",
            "step": self.step,
            "measure": self.measure,
            "value": self.mean,
            "values": list(self.values),
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Reading:
        """What :meth:`to_row` wrote."""
        return cls(int(row["step"]), row["measure"], tuple(row["values"]))


@dataclass(frozen=True, slots=True)
class Decision:
    """Which state a run keeps.

    kept: its step. worse: whether the run is to end as a failure: every later state is worse than
    the start beyond the interval of their difference, so the start is kept. reason: one sentence.
    """

    kept: int
    worse: bool
    reason: str


def hold_back(dataset: Dataset, wanted: int | None, seed: int) -> Dataset:
    """The data set with some training rows moved to the split :data:`HELD_BACK`.

    Whole dialogues move, so that no turn of one is trained on. Small data sets keep all rows.

    Args:
        dataset: its 'train' split is cut.
        wanted: rows; None takes a tenth, at most 64, and none where that is fewer than eight.
        seed: chooses the dialogues.
    """
    train = dataset.splits["train"]
    count = min(_MOST, len(train) // 10) if wanted is None else min(wanted, len(train) - 1)
    if count <= 0 or (wanted is None and count < _LEAST):
        return dataset
    names = [example.dialogue_id or f"row {place}" for place, example in enumerate(train)]
    sizes = Counter(names)
    distinct = list(sizes)
    held: set[str] = set()
    rows = 0
    for place in randomness.permutation(seed, HELD_BACK, 0, len(distinct)).tolist():
        name = distinct[place]
        if rows and rows + sizes[name] > count:
            continue
        held.add(name)
        rows += sizes[name]
        if rows >= count:
            break
    if rows >= len(train):
        return dataset
    splits = dict(dataset.splits)
    splits["train"] = [row for row, name in zip(train, names, strict=True) if name not in held]
    splits[HELD_BACK] = [row for row, name in zip(train, names, strict=True) if name in held]
    return replace(dataset, splits=splits)


def looks(max_steps: int) -> frozenset[int]:
    """The steps after which a run is measured: about eight times, the first within 20 steps."""
    every = max(max_steps // LOOKS, 1)
    return frozenset({min(_FIRST_LOOK, every), *range(every, max_steps + 1, every), max_steps})


def decide(readings: Sequence[Reading], seed: int) -> Decision:
    """Which state to keep.

    The best of the later states, unless it is worse than the start by more than the standard error
    of their difference: then the start. Ties go to the later state, which has trained longer.

    Args:
        readings: the start's first.
        seed: of the bootstrap.
    """
    start, *later = readings
    if not later:
        return Decision(start.step, False, "nothing was trained")
    best = max(later, key=lambda reading: (reading.mean, reading.step))
    change = _change(start, best, seed)
    if change.mean >= -change.error:
        return Decision(best.step, False, f"step {best.step} is kept; {change.numbers}")
    return Decision(start.step, change.high < 0, f"the start is kept; {change.numbers}")


def judge_last(readings: Sequence[Reading], seed: int) -> Decision:
    """The last state, whatever it is: what ``train.keep: last`` asks for.

    Args:
        readings: the start's first.
        seed: of the bootstrap.
    """
    start, last = readings[0], readings[-1]
    change = _change(start, last, seed)
    worse = last is not start and change.high < 0
    reason = f"step {last.step} is kept, as train.keep says; {change.numbers}"
    return Decision(last.step, worse, reason)


@dataclass(frozen=True, slots=True)
class _Change:
    """A later reading minus the start's: mean, standard error, upper end of 95 %, in words."""

    mean: float
    error: float
    high: float
    numbers: str


def _change(start: Reading, later: Reading, seed: int) -> _Change:
    difference = np.array(later.values) - np.array(start.values)
    low, high, error = _spread(difference, seed)
    numbers = (
        f"{MEASURES[start.measure]} on {len(difference)} held-back rows: {start.mean:.3f} at the "
        f"start, {later.mean:.3f} at step {later.step} (difference {difference.mean():+.3f}, 95 % "
        f"{low:+.3f} to {high:+.3f})"
    )
    return _Change(float(difference.mean()), error, high, numbers)


def has_collapsed(readings: Sequence[Reading], seed: int) -> bool:
    """Whether going on is pointless: what was found at the start is lost for most rows.

    Args:
        readings: the start's first, the present one last.
        seed: of the bootstrap.
    """
    start, now = readings[0], readings[-1]
    difference = np.array(now.values) - np.array(start.values)
    _, high, _ = _spread(difference, seed)
    if start.measure == "gold":
        return high < 0 and now.mean < 0.5 * start.mean
    # A response's likelihood has no zero; most rows being worse is what a collapse looks like.
    return high < 0 and float((difference < 0).mean()) > 0.8


class Watch:
    """Measures the state of a run on its held-back rows.

    Args:
        parts: the run's; its data set has the split :data:`HELD_BACK`.
        windows: turns each part reads.
        measure: what is looked at.
        folder: the run's, where the starting generator is kept.
        inv_temperature: of the prior's softmax.
        seed: of the bootstrap.
        readings: of a continued run, the start's first.
    """

    def __init__(
        self,
        parts: Parts,
        windows: Windows,
        *,
        measure: Measure,
        folder: Path,
        inv_temperature: float,
        seed: int,
        readings: Iterable[Reading] = (),
    ) -> None:
        self.readings = list(readings)
        self.seed = seed
        self._parts, self._windows, self._measure = parts, windows, measure
        self._path = folder / START_GENERATOR
        self._inv_temperature = inv_temperature
        self._scored: dict[tuple[int, int], float] = {}

    @property
    def examples(self) -> list[Example]:
        """The rows held back."""
        return list(self._parts.dataset.splits[HELD_BACK])

    def look(self, step: int) -> Reading:
        """Measure the present state; the first look is the start's."""
        if not self.readings and self._measure == "likelihood":
            self._keep_generator()
        values = self._gold() if self._measure == "gold" else self._likelihood()
        reading = Reading(step, self._measure, tuple(values))
        self.readings.append(reading)
        return reading

    def decision(self, keep: Literal["best", "last"] = "best") -> Decision:
        """What would be kept if the run ended now; once passed over, a state never comes back."""
        return (decide if keep == "best" else judge_last)(self.readings, self.seed)

    def collapsed(self) -> bool:
        """Whether the present state has lost what the start found."""
        return len(self.readings) > 1 and has_collapsed(self.readings, self.seed)

    @torch.no_grad()
    def _search(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The prior's k best rows and scores of every held-back row, on the host."""
        found = []
        retrievers, kb = self._parts.retrievers, self._parts.dataset.kb
        examples = self.examples
        for first in range(0, len(examples), _BATCH):
            batch = examples[first : first + _BATCH]
            queries = retrievers.encode_contexts(batch, self._windows.context_turns)
            exclude = excluded_rows(kb, batch, self._parts.device)
            found.append(self._parts.prior_index.search(queries, k, exclude))
        return (
            torch.cat([hits.ids.cpu() for hits in found]),
            torch.cat([hits.scores.cpu() for hits in found]),
        )

    def _gold(self) -> list[float]:
        kb, examples = self._parts.dataset.kb, self.examples
        rows, _ = self._search(10)
        ranked = [[kb[row].id for row in line if row >= 0] for line in rows.tolist()]
        scores = score_retrieval(ranked, [example.gold_passages for example in examples])
        return [float(value) for value in scores.values["MRR@10"]]

    @torch.no_grad()
    def _likelihood(self) -> list[float]:
        rows, scores = self._search(_PASSAGES)
        new = [
            (place, row)
            for place, line in enumerate(rows.tolist())
            for row in line
            if row >= 0 and (place, row) not in self._scored
        ]
        self._scored |= dict(zip(new, self._starting_logp(new), strict=True))
        values = []
        for place, (line, found) in enumerate(zip(rows.tolist(), scores, strict=True)):
            share = (found.double() * self._inv_temperature).log_softmax(dim=0)
            logp = [self._scored.get((place, row), -torch.inf) for row in line]
            values.append(float((share + torch.tensor(logp, dtype=torch.float64)).logsumexp(0)))
        return values

    def _starting_logp(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """log p(y|x,h) of pairs under the generator as it was at the first look."""
        generator, kb, examples = self._parts.generator, self._parts.dataset.kb, self.examples
        inputs = [
            GeneratorInput(
                render_context(examples[place], self._windows.generator_turns),
                (kb[row],),
                examples[place].response,
            )
            for place, row in pairs
        ]
        if not generator.is_trainable:
            return [float(value) for value in generator.response_logp(inputs).logp.cpu()]
        present = {name: value.clone() for name, value in generator.checkpoint_state().items()}
        generator.load_checkpoint_state(load_tensors(self._path))
        try:
            return [float(value) for value in generator.response_logp(inputs).logp.cpu()]
        finally:
            generator.load_checkpoint_state(present)

    def _keep_generator(self) -> None:
        if self._parts.generator.is_trainable:
            save_tensors(self._path, self._parts.generator.checkpoint_state())


def choose_measure(wanted: str, examples: Sequence[Example]) -> Measure:
    """``gold`` where every held-back row has labels and nobody forbids them, else likelihood."""
    if wanted == "likelihood":
        return "likelihood"
    return "gold" if all(example.gold_passages for example in examples) else "likelihood"


def _spread(difference: np.ndarray, seed: int) -> tuple[float, float, float]:
    """The 95 % interval of a mean over rows, and its standard error."""
    n = len(difference)
    picks = randomness.generator(seed, "watch bootstrap").integers(0, n, size=(_BOOTSTRAPS, n))
    means = difference[picks].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high), float(means.std())
