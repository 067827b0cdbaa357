"""``passage_logp``: check the arguments, choose a backend, and the backward that goes with it."""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.errors import DtypeError, ShapeError
from jsarag.ops.reference import passage_logp as reference
from jsarag.ops.reference.passage_logp import PassageLogpResult

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def passage_logp(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    ignore_index: int = -100,
) -> PassageLogpResult:
    """Log-likelihood of S sequences packed into T tokens, without storing [T, V] logits.

    logits = logit_scale * (hidden @ weight.T + bias), then softcap * tanh(logits / softcap) if
    given; logp[s] is the sum of log_softmax(logits[t])[targets[t]] over the counted tokens t of
    sequence s. Differentiable in ``hidden``, ``weight`` and ``bias``.

    Args:
        hidden: [T, H] f32, bf16, f16 or f64, the generator's last hidden states.
        weight: [V, H] same dtype, the output embedding.
        targets: int32 or int64 [T], the token each hidden state predicts, or ``ignore_index``.
        cu_seqlens: int32 or int64 [S + 1], ascending from 0 to T: sequence s owns the tokens
            cu_seqlens[s] .. cu_seqlens[s + 1] - 1. Empty sequences are fine.
        bias: [V] same dtype, or None.
        softcap: > 0, or None.
        logit_scale: finite.
        ignore_index: tokens with this target are neither computed nor counted.

    Returns:
        PassageLogpResult(logp f32 [S] in nats (f64 for f64 inputs), tokens int32 [S]); an empty
        sequence scores 0.

    Raises:
        ShapeError, DtypeError: an argument is not as above, or a target is outside [0, V).
    """
    _check(hidden, weight, targets, cu_seqlens, bias, softcap, logit_scale, ignore_index)
    return reference.passage_logp(
        hidden,
        weight,
        targets,
        cu_seqlens,
        bias=bias,
        softcap=softcap,
        logit_scale=logit_scale,
        ignore_index=ignore_index,
    )


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    ignore_index: int,
) -> None:
    _check_shapes(hidden, weight, targets, cu_seqlens, bias)
    same = {tensor.dtype for tensor in (hidden, weight, bias) if tensor is not None}
    if len(same) > 1 or hidden.dtype not in _FLOATS:
        raise DtypeError(
            "passage_logp: expected hidden, weight and bias of one dtype (float32, bfloat16, "
            f"float16 or float64), found {sorted(map(str, same))}; cast them together"
        )
    for name, tensor in (("targets", targets), ("cu_seqlens", cu_seqlens)):
        if tensor.dtype not in (torch.int32, torch.int64):
            raise DtypeError(f"passage_logp {name}: expected int32 or int64, found {tensor.dtype}")
    if softcap is not None and not 0.0 < softcap < float("inf"):
        raise ShapeError(f"passage_logp softcap: expected None or above 0, found {softcap}")
    if not abs(logit_scale) < float("inf"):
        raise ShapeError(f"passage_logp logit_scale: expected a finite number, found {logit_scale}")
    _check_values(targets, cu_seqlens, weight.shape[0], ignore_index)


def _check_shapes(
    hidden: Tensor, weight: Tensor, targets: Tensor, cu_seqlens: Tensor, bias: Tensor | None
) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ShapeError(
            "passage_logp: expected hidden [T, H] and weight [V, H], found shapes "
            f"{tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if weight.shape[0] == 0 or weight.shape[1] == 0:
        raise ShapeError(
            "passage_logp weight: expected at least one word and one unit, found shape "
            f"{tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"passage_logp bias: expected [{weight.shape[0]}], found shape {tuple(bias.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ShapeError(
            f"passage_logp targets: expected [{hidden.shape[0]}], one per hidden state, found "
            f"shape {tuple(targets.shape)}"
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() == 0:
        raise ShapeError(
            "passage_logp cu_seqlens: expected [S + 1] boundaries, found shape "
            f"{tuple(cu_seqlens.shape)}"
        )


def _check_values(targets: Tensor, cu_seqlens: Tensor, vocabulary: int, ignore_index: int) -> None:
    """Refuse values that would read out of bounds; CPU only, a GPU would have to be waited for."""
    if targets.device.type != "cpu":
        return
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != targets.shape[0] or bool((cu_seqlens.diff() < 0).any()):
        raise ShapeError(
            f"passage_logp cu_seqlens: expected ascending boundaries from 0 to T = "
            f"{targets.shape[0]}, found {cu_seqlens.tolist()[:8]} .. {last}"
        )
    wrong = ((targets < 0) | (targets >= vocabulary)) & (targets != ignore_index)
    if bool(wrong.any()):
        position = int(wrong.nonzero()[0])
        raise ShapeError(
            f"passage_logp targets[{position}]: expected 0 .. {vocabulary - 1} or "
            f"{ignore_index} (ignored), found {int(targets[position])}; does the tokenizer belong "
            "to this model?"
        )
