"""The M-step: equation (4) as a loss on scores, and which pairs its gradient walks back through.

A loss leaves one number on every (example, passage) pair: the derivative with respect to
log p(y|x,h), -v(h) for equation (4), minus the responsibility for a marginal likelihood. Walking a
pair back through a language model is the dearest part of a step, so here the light pairs are
dropped or, without bias, a few pairs are drawn. Whoever walks is not known here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(values: Tensor, logp: Tensor) -> Tensor:
    """-sum_h v(h) log p(h), mean over the batch: [B, C], [B, C] -> scalar; 0 · -inf counts as 0."""
    return -(values * logp.masked_fill(values == 0, 0)).sum(dim=1).mean()


def drop_light(coefficients: Tensor, example: Tensor, cutoff: float) -> Tensor:
    """Zero in place of what is lighter than ``cutoff`` of its example's whole; the heaviest stays.

    Args:
        coefficients: [P] derivatives of the loss, one per pair.
        example: int64 [P], the example of each pair.
        cutoff: share of an example's sum of absolute values, at least 0 and below 1.
    """
    size = coefficients.abs()
    share = size / _by_example(size, example, "sum")[example]
    heaviest = size == _by_example(size, example, "amax")[example]
    return coefficients.where((share >= cutoff) | heaviest, 0)


def draw_pairs(coefficients: Tensor, example: Tensor, coins: Tensor, draws: int) -> Tensor:
    """Systematic resampling: ``draws`` pairs an example instead of all, unbiased in expectation.

    Pair z of an example with absolute sum S is drawn n_z times, E n_z = draws · abs(c_z) / S, and
    gets sign(c_z) · S · n_z / draws. Equation (4b) of ``docs/math.md``.

    Args:
        coefficients: [P] derivatives of the loss, one per pair.
        example: int64 [P], the example of each pair, ascending.
        coins: f64 [B] in (0, 1), one uniform per example.
        draws: pairs drawn per example, at least 1.

    Returns:
        [P], with at most ``draws`` numbers per example that are not 0.
    """
    size = coefficients.double().abs()
    whole = _by_example(size, example, "sum")
    total = size.cumsum(0)
    # Where each example begins: all of the sums before it.
    before = (whole.cumsum(0) - whole)[example]
    scale = whole[example].where(whole[example] > 0, 1)
    upper = ((total - before) / scale).clamp(0, 1)
    lower = ((total - size - before) / scale).clamp(0, 1)
    # The last pair of an example ends at 1, whatever rounding did to the sums.
    last = torch.ones_like(example, dtype=torch.bool)
    last[:-1] = example[1:] != example[:-1]
    upper = upper.masked_fill(last, 1)
    coin = coins[example]
    times = (upper * draws - coin).ceil() - (lower * draws - coin).ceil()
    drawn = coefficients.sign().double() * whole[example] * times / draws
    return drawn.to(coefficients.dtype)


def _by_example(values: Tensor, example: Tensor, reduce: str) -> Tensor:
    count = int(example.max()) + 1 if len(example) else 0  # sync: a shape
    return values.new_zeros(count).scatter_reduce(0, example, values, reduce)
