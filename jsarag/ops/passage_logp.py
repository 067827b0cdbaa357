"""``passage_logp``: log-likelihoods of whole responses, without the logits.

Declares and checks arguments, chooses the implementation, and registers the operator with its
gradient; the arithmetic is in ``reference/passage_logp.py`` and ``csrc/*/passage_logp*``.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from jsarag.backends.native import passage_logp as native
from jsarag.errors import JsaragError, ShapeError
from jsarag.ops import passage_logp_chunks
from jsarag.ops.checks import AT_LEAST_1, FINITE, FLOATS, INTEGERS, POSITIVE, Signature, Sized
from jsarag.ops.library import LIBRARY, backend_of, register, save, saved
from jsarag.ops.reference.passage_logp import passage_logp as reference_passage_logp
from jsarag.ops.results import PassageLogpResult


class Packed(NamedTuple):
    """See :func:`passage_logp`."""

    hidden: Annotated[Tensor, Sized("T H", FLOATS)]
    weight: Annotated[Tensor, Sized("V H", "hidden")]
    targets: Annotated[Tensor, Sized("T", INTEGERS)]
    cu_seqlens: Annotated[Tensor, Sized("S+1", INTEGERS)]
    bias: Annotated[Tensor | None, Sized("V", "hidden")]
    softcap: Annotated[float | None, POSITIVE]
    logit_scale: Annotated[float, FINITE]
    ignore_index: int
    threads: Annotated[int, AT_LEAST_1]


class Gradient(NamedTuple):
    """Each token's log-sum-exp, the gradient on the results, and whose gradient is wanted."""

    lse: Annotated[Tensor, Sized("T", (torch.float64,))]
    grad_logp: Annotated[Tensor, Sized("S", (torch.float32,))]
    wanted: list[bool]


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
    packed = Packed(
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
    arguments = _FORWARD.checked(packed)
    if 0 in weight.shape or cu_seqlens.numel() == 0:
        raise ShapeError(
            "passage_logp: expected at least one word, one unit and one boundary, found weight "
            f"{list(weight.shape)} and cu_seqlens {list(cu_seqlens.shape)}"
        )
    if backend_of("passage_logp", ("float32", "bfloat16"), hidden) != "reference":
        logp, tokens, _ = _passage_logp(*arguments)
        return PassageLogpResult(logp, tokens)
    _check_values(packed)
    return reference_passage_logp(
        *packed[:4],
        bias=bias,
        softcap=softcap,
        logit_scale=logit_scale,
        ignore_index=ignore_index,
    )


def _check_values(packed: Packed) -> None:
    """Refuse values that would read out of bounds; on the CPU only, a GPU would be waited for.

    Raises:
        ShapeError: the boundaries do not cover the tokens, or a target is no word.
    """
    targets, cu_seqlens, ignore_index = packed.targets, packed.cu_seqlens, packed.ignore_index
    if targets.device.type != "cpu":
        return
    vocabulary = packed.weight.shape[0]
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


def _run(packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
    _check_values(packed)
    return native.passage_logp(native.PassageLogpInputs(*packed))


def _fake(packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
    hidden, sequences = packed.hidden, packed.cu_seqlens.shape[0] - 1
    return (
        hidden.new_empty((sequences,), dtype=torch.float32),
        hidden.new_empty((sequences,), dtype=torch.int32),
        hidden.new_empty((hidden.shape[0],), dtype=torch.float64),
    )


def _run_backward(packed: Packed, given: Gradient) -> tuple[Tensor, Tensor, Tensor]:
    inputs = native.PassageLogpInputs(*packed)
    on_hidden, on_weight, on_bias = given.wanted
    backward = passage_logp_chunks.backward if inputs.on_cuda else native.passage_logp_backward
    return backward(inputs, given.lse, given.grad_logp, (on_hidden, on_weight, on_bias))


def _fake_backward(packed: Packed, given: Gradient) -> tuple[Tensor, ...]:
    shapes = packed.hidden.shape, packed.weight.shape, packed.weight.shape[:1]
    return tuple(
        packed.hidden.new_empty(shape if want else (0,))
        for shape, want in zip(shapes, given.wanted, strict=True)
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    save(ctx, inputs, output[2])


def _autograd(ctx: Any, grad_logp: Tensor, *_unused: Tensor | None) -> tuple[Tensor | None, ...]:
    lse, inputs = saved(ctx)
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[4]]
    on_hidden, on_weight, on_bias = (
        grad if want else None
        for grad, want in zip(
            _passage_logp_backward(*inputs, lse, grad_logp, wanted), wanted, strict=True
        )
    )
    return on_hidden, on_weight, None, None, on_bias, None, None, None, None


def _refuse(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise JsaragError(
        "passage_logp: the compiled kernel has no second derivative; give it float64 inputs, which "
        "run the reference, or set JSARAG_BACKEND=reference"
    )


# The third result is each token's log-sum-exp in float64: rounded to f32 it would move all of a
# token's probabilities the same way, which shows in the gradient.
_FORWARD = Signature("passage_logp", Packed, differentiable=True)
_passage_logp = register(_FORWARD, 3, _run, _fake)
_passage_logp_backward = register(
    Signature("passage_logp_backward", Packed, Gradient), 3, _run_backward, _fake_backward
)
torch.library.register_autograd("jsarag::passage_logp", _autograd, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("jsarag::passage_logp_backward", _refuse, lib=LIBRARY)
