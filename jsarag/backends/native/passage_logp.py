"""``passage_logp``, and its gradient: whole on the CPU, on the logits of a few words on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jsarag.backends.native import arguments
from jsarag.backends.native.arguments import address, dense
from jsarag.backends.native.compiled import module


class PassageLogpInputs:
    """What both directions read, in the layout the kernels take; keeps the tensors alive."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        cu_seqlens: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        logit_scale: float,
        ignore_index: int,
        threads: int,
    ) -> None:
        self.hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
        self.weight = weight if weight.stride(1) == 1 else weight.contiguous()
        self.bias = None if bias is None else bias.contiguous()
        self.targets, self.cu_seqlens = dense(targets, torch.int64), dense(cu_seqlens, torch.int64)
        self.sequences = cu_seqlens.numel() - 1
        self.ignore_index, self.threads = ignore_index, threads
        self.on_cuda = arguments.on_cuda(hidden)
        self.record = module().PassageLogpInputs(
            tokens=hidden.shape[0],
            width=hidden.shape[1],
            vocabulary=weight.shape[0],
            sequences=self.sequences,
            bf16=hidden.dtype == torch.bfloat16,
            hidden=self.hidden.data_ptr(),
            hidden_stride=self.hidden.stride(0),
            weight=self.weight.data_ptr(),
            weight_stride=self.weight.stride(0),
            bias=address(self.bias),
            targets=self.targets.data_ptr(),
            cu_seqlens=self.cu_seqlens.data_ptr(),
            ignore_index=ignore_index,
            logit_scale=logit_scale,
            softcap=softcap or 0.0,
        )


def passage_logp(inputs: PassageLogpInputs) -> tuple[Tensor, Tensor, Tensor]:
    """For f32 and bf16: logp f32 [S], tokens i32 [S], each token's log-sum-exp f64 [T]."""
    device = inputs.hidden.device
    logp = torch.empty(inputs.sequences, dtype=torch.float32, device=device)
    tokens = torch.empty(inputs.sequences, dtype=torch.int32, device=device)
    lse = torch.empty(inputs.hidden.shape[0], dtype=torch.float64, device=device)
    kernel: Any = module().passage_logp_cpu
    where: Any = inputs.threads
    if inputs.on_cuda:
        scratch_bytes = module().passage_logp_cuda_scratch(inputs.record, device.index or 0)
        call = arguments.CudaCall(device, scratch_bytes)
        kernel, where = module().passage_logp_cuda, call.record
    kernel(inputs.record, logp.data_ptr(), tokens.data_ptr(), lse.data_ptr(), where)
    return logp, tokens, lse


def passage_logp_backward(
    inputs: PassageLogpInputs, lse: Tensor, grad_logp: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """On the CPU: gradients on hidden, weight and bias; an unwanted one has no elements."""
    vocabulary, width = inputs.weight.shape
    shapes = (tuple(inputs.hidden.shape), (vocabulary, width), (vocabulary,))
    on_hidden, on_weight, on_bias = (
        inputs.hidden.new_empty(shape if want else (0,))
        for shape, want in zip(shapes, wanted, strict=True)
    )
    lse, grad_logp = lse.contiguous(), grad_logp.contiguous()
    module().passage_logp_backward_cpu(
        inputs.record,
        lse.data_ptr(),
        grad_logp.data_ptr(),
        *(
            grad.data_ptr() if want else 0
            for grad, want in zip((on_hidden, on_weight, on_bias), wanted, strict=True)
        ),
        inputs.threads,
    )
    return on_hidden, on_weight, on_bias


class LogitGradient:
    """On a GPU: the gradient on the logits of some words, written where it is wanted.

    Args:
        inputs: of the forward pass.
        lse: f64 [T], of the forward pass.
        grad_logp: [S], the gradient on its results.
    """

    def __init__(self, inputs: PassageLogpInputs, lse: Tensor, grad_logp: Tensor) -> None:
        self.inputs = inputs
        self.lse, self.grad_logp = lse.contiguous(), dense(grad_logp, torch.float32)
        scratch_bytes = module().passage_logp_gradient_cuda_scratch(inputs.record)
        self.call = arguments.CudaCall(inputs.hidden.device, scratch_bytes)

    def write(self, gradient: Tensor, first_word: int, words: int) -> None:
        """Fill ``gradient`` [T, stride] like ``hidden``; columns past ``words`` become 0.

        The stride is a multiple of 8; rows begin on 16 bytes.
        """
        module().passage_logp_gradient_cuda(
            self.inputs.record,
            lse=self.lse.data_ptr(),
            grad_logp=self.grad_logp.data_ptr(),
            first_word=first_word,
            words=words,
            gradient=gradient.data_ptr(),
            stride=gradient.shape[1],
            call=self.call.record,
        )
