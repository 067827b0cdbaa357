"""What a Metropolis chain on a pool does, in closed form: acceptance, mixing, autocorrelation.

The chain proposes from q and aims at w (``docs/math.md``, equation 3). On a set that can be listed
its transition matrix is known, and in the scalar product of w it is symmetric, so all of this is
one eigenvalue problem an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jsarag.eval.estimator_errors import Pool


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """Means over examples of a chain at stationarity, parameters at rest.

    Attributes:
        acceptance_rate: sum_ij w_i q_j min(1, W_j/W_i); 1 exactly where q = w.
        ess_per_draw: effective share of a draw from q, (E_q W)² / E_q[W²].
        second_eigenvalue: 1 - 1/max(w/q), the rate at which a start is forgotten; and its largest.
        autocorrelation: lag in steps -> correlation of the chain's passage with itself, that is
            (P(h_t = h_{t+lag}) - sum w²) / (1 - sum w²).
        autocorrelation_time: 1 + 2 sum of it over all lags, in steps: as many are worth one
            independent draw.
        examples: how many are not decided (w all on one passage leaves nothing to correlate).
    """

    acceptance_rate: float
    ess_per_draw: float
    second_eigenvalue: float
    slowest: float
    autocorrelation: dict[int, float]
    autocorrelation_time: float
    examples: int

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        lags = {str(lag): value for lag, value in self.autocorrelation.items()}
        return asdict(self) | {"autocorrelation": lags}


def chain_facts(pool: Pool, lags: Sequence[int]) -> ChainFacts:
    """The facts of every example's chain on the pool, q renormalised among its passages.

    Args:
        pool: the examples.
        lags: steps.
    """
    mask = pool.mask & (pool.joint > -torch.inf)
    w = pool.joint.masked_fill(~mask, -torch.inf).softmax(dim=1)
    log_q = pool.posterior_logp.masked_fill(~pool.mask, -torch.inf).log_softmax(dim=1)
    ratio = (pool.joint - log_q).masked_fill(~mask, -torch.inf)
    ratio = ratio - ratio.amax(dim=1, keepdim=True)
    accept = _acceptance(ratio, mask)
    q = log_q.exp()
    largest = (w / q).masked_fill(~mask, 0).amax(dim=1)
    squares = w.square().sum(dim=1)
    shares, eigenvalues = _spectrum(ratio, q, w, accept, mask)
    undecided = 1 - squares > 1e-9

    def correlation(powers: Tensor) -> float:
        """Mean of sum_i share_i f(eigenvalue_i) without the stationary part."""
        each = ((shares * powers).sum(dim=1) - squares) / (1 - squares)
        return float(each[undecided].mean()) if bool(undecided.any()) else 0.0

    # Below 1, however many digits rounding takes: the stationary part is taken off apart.
    tame = eigenvalues.clamp(-1 + 1e-12, 1 - 1e-12)
    stationary = _is_largest(eigenvalues)
    geometric = (tame / (1 - tame)).masked_fill(stationary, 0)
    time = 1 + 2 * (shares * geometric).sum(dim=1) / (1 - squares)
    weight = ratio.exp().masked_fill(~mask, 0)
    return ChainFacts(
        acceptance_rate=float((w[:, :, None] * q[:, None, :] * accept).sum(dim=(1, 2)).mean()),
        ess_per_draw=float(
            ((q * weight).sum(dim=1).square() / (q * weight.square()).sum(dim=1)).mean()
        ),
        second_eigenvalue=float((1 - 1 / largest).mean()),
        slowest=float((1 - 1 / largest).max()),
        autocorrelation={lag: correlation(eigenvalues**lag) for lag in lags},
        autocorrelation_time=float(time[undecided].mean()) if bool(undecided.any()) else 1.0,
        examples=int(undecided.sum()),
    )


def _acceptance(ratio: Tensor, mask: Tensor) -> Tensor:
    """min(1, W_j/W_i) [B, i, j]; 0 for a proposal of weight zero."""
    difference = ratio[:, None, :] - ratio[:, :, None].masked_fill(~mask[:, :, None], 0)
    return difference.clamp(max=0).exp().masked_fill(~mask[:, None, :], 0)


def _spectrum(
    ratio: Tensor, q: Tensor, w: Tensor, accept: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Shares a [B, C] and eigenvalues [B, C]: P(h_t = h_{t+n}) = sum_i a_i eigenvalue_i^n.

    D^{1/2} P D^{-1/2} with D = diag(w): off the diagonal sqrt(q_i q_j) e^{-|log W_i - log W_j|/2}.
    """
    pair = mask[:, :, None] & mask[:, None, :]
    finite = ratio.masked_fill(~mask, 0)
    distance = (finite[:, :, None] - finite[:, None, :]).abs()
    root = q.sqrt()
    moves = root[:, :, None] * root[:, None, :] * (-distance / 2).exp()
    moves = moves.masked_fill(~pair, 0)
    diagonal = torch.eye(q.shape[1], dtype=torch.bool)
    leaving = (q[:, None, :] * accept).masked_fill(diagonal, 0).sum(dim=2)
    symmetric = moves.masked_fill(diagonal, 0) + torch.diag_embed((1 - leaving) * mask)
    eigenvalues, vectors = torch.linalg.eigh(symmetric)
    return (w[:, :, None] * vectors.square()).sum(dim=1), eigenvalues


def _is_largest(eigenvalues: Tensor) -> Tensor:
    """True at the stationary eigenvalue: the last, as ``eigh`` orders them."""
    last = torch.zeros_like(eigenvalues, dtype=torch.bool)
    last[:, -1] = True
    return last
