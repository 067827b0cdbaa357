"""Which training rows make up which batch: a pure function of the batch's number.

Nothing is remembered between calls, so a resumed run, another process or a test gets the same
batches. Turning rows into tensors belongs to the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jsarag import randomness
from jsarag.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One batch: row numbers, and how many times each row was seen before it."""

    indices: list[int]
    visits: list[int]


class BatchSchedule:
    """Epoch after epoch of shuffled rows, cut into batches of one size.

    Every row comes once per epoch, in an order keyed by (seed, epoch). A batch may hold the end of
    one epoch and the start of the next, so no row is skipped and all batches have the same size; a
    row that falls on both sides then comes twice, with two visit numbers.

    Args:
        n_examples: number of training rows, at least 1.
        batch_size: rows per batch, at least 1.
        seed: the run's seed.

    Raises:
        DataError: there are no rows.
        ConfigError: the batch size is not positive.
    """

    def __init__(self, n_examples: int, batch_size: int, seed: int) -> None:
        if n_examples < 1:
            raise DataError("expected at least one training row, found none; add rows to train")
        if batch_size < 1:
            raise ConfigError(f"train.batch_size: expected at least 1, got {batch_size}")
        self.n_examples, self.batch_size, self.seed = n_examples, batch_size, seed
        # A batch touches at most two epochs unless it is larger than the data.
        self._order = lru_cache(maxsize=2)(self._permutation)

    def at(self, micro_step: int) -> BatchPlan:
        """The batch with this 0-based number.

        Raises:
            ValueError: the number is negative.
        """
        if micro_step < 0:
            raise ValueError(f"micro_step: expected 0 or more, got {micro_step}")
        first = micro_step * self.batch_size
        places = [divmod(first + slot, self.n_examples) for slot in range(self.batch_size)]
        return BatchPlan(
            indices=[int(self._order(epoch)[place]) for epoch, place in places],
            visits=[epoch for epoch, _ in places],
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        return randomness.permutation(self.seed, "batches", epoch, self.n_examples)
