"""Variational RAG as published: the likelihood averaged over the posterior's top k only."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from jsarag.em.objectives.vrag import Vrag


class VragPublished(Vrag):
    """``vrag`` with E_q over q's own top k, renormalised, beside KL(q || p) over U.

    The two terms use different distributions, so their sum is no bound on log p(y|x): it is kept to
    be compared with. On equal supports it would be ``vrag``.
    """

    name: ClassVar[str] = "vrag-published"

    def expectation(self, posterior_logp: Tensor) -> Tensor:
        """q renormalised over its top k of U, [B, C]."""
        k = min(self.settings.k, posterior_logp.shape[1])
        top = posterior_logp.detach().topk(k, dim=1).indices
        kept = torch.zeros_like(posterior_logp, dtype=torch.bool).scatter(1, top, True)
        return posterior_logp.masked_fill(~kept, -torch.inf).softmax(dim=1)
