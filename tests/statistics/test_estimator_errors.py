"""``jsarag diagnose``: errors of estimators and facts of chains against their closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from jsarag.eval.chain_facts import chain_facts
from jsarag.eval.estimator_errors import (
    EstimatorRow,
    Pool,
    divergences,
    enumeration_errors,
    sampler_errors,
    tail,
)

pytestmark = pytest.mark.statistics
VISITS = 6000
TEMPERATURE = 0.5


def pool_of(toy: Any, examples: int = 1, padding: int = 2) -> Pool:
    """A toy's passages as a pool, scored from the closed forms; with slots that hold nothing."""
    order = {name: np.argsort(-density) for name, density in (("p", toy.p()), ("q", toy.q()))}

    def padded(values: np.ndarray, fill: float) -> torch.Tensor:
        row = torch.from_numpy(np.pad(values, (0, padding), constant_values=fill))
        return row.repeat(examples, 1)

    return Pool(
        ids=[f"e{number}" for number in range(examples)],
        rows=padded(np.arange(toy.count), -1),
        prior_logp=padded(np.log(toy.p()), -np.inf),
        posterior_logp=padded(np.log(toy.q()), -np.inf),
        response_logp=padded(toy.table, -np.inf),
        prior_rank=padded(np.argsort(order["p"]), toy.count),
        posterior_rank=padded(np.argsort(order["q"]), toy.count),
        temperature=TEMPERATURE,
        seed=7,
    )


def close(row: EstimatorRow, bias: float, *, scale: float = 1.0) -> None:
    """Bias within four standard errors of its closed form."""
    assert row.weights.bias == pytest.approx(bias, abs=4 * scale * row.weights.rms / VISITS**0.5)


@pytest.mark.parametrize("estimator", ["mis", "mis-recycled"])
def test_a_fresh_chain_is_biased_by_the_sum_of_its_powers(toy: Any, estimator: Any) -> None:
    draws = (1, 2, 4, 8)
    rows = sampler_errors(pool_of(toy), estimator, draws, visits=VISITS)
    transition, w = toy.transition(), toy.w()
    for m, row in zip(draws, rows, strict=True):
        mean = sum(toy.q() @ np.linalg.matrix_power(transition, step) for step in range(m)) / m
        close(row, float(np.linalg.norm(mean - w)))
        assert row.gradient.bias == pytest.approx(row.weights.bias / TEMPERATURE)
        whole = row.weights.bias**2 + row.weights.variance
        assert row.weights.rms**2 == pytest.approx(whole, rel=1e-3)
        assert row.relative == pytest.approx(row.weights.rms / np.linalg.norm(w - toy.p()))
    assert [row.weights.rms for row in rows] == sorted((r.weights.rms for r in rows), reverse=True)


def test_one_draw_is_one_draw_from_q(toy: Any) -> None:
    q, w = toy.q(), toy.w()
    for estimator in ("mis", "snis"):
        (row,) = sampler_errors(pool_of(toy), estimator, (1,), visits=VISITS)
        close(row, float(np.linalg.norm(q - w)))
        # The variance of a one-hot draw: 1 - sum of squares.
        assert row.weights.variance == pytest.approx(1 - (q**2).sum(), abs=0.03)
        assert row.acceptance_rate is None
        assert row.ess == pytest.approx(1)
        assert row.pairs == 1


def test_a_chain_at_rest_is_unbiased_and_worse_than_independent_draws(toy: Any) -> None:
    (row,) = sampler_errors(pool_of(toy), "mis-cached", (8,), visits=VISITS)
    w = toy.w()
    close(row, 0.0, scale=2)
    independent = (1 - (w**2).sum()) / 8
    assert row.weights.variance > independent
    # Of M correlated states: (1/M) sum_{s,t} rho(|s - t|) / M times that of one.
    facts = chain_facts(pool_of(toy), tuple(range(1, 8)))
    factor = 1 + 2 * sum((1 - lag / 8) * facts.autocorrelation[lag] for lag in range(1, 8))
    assert row.weights.variance == pytest.approx(independent * factor, rel=0.05)
    expected = (w[:, None] * toy.q()[None] * acceptance(toy)).sum()
    assert row.acceptance_rate == pytest.approx(expected, abs=0.02)


def acceptance(toy: Any) -> np.ndarray:
    ratio = toy.w() / toy.q()
    accept: np.ndarray = np.minimum(1, ratio[None, :] / ratio[:, None])
    return accept


def test_recycling_lowers_the_variance_at_equal_bias(toy: Any) -> None:
    (plain,) = sampler_errors(pool_of(toy), "mis", (8,), visits=VISITS)
    (recycled,) = sampler_errors(pool_of(toy), "mis-recycled", (8,), visits=VISITS)
    assert recycled.weights.variance < plain.weights.variance


def test_a_sampler_on_a_set_keeps_the_sets_error(toy: Any) -> None:
    k = 2
    exact = enumeration_errors(pool_of(toy), "union", k, over_kb=False)
    (sampled,) = sampler_errors(pool_of(toy), "snis", (400,), support="union", k=k, visits=400)
    assert exact.gradient.rms > 0.05
    assert sampled.gradient.bias == pytest.approx(exact.gradient.rms, rel=0.05)


