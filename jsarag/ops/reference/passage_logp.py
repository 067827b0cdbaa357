"""Reference of ``passage_logp``: the logits written out, in plain torch.

Differentiable by torch's own autograd (twice, too). It stores [T, V] logits, which is exactly what
the other backends exist to avoid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.ops.results import PassageLogpResult


def _sequence_of_token(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """int64 [T]: the sequence each token belongs to."""
    sequences = torch.arange(cu_seqlens.numel() - 1, device=cu_seqlens.device)
    lengths = cu_seqlens.diff().long()
    return torch.repeat_interleave(sequences, lengths, output_size=n_tokens)


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
    """Score in float32 (float64 for float64 inputs); as :func:`jsarag.ops.passage_logp`."""
    compute = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    sequence = _sequence_of_token(cu_seqlens, hidden.shape[0])
    # Ignored tokens are dropped first: they cost nothing and their hidden states may be anything.
    counted = (targets != ignore_index).nonzero().squeeze(1)
    sequence, wanted = sequence[counted], targets[counted].long()

    logits = hidden[counted].to(compute) @ weight.to(compute).T
    if bias is not None:
        logits = logits + bias.to(compute)
    logits = logits * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    token_logp = logits.log_softmax(dim=-1).gather(1, wanted[:, None]).squeeze(1)

    n_sequences = cu_seqlens.numel() - 1
    logp = token_logp.new_zeros(n_sequences).index_add(0, sequence, token_logp)
    tokens = torch.zeros(n_sequences, dtype=torch.int32, device=hidden.device)
    return PassageLogpResult(logp, tokens.index_add(0, sequence, torch.ones_like(sequence).int()))
