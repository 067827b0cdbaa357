"""The objectives: what they ask for, how often, what they refuse, and what they report."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag.em import objectives
from jsarag.em.chains import ChainStore
from jsarag.em.objectives import make_objective, objective_class, objective_names
from jsarag.em.problem import EMSettings
from jsarag.errors import ConfigError, NumericalError
from jsarag.index.flat import FlatIndex
from jsarag.types import ResponseLogp

ESTIMATORS = ["exact", "snis", "mis", "mis-cached", "mis-recycled"]
SUPPORTS = ["prior", "union", "kb"]

Make = Callable[..., Any]
Settings = Callable[..., EMSettings]


# ---- the registry ---------------------------------------------------------------------------


def test_objectives_are_found_by_file_name() -> None:
    assert {"jsa", "rag", "distil"} <= set(objective_names())
    for name in objective_names():
        assert objective_class(name).name == name


def test_an_objective_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    (tmp_path / "rag_again.py").write_text(
        "from jsarag.em.objectives.rag import Rag\nclass Again(Rag):\n    name = 'rag-again'\n"
    )
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    assert "rag-again" in objective_names()
    assert type(make_objective("rag-again", settings(support="prior"))).__name__ == "Again"


def test_wrong_names_and_supports_are_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"objective\.name: expected one of .*jsa.*found 'jsb'"):
        make_objective("jsb", settings())
    with pytest.raises(ConfigError, match="'rag' is defined on prior, kb; found 'union'"):
        make_objective("rag", settings(support="union"))


def test_only_a_cached_chain_needs_a_store(settings: Settings) -> None:
    assert make_objective("jsa", settings(estimator="mis")).chains is None
    assert isinstance(make_objective("jsa", settings(estimator="mis-cached")).chains, ChainStore)
    mine = ChainStore()
    assert make_objective("jsa", settings(estimator="mis-cached"), mine).chains is mine


# ---- what is scored, and how often ----------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("support", SUPPORTS)
def test_jsa_scores_each_pair_once_and_leaves_coefficients_on_visited_ones(
    make_bench: Make, settings: Settings, take: Make, support: str, estimator: str
) -> None:
    bench = make_bench()
    taken = take(
        make_objective("jsa", settings(support=support, estimator=estimator)), bench.problem
    )
    ((pairs, _),) = bench.scorer.calls
    assert len(pairs) == len(set(pairs))
    visited = {
        (b, int(taken.candidates.rows[b, slot]))
        for b, slot in (taken.weights.values > 0).nonzero().tolist()
    }
    assert visited <= set(pairs)
    if taken.candidates.proposals is not None:
        drawn = taken.candidates.rows.gather(1, taken.candidates.proposals)
        assert set(pairs) == {(b, row) for b in range(4) for row in drawn[b].tolist()}
    assert set(taken.loss.parts) == {"prior", "posterior", "generator"}
    assert taken.loss.total.item() == pytest.approx(
        sum(part.item() for part in taken.loss.parts.values()), rel=1e-6
    )
    assert not any(part.requires_grad for part in taken.loss.parts.values())
    taken.loss.total.backward()
    assert bench.problem.queries.prior.grad.abs().max() > 0
    assert bench.problem.queries.posterior.grad.abs().max() > 0
    # Minus the weight, mean over the batch: what the way back through the generator needs to know.
    coefficients = bench.scorer.table.grad
    assert {(b, row) for b, row in coefficients.nonzero().tolist()} == visited
    rows, values = taken.candidates.rows.clamp(min=0), taken.weights.values
    expected = torch.zeros_like(coefficients).scatter_add(1, rows, -values / 4)
    torch.testing.assert_close(coefficients, expected)


def test_rag_scores_once_with_gradient_and_never_needs_a_posterior(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    bench = make_bench()
    lonely = bench.replace(posterior_index=None, embed_posterior=None)
    for support in ("prior", "kb"):
        bench.scorer.calls.clear()
        taken = take(make_objective("rag", settings(support=support)), lonely.problem)
        ((pairs, graded),) = bench.scorer.calls
        assert graded
        assert len(pairs) == 4 * 4
        assert taken.scores.response_logp.requires_grad
        assert not taken.weights.values.requires_grad
        taken.loss.total.backward()
    assert bench.problem.queries.posterior.grad is None


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("estimator", ["exact", "snis"])
def test_distil_is_cross_entropy_to_q_and_moves_the_prior_only(
    make_bench: Make, settings: Settings, take: Make, support: str, estimator: str
) -> None:
    bench = make_bench()
    taken = take(
        make_objective("distil", settings(support=support, estimator=estimator)), bench.problem
    )
    assert bench.scorer.calls == []
    retriever = taken.scores.retriever
    torch.testing.assert_close(taken.weights.values.sum(1), torch.ones(4))
    if support != "kb":
        torch.testing.assert_close(taken.weights.values, retriever.posterior_logp.detach().exp())
    elif estimator == "snis":
        counts = taken.weights.values * 6
        torch.testing.assert_close(counts, counts.round())
    taken.loss.total.backward()
    assert bench.problem.queries.prior.grad.abs().max() > 0
    assert bench.problem.queries.posterior.grad is None
    assert bench.scorer.table.grad is None
    assert objective_class("distil").uses_generator is False


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("estimator", ["exact", "mis"])
def test_passages_are_encoded_only_if_trained_and_then_once(
    make_bench: Make, settings: Settings, take: Make, support: str, estimator: str, trained: bool
) -> None:
    bench = make_bench(trained=trained)
    taken = take(
        make_objective("jsa", settings(support=support, estimator=estimator)), bench.problem
    )
    if not trained:
        assert bench.embedder.calls == []
        return
    (rows,) = bench.embedder.calls
    assert len(rows) == len(set(rows))
    assert set(rows) == set(taken.candidates.rows[taken.candidates.mask].tolist())
    taken.loss.total.backward()
    assert bench.embedder.vectors.grad.abs().sum(1).nonzero().flatten().tolist() == sorted(rows)


def test_a_fresh_index_and_live_vectors_give_the_same_numbers(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    """Right after a rebuild nothing may jump: the live and the stored path agree."""
    for support in SUPPORTS:
        for estimator in ESTIMATORS:
            chosen = settings(support=support, estimator=estimator, temperature=0.5)
            one = take(make_objective("jsa", chosen), make_bench(dtype=torch.float64).problem)
            other = take(
                make_objective("jsa", chosen),
                make_bench(trained=True, dtype=torch.float64).problem,
            )
            assert one.candidates.rows.tolist() == other.candidates.rows.tolist()
            torch.testing.assert_close(one.loss.total, other.loss.total, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(one.weights.values, other.weights.values)


def test_a_generator_without_gradient_is_a_constant(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    bench = make_bench()
    reference = take(make_objective("jsa", settings()), bench.problem).loss
    bench.scorer.table.requires_grad_(False)
    bench.scorer.calls.clear()
    same = take(make_objective("jsa", settings()), bench.problem).loss
    assert len(bench.scorer.calls) == 1
    torch.testing.assert_close(same.total, reference.total)
    same.total.backward()
    assert bench.problem.queries.prior.grad.abs().max() > 0


def test_a_loss_can_be_computed_without_gradient(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    bench = make_bench()
    with torch.no_grad():
        loss = take(make_objective("jsa", settings()), bench.problem).loss
    assert not loss.total.requires_grad
    assert math.isfinite(loss.total.item())
    assert len(bench.scorer.calls) == 1


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jsa", "rag"])
def test_mean_likelihood_divides_by_tokens(
    make_bench: Make, settings: Settings, take: Make, name: str
) -> None:
    chosen = {"support": "prior", "estimator": "exact"}
    bench = make_bench()
    total = take(make_objective(name, settings(**chosen)), bench.problem)
    mean = take(make_objective(name, settings(**chosen, likelihood="mean")), bench.problem)
    mask = total.candidates.mask
    torch.testing.assert_close(
        mean.scores.response_logp[mask] * bench.scorer.tokens, total.scores.response_logp[mask]
    )
    # A quarter of the evidence is a flatter v.
    assert mean.weights.diagnostics["weight_entropy"] > total.weights.diagnostics["weight_entropy"]


@pytest.mark.parametrize("name", ["jsa", "rag"])
def test_evidence_weight_zero_leaves_the_prior(
    make_bench: Make, settings: Settings, take: Make, name: str
) -> None:
    bench = make_bench()
    with torch.no_grad():
        bench.scorer.table[0, :5] = -torch.inf
    chosen = settings(support="prior", estimator="exact", evidence_weight=0.0)
    taken = take(make_objective(name, chosen), bench.problem)
    torch.testing.assert_close(
        taken.weights.values, taken.scores.retriever.prior_logp.detach().exp()
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("support", SUPPORTS)
def test_excluded_passages_are_honoured_everywhere(
    make_bench: Make, settings: Settings, take: Make, support: str, estimator: str
) -> None:
    """Excluding passages equals removing them from the knowledge base, stored states included."""
    bench = make_bench(dtype=torch.float64)
    excluded = torch.tensor([[0, 1, 2, 3, 4]] * 4)
    chains = ChainStore()
    chains.put(bench.problem.example_ids, torch.tensor([2, 3, 4, 9]))
    chosen = settings(support=support, estimator=estimator, k=5)
    taken = take(make_objective("jsa", chosen, chains), bench.replace(exclude=excluded).problem)
    assert (taken.candidates.rows[taken.candidates.mask] >= 5).all()

    kept = FlatIndex(bench.problem.prior_index.embeddings[5:])
    table = bench.scorer.table
    fewer = bench.replace(
        prior_index=kept,
        posterior_index=kept,
        score_responses=lambda example, row: ResponseLogp(table[example, row + 5], row * 0 + 4),
    )
    shifted = ChainStore()
    shifted.put([fewer.problem.example_ids[3]], torch.tensor([4]))
    other = take(make_objective("jsa", chosen, shifted), fewer.problem)
    assert taken.loss.total.item() == pytest.approx(other.loss.total.item(), abs=1e-12)


# ---- chains ---------------------------------------------------------------------------------


def test_chains_move_at_commit_and_not_before(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    bench = make_bench()
    objective = make_objective("jsa", settings(estimator="mis-cached"))
    assert objective.chains is not None
    taken = take(objective, bench.problem)
    assert len(objective.chains) == 0
    again = take(objective, bench.problem)  # a step that was not taken can be repeated
    assert torch.equal(taken.weights.values, again.weights.values)
    objective.commit(bench.problem, taken.candidates, taken.weights)
    held = objective.chains.get(bench.problem.example_ids)
    expected = taken.candidates.rows.gather(1, taken.weights.held[:, None])[:, 0]
    assert held.tolist() == expected.tolist()
    following = take(objective, bench.replace(visits=[1] * 4).problem)
    starts = following.candidates.start
    assert following.candidates.rows.gather(1, starts[:, None])[:, 0].tolist() == held.tolist()


def test_other_estimators_hold_nothing(make_bench: Make, settings: Settings, take: Make) -> None:
    bench, chains = make_bench(), ChainStore()
    for estimator in ("exact", "snis", "mis", "mis-recycled"):
        objective = make_objective("jsa", settings(estimator=estimator), chains)
        taken = take(objective, bench.problem)
        objective.commit(bench.problem, taken.candidates, taken.weights)
    assert len(chains) == 0


# ---- numerics -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jsa", "rag"])
@pytest.mark.parametrize("wrong", [-torch.inf, torch.nan, torch.inf])
def test_a_row_without_evidence_is_named(
    make_bench: Make, settings: Settings, take: Make, name: str, wrong: float
) -> None:
    bench = make_bench()
    with torch.no_grad():
        bench.scorer.table[2] = wrong
    for estimator in ESTIMATORS:
        objective = make_objective(name, settings(support="prior", estimator=estimator))
        with pytest.raises(NumericalError, match="'example-2'"):
            take(objective, bench.problem)


def test_an_example_without_passages_is_named(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    exclude = torch.full((4, 30), -1)
    exclude[3] = torch.arange(30)
    bench = make_bench().replace(exclude=exclude)
    for support in SUPPORTS:
        for estimator in ESTIMATORS:
            chosen = settings(support=support, estimator=estimator)
            with pytest.raises(NumericalError, match=r"'example-3'.*(excluded|NaN)"):
                take(make_objective("jsa", chosen), bench.problem)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("support", SUPPORTS)
def test_impossible_passages_get_no_weight_and_no_nan(
    make_bench: Make, settings: Settings, take: Make, support: str, estimator: str
) -> None:
    """p(y|x,h) = 0 for most passages is a legitimate model."""
    bench = make_bench()
    with torch.no_grad():
        bench.scorer.table[:, ::2] = -torch.inf
    chosen = settings(support=support, estimator=estimator, mis_steps=24, k=12)
    taken = take(make_objective("jsa", chosen), bench.problem)
    rows, values = taken.candidates.rows, taken.weights.values
    assert (values[rows % 2 == 0] == 0).all()
    torch.testing.assert_close(values.sum(1), torch.ones(4))
    taken.loss.total.backward()
    for leaf in (bench.problem.queries.prior, bench.problem.queries.posterior, bench.scorer.table):
        assert leaf.grad.isfinite().all()
    assert math.isfinite(taken.loss.total.item())
    found = taken.weights.diagnostics
    assert all(math.isfinite(value) for value in found.values()), found


def test_sharp_evidence_does_not_overflow(make_bench: Make, settings: Settings, take: Make) -> None:
    bench = make_bench()
    with torch.no_grad():
        bench.scorer.table *= 300
    for support in SUPPORTS:
        for estimator in ESTIMATORS:
            taken = take(
                make_objective("jsa", settings(support=support, estimator=estimator)),
                bench.problem,
            )
            assert taken.weights.values.isfinite().all()
            assert math.isfinite(taken.loss.total.item())


# ---- diagnostics ----------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("support", SUPPORTS)
def test_diagnostics(
    make_bench: Make, settings: Settings, take: Make, support: str, estimator: str
) -> None:
    bench = make_bench(dtype=torch.float64)
    chosen = settings(support=support, estimator=estimator, mis_steps=8)
    taken = take(make_objective("jsa", chosen), bench.problem)
    found, values = taken.weights.diagnostics, taken.weights.values
    expected = {
        "ess",
        "log_evidence",
        "kl_posterior",
        "prior_posterior_overlap",
        "weight_entropy",
        "distinct_candidates",
        "evidence_spread",
    }
    if estimator.startswith("mis"):
        expected |= {"acceptance_rate"}
        assert 0 <= found["acceptance_rate"] <= 1
    assert set(found) == expected
    entropy = -sum(v * math.log(v) for v in values.flatten().tolist() if v > 0) / 4
    assert found["weight_entropy"] == pytest.approx(entropy)
    assert 1 <= found["ess"] <= (8 if estimator != "exact" else values.shape[1])
    assert found["kl_posterior"] >= 0
    assert 0 < found["prior_posterior_overlap"] <= 1
    scored = len(set(bench.scorer.calls[0][0]))
    assert found["distinct_candidates"] == pytest.approx(scored / 4)
    spreads = []
    for b in range(4):
        known = taken.scores.response_logp[b]
        known = known[known > -torch.inf].sort().values
        spreads.append((known[-1] - known[(len(known) - 1) // 2]).item())
    assert found["evidence_spread"] == pytest.approx(sum(spreads) / 4)


def test_acceptance_does_not_count_a_free_first_step(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    bench = make_bench()
    one = take(make_objective("jsa", settings(estimator="mis", mis_steps=1)), bench.problem)
    assert "acceptance_rate" not in one.weights.diagnostics
    # With q = w every decided step accepts; counting the free one would not be seen there, but
    # with evidence that forbids every move the rate must be exactly 0.
    chains = ChainStore()
    chains.put(bench.problem.example_ids, torch.tensor([0, 0, 0, -1]))
    with torch.no_grad():
        bench.scorer.table[:] = -60
        bench.scorer.table[:3, 0] = 0
    objective = make_objective("jsa", settings(estimator="mis-cached", mis_steps=3), chains)
    taken = take(objective, bench.problem)
    decided = taken.weights.diagnostics["acceptance_rate"] * (4 * 3 - 1)
    assert decided == pytest.approx(round(decided))
    assert decided <= 2
    assert taken.candidates.rows.gather(1, taken.weights.held[:, None])[:3, 0].tolist() == [0] * 3


def test_diagnostics_stay_finite_when_only_the_stored_state_has_weight(
    make_bench: Make, settings: Settings, take: Make
) -> None:
    """Every draw impossible, the chain stays where it is: legitimate, and loggable."""
    bench, chains = make_bench(), ChainStore()
    with torch.no_grad():
        bench.scorer.table[0] = -torch.inf
        bench.scorer.table[0, 29] = -3
    fresh = take(make_objective("jsa", settings(estimator="exact", k=30)), bench.problem)
    assert fresh.weights.values[0, 29] == 1
    chains.put(bench.problem.example_ids, torch.tensor([29, 1, 2, 3]))
    taken = take(
        make_objective("jsa", settings(estimator="mis-cached", mis_steps=2), chains),
        bench.problem,
    )
    assert taken.candidates.rows[0, taken.weights.held[0]] == 29
    assert 29 not in taken.candidates.rows[0].gather(0, taken.candidates.proposals[0]).tolist()
    found = taken.weights.diagnostics
    assert all(math.isfinite(value) for value in found.values()), found
