"""The last step of a language model, from hidden states to log-probabilities, without logits.

Reads from a transformers model what its logits are made of (projection, biases, scale, soft cap),
and proves it once on a few tokens: a model whose logits come about in another way is left to its
own forward pass, with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jsarag import ops


@dataclass(frozen=True, slots=True)
class OutputHead:
    """logits = softcap(logit_scale * (hidden W^T + bias)).

    weight [V, H] and bias [V] or None are the model's own tensors: gradients reach them.
    """

    linear: nn.Linear
    extra_bias: Tensor | None
    logit_scale: float
    softcap: float | None

    @property
    def bias(self) -> Tensor | None:
        """Everything added before scaling, [V], or None."""
        own = self.linear.bias
        if self.extra_bias is None:
            return own
        extra = self.extra_bias.reshape(-1)
        return extra if own is None else own + extra

    def logits(self, hidden: Tensor) -> Tensor:
        """f32 (or f64) [n, V] for few positions; scoring never stores these.

        Args:
            hidden: [n, H].
        """
        weight = self.linear.weight
        values = nn.functional.linear(hidden.to(weight.dtype), weight, self.bias)
        values = values * self.logit_scale
        return values if self.softcap is None else self.softcap * (values / self.softcap).tanh()

    def logp(self, hidden: Tensor, targets: Tensor, boundaries: Tensor, *, bf16: bool) -> Tensor:
        """Sums of target log-probabilities over consecutive positions.

        Args:
            hidden: [T, H], the states that predict the targets.
            targets: int64 [T].
            boundaries: int64 [S + 1], ascending from 0 to T; sum s is over positions
                ``boundaries[s]`` to ``boundaries[s + 1]``.
            bf16: multiply in bfloat16 (sums stay float32).

        Returns:
            [S], in nats.
        """
        dtype = torch.bfloat16 if bf16 else self.linear.weight.dtype
        bias = self.bias
        # The operands' dtypes are chosen here, so autocast must not choose again.
        with torch.autocast(hidden.device.type, enabled=False):
            result = ops.passage_logp(
                hidden.to(dtype),
                self.linear.weight.to(dtype),
                targets,
                boundaries,
                bias=None if bias is None else bias.to(dtype),
                softcap=self.softcap,
                logit_scale=self.logit_scale,
            )
        return result.logp


def find_head(model: Any) -> OutputHead | str:
    """The head of a transformers language model, or why it cannot be used directly."""
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear:
        return f"its output layer is {type(linear).__name__}, not a plain Linear"
    if not model.config.is_encoder_decoder and model.base_model is model:
        return "its body cannot be told from its output layer"
    return OutputHead(
        linear=linear,
        extra_bias=getattr(model, "final_logits_bias", None),
        logit_scale=_logit_scale(model.config),
        softcap=getattr(model.config, "final_logit_softcapping", None),
    )


@torch.no_grad()
def head_error(head: OutputHead, hidden: Tensor, logits: Tensor) -> float:
    """Largest difference between the head's logits and the model's, relative to the largest logit.

    Args:
        hidden: [n, H] of some input.
        logits: [n, V] the model itself gives for it.
    """
    difference = (head.logits(hidden) - logits).abs().max()
    return float(difference / logits.abs().max().clamp_min(1e-6))  # sync: once, at loading


def _logit_scale(config: Any) -> float:
    scale = 1.0
    if isinstance(getattr(config, "logit_scale", None), float | int):
        scale *= float(config.logit_scale)
    if isinstance(getattr(config, "logits_scaling", None), float | int):
        scale /= float(config.logits_scaling)
    if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
        scale *= float(config.d_model) ** -0.5
    return scale
