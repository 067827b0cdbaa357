"""Stops a run that has gone wrong: numbers that are none, and retrieval that has collapsed.

Collapse is the failure that hides: every query gets the same few passages while the loss looks
fine. The likelihood's evidence is checked in ``evidence.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jsarag.errors import GuardError, NumericalError


def require_finite(loss: Tensor, norms: Mapping[str, Tensor], step: int) -> None:
    """Refuse to apply an update that holds NaN or infinity.

    Args:
        loss: the step's loss, scalar.
        norms: gradient norm by part.
        step: for the message.

    Raises:
        NumericalError: names what is not finite; the weights are still those of the step before.
    """
    values = {"loss": loss, **{f"gradient of {part}": norm for part, norm in norms.items()}}
    stacked = torch.stack([value.detach().float() for value in values.values()])
    bad = (~stacked.isfinite()).tolist()  # sync: NaN that goes on for hours costs more
    if any(bad):
        raise not_finite([name for name, is_bad in zip(values, bad, strict=True) if is_bad], step)


def not_finite(names: Sequence[str], step: int) -> NumericalError:
    """The error of a step in which what is named holds NaN or infinity."""
    return NumericalError(
        f"step {step}: {', '.join(names)} is not finite, so the update was not made and the "
        "last good state was saved. Lower --learning-rate or train.generator_learning_rate, "
        "or train without --bf16, and --resume"
    )


class CollapseGuard:
    """Counts distinct top passages over the last ``window`` steps.

    Args:
        window: steps looked back on.
        least_ratio: the smallest share of distinct passages among those retrieved first.
        passages: K; a small knowledge base cannot give more distinct passages than it has.
    """

    def __init__(self, window: int, least_ratio: float, passages: int) -> None:
        self._tops: deque[list[int]] = deque(maxlen=window)
        self._least, self._passages = least_ratio, passages

    def add(self, tops: Iterable[int]) -> None:
        """The prior's first passage (its row) for every example of a step."""
        self._tops.append(list(tops))

    @property
    def distinct_passages(self) -> int:
        """Distinct first passages over the window."""
        return len({row for tops in self._tops for row in tops})

    @property
    def distinct_ratio(self) -> float:
        """:attr:`distinct_passages` over how many there could be."""
        retrieved = sum(map(len, self._tops))
        return self.distinct_passages / max(min(retrieved, self._passages), 1)

    def check(self, step: int) -> None:
        """Stop where a full window has collapsed.

        Raises:
            GuardError: says what was seen and what to change.
        """
        if len(self._tops) < (self._tops.maxlen or 0) or self.distinct_ratio >= self._least:
            return
        raise GuardError(
            f"step {step}: retrieval has collapsed: the last {len(self._tops)} steps' "
            f"{sum(map(len, self._tops))} contexts got only {self.distinct_passages} different "
            f"first passages ({self.distinct_ratio:.1%}; guards.min_distinct_ratio is "
            f"{self._least:.1%}). Lower --learning-rate, raise --temperature, or freeze passages; "
            "the state before the collapse is among the checkpoints if --save-steps is set"
        )

    def state(self) -> dict[str, Any]:
        """JSON for a checkpoint."""
        return {"tops": [list(tops) for tops in self._tops]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state`."""
        self._tops.clear()
        self._tops.extend(list(tops) for tops in state["tops"])
