"""AdamW over the parts of a model, one learning rate and one gradient clip per part.

Clipping is per part because the generator's gradient (a sum over tokens) is one to two orders of
magnitude larger than a retriever's: one common norm would let it decide how far retrievers move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from jsarag.errors import CheckpointError
from jsarag.io.optimizer_state import flatten_optimizer, restore_optimizer

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """AdamW's settings; learning rates are peaks, reached after ``warmup_steps``."""

    retriever_learning_rate: float
    generator_learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    clip_norm: float
    warmup_steps: int
    schedule: Schedule


def schedule_factor(schedule: Schedule, step: float, warmup_steps: int, total_steps: int) -> float:
    """Factor on the peak learning rate for the update after ``step`` completed ones.

    Rises linearly over ``warmup_steps``, then stays, falls linearly, or falls as a half cosine to
    zero at ``total_steps``.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant" or total_steps <= warmup_steps:
        return 1.0
    left = max(total_steps - step, 0) / (total_steps - warmup_steps)
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


class PartOptimizer:
    """One AdamW for all parts; parts without trainable parameters have none.

    Weights are float32 masters: bfloat16 exists only inside autocast, so small updates are not
    rounded away.

    Args:
        parts: module by part name; 'generator' gets the generator's learning rate.
        settings: see :class:`OptimizerSettings`.
    """

    def __init__(self, parts: Mapping[str, nn.Module], settings: OptimizerSettings) -> None:
        self.settings = settings
        self.parameters: dict[str, dict[str, nn.Parameter]] = {}
        groups = []
        for part, module in parts.items():
            named = {
                f"{part}.{name}": parameter
                for name, parameter in module.named_parameters()
                if parameter.requires_grad
            }
            if not named:
                continue
            self.parameters[part] = named
            is_generator = part == "generator"
            peak = (
                settings.generator_learning_rate
                if is_generator
                else settings.retriever_learning_rate
            )
            # Vectors (biases, norms) are not decayed: shrinking them regularises nothing.
            for decay, chosen in (
                (settings.weight_decay, [p for p in named.values() if p.dim() > 1]),
                (0.0, [p for p in named.values() if p.dim() <= 1]),
            ):
                if chosen:
                    groups.append(
                        {"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay}
                    )
        # fused: one pass over the weights; the default's many took as long as half a forward pass.
        self._adamw = (
            torch.optim.AdamW(groups, betas=settings.betas, fused=True) if groups else None
        )

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Names of the parts that have trainable parameters."""
        return tuple(self.parameters)

    @property
    def weights(self) -> list[nn.Parameter]:
        """All that trains, in the same order wherever the parts are the same."""
        return list(self._flat().values())

    def zero_grad(self) -> None:
        """Forget gradients; parts that then get none are left alone by :meth:`step`."""
        if self._adamw is not None:
            self._adamw.zero_grad(set_to_none=True)

    def clip(self) -> dict[str, Tensor]:
        """Clip each part's gradient to ``clip_norm``; returns the norms before, f32 scalars."""
        norms = {}
        for part, named in self.parameters.items():
            gradients = [p for p in named.values() if p.grad is not None]
            if gradients:
                norms[part] = nn.utils.clip_grad_norm_(gradients, self.settings.clip_norm)
        return norms

    def step(self, factor: float) -> None:
        """Move every part that has gradients, at ``factor`` times its peak learning rate."""
        if self._adamw is None:
            return
        for group in self._adamw.param_groups:
            group["lr"] = group["peak"] * factor
        self._adamw.step()

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Tensors and JSON of a checkpoint; :meth:`load` takes them back."""
        if self._adamw is None:
            return {}, {}
        return flatten_optimizer(self._adamw, self._flat())

    def load(self, tensors: Mapping[str, Tensor], record: Mapping[str, object]) -> None:
        """Restore :meth:`state`.

        Raises:
            CheckpointError: it belongs to other parameters.
        """
        if self._adamw is None:
            if record:
                raise CheckpointError(
                    "optimizer state: the checkpoint trains parts that are frozen here; use the "
                    "settings the run was started with (train.freeze)"
                )
            return
        restore_optimizer(self._adamw, self._flat(), tensors, record)

    def _flat(self) -> dict[str, nn.Parameter]:
        return {name: p for named in self.parameters.values() for name, p in named.items()}