@pytest.mark.parametrize("over_kb", [True, False])
def test_enumeration_errs_by_what_it_leaves_out(toy: Any, over_kb: bool) -> None:
    k, w, p = 2, toy.w(), toy.p()
    chosen = sorted({*toy.top(k, "prior"), *toy.top(k, "posterior")})
    row = enumeration_errors(pool_of(toy), "union", k, over_kb=over_kb)
    v, inside = toy.w(chosen), p if over_kb else toy.p(chosen)
    assert row.weights.rms == pytest.approx(np.linalg.norm(v - w), rel=1e-12)
    expected = np.linalg.norm((v - inside) - (w - p))
    assert row.gradient.rms == pytest.approx(expected / TEMPERATURE, rel=1e-12)
    assert row.weights.variance == pytest.approx(0, abs=1e-15)
    assert row.pairs == len(chosen)


def test_enumerating_everything_is_exact(toy: Any) -> None:
    row = enumeration_errors(pool_of(toy), "prior", toy.count, over_kb=False)
    assert row.weights.rms < 1e-14
    assert row.relative < 1e-13


def test_the_chains_facts_are_those_of_its_matrix(make_toy: Callable[..., Any]) -> None:
    toy = make_toy(passages=9, seed=4)
    transition, w, q = toy.transition(), toy.w(), toy.q()
    lags = (1, 3, 10)
    facts = chain_facts(pool_of(toy, examples=2), lags)
    assert facts.examples == 2
    assert facts.acceptance_rate == pytest.approx((w[:, None] * q[None] * acceptance(toy)).sum())
    second = np.sort(np.linalg.eigvals(transition).real)[-2]
    assert facts.second_eigenvalue == pytest.approx(second, rel=1e-9)
    assert facts.ess_per_draw == pytest.approx(1 / (w**2 / q).sum())
    squares = (w**2).sum()

    def correlation(lag: int) -> float:
        same = (w * np.diag(np.linalg.matrix_power(transition, lag))).sum()
        return float((same - squares) / (1 - squares))

    for lag in lags:
        assert facts.autocorrelation[lag] == pytest.approx(correlation(lag), abs=1e-10)
    time = 1 + 2 * sum(correlation(lag) for lag in range(1, 2000))
    assert facts.autocorrelation_time == pytest.approx(time, rel=1e-6)


def test_a_chain_that_proposes_its_target_forgets_at_once(toy: Any) -> None:
    pool = pool_of(toy)
    exact = pool.exact().log()
    same = Pool(
        pool.ids, pool.rows, pool.prior_logp, exact, pool.response_logp, pool.prior_rank,
        pool.posterior_rank, pool.temperature,
    )  # fmt: skip
    facts = chain_facts(same, (1, 2))
    assert facts.acceptance_rate == pytest.approx(1)
    assert facts.ess_per_draw == pytest.approx(1)
    assert facts.autocorrelation[1] == pytest.approx(0, abs=1e-12)
    assert divergences(same)["kl_posterior"] == pytest.approx(0, abs=1e-12)


def test_a_passage_that_is_impossible_is_never_held(toy: Any) -> None:
    pool = pool_of(toy)
    pool.response_logp[0, int(np.argmax(toy.q()))] = -torch.inf
    facts = chain_facts(pool, (1,))
    assert np.isfinite(facts.autocorrelation_time)
    assert 0 < facts.acceptance_rate < 1
    (row,) = sampler_errors(pool, "mis-cached", (4,), visits=50)
    assert np.isfinite(row.weights.rms)


def test_the_tail_and_the_divergences(toy: Any) -> None:
    pool = pool_of(toy)
    assert tail(pool)["prior"]["most"] == pytest.approx(0, abs=1e-12)
    kept = 4
    cut = Pool(
        pool.ids, pool.rows[:, :kept], pool.prior_logp[:, :kept], pool.posterior_logp[:, :kept],
        pool.response_logp[:, :kept], pool.prior_rank[:, :kept], pool.posterior_rank[:, :kept],
        pool.temperature,
    )  # fmt: skip
    assert tail(cut)["posterior"]["mean"] == pytest.approx(1 - toy.q()[:kept].sum())
    p, q, w = toy.p(), toy.q(), toy.w()
    found = divergences(pool)
    assert found["kl_posterior"] == pytest.approx((w * np.log(w / q)).sum())
    assert found["kl_prior"] == pytest.approx((w * np.log(w / p)).sum())
    assert found["overlap"] == pytest.approx(np.minimum(p, q).sum())
    assert found["entropy_prior"] == pytest.approx(-(p * np.log(p)).sum())
    assert found["evidence_spread"] == pytest.approx(
        toy.table.max() - np.sort(toy.table)[(toy.count - 1) // 2]
    )


def test_replays_do_not_depend_on_the_other_examples(toy: Any) -> None:
    alone = sampler_errors(pool_of(toy), "mis", (4,), visits=30)[0]
    twice = pool_of(toy, examples=2)
    both = Pool(
        ["e0", "e0"], twice.rows, twice.prior_logp, twice.posterior_logp, twice.response_logp,
        twice.prior_rank, twice.posterior_rank, twice.temperature, seed=7,
    )  # fmt: skip
    again = sampler_errors(both, "mis", (4,), visits=30)[0]
    assert again.weights.rms == pytest.approx(alone.weights.rms, rel=1e-12)
