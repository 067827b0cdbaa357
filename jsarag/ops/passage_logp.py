"""``passage_logp``: log-likelihoods of whole responses, without the logits.

Checks arguments, chooses the implementation, and registers the operator with its gradient; the
arithmetic is in ``reference/passage_logp.py`` and ``csrc/*/passage_logp*``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jsarag.backends import native
from jsarag.backends.select import choose
from jsarag.errors import JsaragError, ShapeError
from jsarag.ops import checks
from jsarag.ops.library import LIBRARY, register
from jsarag.ops.reference.passage_logp import passage_logp as reference_passage_logp
from jsarag.ops.results import PassageLogpResult

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INTEGERS = (torch.int32, torch.int64)


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
        ShapeError, DtypeError: an argument is not as above, or a target is outside [0, V) (on a
            GPU, where looking would mean waiting, such a target gives NaN).
    """
    _check(hidden, weight, targets, cu_seqlens, bias, softcap, logit_scale)
    device = hidden.device.type
    choice = choose(
        "passage_logp",
        device,
        (checks.dtype_name(hidden.dtype),),
        native_ops=native.native_ops(device),
        supported=("float32", "bfloat16"),
        missing=native.MISSING,
    )
    if choice.backend == "reference":
        check_values(targets, cu_seqlens, weight.shape[0], ignore_index)
        return reference_passage_logp(
            hidden,
            weight,
            targets,
            cu_seqlens,
            bias=bias,
            softcap=softcap,
            logit_scale=logit_scale,
            ignore_index=ignore_index,
        )
    logp, tokens, _ = torch.ops.jsarag.passage_logp(
        hidden,
        weight,
        targets,
        cu_seqlens,
        bias,
        softcap,
        logit_scale,
        ignore_index,
        torch.get_num_threads(),
    )
    return PassageLogpResult(logp, tokens)


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    logit_scale: float,
) -> None:
    op = "passage_logp"
    checks.require_dtype(op, "hidden", hidden, _FLOATS)
    checks.require_dtype(op, "weight", weight, (hidden.dtype,))
    checks.require_dtype(op, "targets", targets, _INTEGERS)
    checks.require_dtype(op, "cu_seqlens", cu_seqlens, _INTEGERS)
    checks.require_shape(op, "hidden", hidden, (None, None))
    checks.require_shape(op, "weight", weight, (None, hidden.shape[1]))
    checks.require_shape(op, "targets", targets, (hidden.shape[0],))
    checks.require_shape(op, "cu_seqlens", cu_seqlens, (None,))
    if bias is not None:
        checks.require_dtype(op, "bias", bias, (hidden.dtype,))
        checks.require_shape(op, "bias", bias, (weight.shape[0],))
    checks.require_same_device(
        op,
        {
            "hidden": hidden,
            "weight": weight,
            "targets": targets,
            "cu_seqlens": cu_seqlens,
            "bias": bias,
        },
    )
    if 0 in weight.shape or cu_seqlens.numel() == 0:
        raise ShapeError(
            "passage_logp: expected at least one word, one unit and one boundary, found weight "
            f"{list(weight.shape)} and cu_seqlens {list(cu_seqlens.shape)}"
        )
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise JsaragError(f"passage_logp: softcap expected above 0 or None, found {softcap}")
    if not math.isfinite(logit_scale):
        raise JsaragError(
            f"passage_logp: logit_scale expected a finite number, found {logit_scale}"
        )


def check_values(targets: Tensor, cu_seqlens: Tensor, vocabulary: int, ignore_index: int) -> None:
    """Refuse values that would read out of bounds; on the CPU only, a GPU would be waited for.

    Raises:
        ShapeError: the boundaries do not cover the tokens, or a target is no word.
    """
    if targets.device.type != "cpu":
        return
    n_tokens, first, last = targets.shape[0], int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != n_tokens or bool((cu_seqlens.diff() < 0).any()):
        raise ShapeError(
            f"passage_logp: cu_seqlens expected ascending from 0 to T = {n_tokens}, found "
            f"{first} to {last}; each sequence's end is the next one's start"
        )
    wrong = ((targets < 0) | (targets >= vocabulary)) & (targets != ignore_index)
    if bool(wrong.any()):
        position = int(wrong.nonzero()[0])
        raise ShapeError(
            f"passage_logp: targets[{position}] expected 0 to {vocabulary - 1}, or {ignore_index} "
            f"to ignore it, found {int(targets[position])}; does the tokenizer belong to the model?"
        )


def _run(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    ignore_index: int,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    check_values(targets, cu_seqlens, weight.shape[0], ignore_index)
    inputs = native.PassageLogpInputs(
        hidden, weight, targets, cu_seqlens, bias, softcap, logit_scale, ignore_index
    )
    if hidden.device.type == "cuda":
        return native.passage_logp_cuda(inputs)
    return native.passage_logp_cpu(inputs, threads)


def _fake(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    ignore_index: int,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    sequences = cu_seqlens.shape[0] - 1
    return (
        hidden.new_empty((sequences,), dtype=torch.float32),
        hidden.new_empty((sequences,), dtype=torch.int32),
        hidden.new_empty((hidden.shape[0],), dtype=torch.float64),
    )


def _run_backward(
    grad_logp: Tensor,
    lse: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    ignore_index: int,
    wanted: list[bool],
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = native.PassageLogpInputs(
        hidden, weight, targets, cu_seqlens, bias, softcap, logit_scale, ignore_index
    )
    want_hidden, want_weight, want_bias = wanted
    want = (want_hidden, want_weight, want_bias)
    if hidden.device.type == "cuda":
        return native.passage_logp_backward_cuda(inputs, lse, grad_logp, want)
    return native.passage_logp_backward_cpu(inputs, lse, grad_logp, want, threads)


def _fake_backward(
    grad_logp: Tensor,
    lse: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    ignore_index: int,
    wanted: list[bool],
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    want_hidden, want_weight, want_bias = wanted
    return (
        hidden.new_empty(hidden.shape if want_hidden else (0,)),
        hidden.new_empty(weight.shape if want_weight else (0,)),
        hidden.new_empty(weight.shape[:1] if want_bias else (0,)),
    )


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    hidden, weight, targets, cu_seqlens, bias, *rest = inputs
    ctx.save_for_backward(output[2], hidden, weight, targets, cu_seqlens, bias)
    ctx.rest = rest


def _backward(ctx: Any, grad_logp: Tensor, *_unused: Tensor | None) -> tuple[Tensor | None, ...]:
    lse, hidden, weight, targets, cu_seqlens, bias = ctx.saved_tensors
    softcap, logit_scale, ignore_index, threads = ctx.rest
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[4]]
    grads = torch.ops.jsarag.passage_logp_backward(
        grad_logp,
        lse,
        hidden,
        weight,
        targets,
        cu_seqlens,
        bias,
        softcap,
        logit_scale,
        ignore_index,
        wanted,
        threads,
    )
    on_hidden, on_weight, on_bias = (
        grad if want else None for grad, want in zip(grads, wanted, strict=True)
    )
    return on_hidden, on_weight, None, None, on_bias, None, None, None, None


def _refuse(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise JsaragError(
        "passage_logp: the compiled kernel has no second derivative; give it float64 inputs, which "
        "run the reference, or set JSARAG_BACKEND=reference"
    )


_ARGUMENTS = (
    "Tensor hidden, Tensor weight, Tensor targets, Tensor cu_seqlens, Tensor? bias, "
    "float? softcap, float logit_scale, int ignore_index"
)
# The third result is each token's log-sum-exp in float64: rounded to f32 it would move all of a
# token's probabilities the same way, which shows in the gradient.
register(
    "passage_logp",
    f"({_ARGUMENTS}, int threads) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
register(
    "passage_logp_backward",
    f"(Tensor grad_logp, Tensor lse, {_ARGUMENTS}, bool[] wanted, int threads) "
    "-> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)
torch.library.register_autograd(
    "jsarag::passage_logp", _backward, setup_context=_setup_context, lib=LIBRARY
)
torch.library.register_autograd("jsarag::passage_logp_backward", _refuse, lib=LIBRARY)
