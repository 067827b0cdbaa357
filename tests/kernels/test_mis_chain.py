"""mis_chain: its rules against a loop in plain Python, and the backends against each other."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from jsarag import ops
from jsarag.backends import native
from jsarag.errors import DtypeError, ShapeError
from jsarag.ops.reference.mis_chain import mis_chain as reference

NAN, INF = math.nan, math.inf
needs_kernel = pytest.mark.skipif(
    "mis_chain" not in native.CPU_OPS, reason=native.MISSING or "no compiled mis_chain"
)


BACKENDS = [
    "reference",
    pytest.param("cpu", marks=needs_kernel),
    "emulated",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=BACKENDS)
def backend(request, chosen_backend):
    return chosen_backend(request.param)


def problem(seed, batch, steps, odd=0.0):
    """Weights (a share `odd` of them not finite), starts and uniforms."""
    torch.manual_seed(seed)
    weights = torch.randn(batch, steps + 1) * 3
    kind = torch.rand(batch, steps + 1)
    for value, low in ((NAN, 0.0), (-INF, 1 / 3), (INF, 2 / 3)):
        weights[(kind >= low * odd) & (kind < (low + 1 / 3) * odd)] = value
    uniforms = torch.rand(batch, steps, dtype=torch.float64)
    return weights[:, :steps].clone(), weights[:, steps].clone(), uniforms


def plain_chain(weights, start, uniforms):
    """One chain in Python floats: [(state, accepted, chance, held before)], -1 the start."""
    held, held_weight, out = -1, start, []
    for step, (weight, uniform) in enumerate(zip(weights, uniforms, strict=True)):
        before = held
        if step == 0 and start is None:
            move, chance = True, 1.0
        elif math.isnan(weight):
            move, chance = False, 0.0
        elif math.isnan(held_weight):
            move, chance = True, 1.0
        elif weight == held_weight and math.isinf(weight):
            move, chance = False, 0.0
        else:
            ratio = weight - held_weight
            chance = math.exp(min(ratio, 0.0))
            move = (math.log(uniform) if uniform > 0 else -INF) < ratio
        if move:
            held, held_weight = step, weight
        out.append((held, move, chance, before))
    return out


@pytest.mark.parametrize("has_start", [True, False])
@pytest.mark.parametrize("odd", [0.0, 0.4])
def test_agrees_with_a_loop_in_python(backend, has_start, odd):
    weights, starts, uniforms = problem(1, 40, 23, odd)
    got = ops.mis_chain(weights, starts if has_start else None, uniforms)
    for b in range(40):
        start = starts[b].item() if has_start else None
        chain = plain_chain(weights[b].tolist(), start, uniforms[b].tolist())
        assert got.state[b].tolist() == [state for state, *_ in chain]
        assert got.accepted[b].tolist() == [move for _, move, *_ in chain]
        visits, recycled = [0.0] * 24, [0.0] * 24
        for step, (state, _, chance, before) in enumerate(chain):
            visits[state] += 1
            recycled[step] += chance
            recycled[before] += 1 - chance
        assert got.visits[b].tolist() == visits
        assert got.recycled[b].tolist() == pytest.approx(recycled, abs=1e-6)


@pytest.mark.parametrize("has_start", [True, False])
def test_rows_sum_to_the_number_of_steps(backend, has_start):
    weights, starts, uniforms = problem(2, 30, 17, 0.3)
    got = ops.mis_chain(weights, starts if has_start else None, uniforms)
    assert (got.visits.sum(1) == 17).all()
    torch.testing.assert_close(got.recycled.sum(1), torch.full((30,), 17.0))
    assert (got.visits >= 0).all()
    assert (got.recycled >= 0).all()


def test_without_a_start_the_first_proposal_is_free(backend):
    weights, _, uniforms = problem(3, 8, 5)
    uniforms[:, 0] = NAN
    got = ops.mis_chain(weights, None, uniforms)
    assert got.accepted[:, 0].all()
    assert (got.state[:, 0] == 0).all()
    assert (got.visits[:, 5] == 0).all()
    assert (got.recycled[:, 5] == 0).all()
    rest = ops.mis_chain(weights[:, 1:], weights[:, 0].clone(), uniforms[:, 1:])
    assert torch.equal(got.accepted[:, 1:], rest.accepted)
    assert torch.equal(got.state[:, 1:], rest.state + 1)


# held, proposal, uniform -> accepted, chance
OUTCOMES = [
    (0.0, NAN, 0.5, False, 0.0),
    (NAN, NAN, 0.0, False, 0.0),
    (-INF, NAN, 0.0, False, 0.0),
    (INF, NAN, 0.0, False, 0.0),
    (NAN, 0.0, 0.999, True, 1.0),
    (NAN, -INF, 0.999, True, 1.0),
    (NAN, INF, NAN, True, 1.0),
    (-INF, -1e30, 0.999, True, 1.0),
    (-INF, INF, 0.999, True, 1.0),
    (-INF, -INF, 0.0, False, 0.0),
    (0.0, INF, 0.999, True, 1.0),
    (INF, 0.0, 0.0, False, 0.0),
    (INF, -INF, 0.0, False, 0.0),
    (INF, INF, 0.0, False, 0.0),
    (0.0, -INF, 0.0, False, 0.0),
    (0.0, 0.0, 0.999, True, 1.0),
    (0.0, 0.0, 1.0, False, 1.0),
    (0.0, -1.0, 0.0, True, math.exp(-1)),
    (0.0, -1.0, 0.36, True, math.exp(-1)),
    (0.0, -1.0, 0.37, False, math.exp(-1)),
    (0.0, 5.0, NAN, False, 1.0),
    (0.0, -800.0, 0.0, True, 0.0),
    (0.0, 5.0, -0.5, False, 1.0),
    (0.0, -1.0, -0.5, False, math.exp(-1)),
    (0.0, 1.0, 1.5, True, 1.0),
    (0.0, 0.25, 1.5, False, 1.0),
]


@pytest.mark.parametrize(("held", "proposal", "uniform", "accepted", "chance"), OUTCOMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outcomes(backend, held, proposal, uniform, accepted, chance, dtype):
    got = ops.mis_chain(
        torch.tensor([[proposal]], dtype=dtype),
        torch.tensor([held], dtype=dtype),
        torch.tensor([[uniform]], dtype=torch.float64),
    )
    assert got.accepted.item() is accepted
    assert got.state.item() == (0 if accepted else -1)
    expected = torch.tensor([[chance, 1 - chance]], dtype=dtype)
    torch.testing.assert_close(got.recycled, expected)


def test_a_nan_start_means_no_stored_state(backend):
    weights, _, uniforms = problem(4, 6, 9)
    weights[:, 0] = torch.tensor([0.0, NAN, -INF, INF, 1.0, -3.0])
    fresh = ops.mis_chain(weights, None, uniforms)
    stored = ops.mis_chain(weights, torch.full((6,), NAN), uniforms)
    usable = ~weights[:, 0].isnan()
    for one, other in zip(fresh, stored, strict=True):
        assert torch.equal(one[usable], other[usable])
    assert stored.state[1].tolist()[0] == -1


@needs_kernel
@pytest.mark.parametrize("uniform_dtype", [torch.float32, torch.float64])
def test_the_kernel_equals_the_reference_bit_for_bit(uniform_dtype, monkeypatch):
    monkeypatch.setenv("JSARAG_BACKEND", "cpu")
    for seed in range(60):
        torch.manual_seed(1000 + seed)
        batch, steps = (int(n) for n in torch.randint(1, 70, (2,)))
        weights, starts, uniforms = problem(seed, batch, steps, 0.0 if seed % 2 else 0.2)
        start = starts if seed % 3 else None
        uniforms = uniforms.to(uniform_dtype)
        got, want = ops.mis_chain(weights, start, uniforms), reference(weights, start, uniforms)
        for name in want._fields:
            assert torch.equal(getattr(got, name), getattr(want, name)), (seed, name)


@needs_kernel
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_the_kernel_equals_the_reference_next_to_the_boundary(scale, monkeypatch):
    # Uniforms a few float64 steps around exp(log ratio), where a shortcut would show; the step at
    # the boundary itself is left out, there two maths libraries may differ.
    monkeypatch.setenv("JSARAG_BACKEND", "cpu")
    torch.manual_seed(3)
    ratio = -torch.rand(400, 1) * scale
    chance = ratio.double().exp()
    for relative in (-1e-9, -2e-12, -5e-13, -1e-14, 1e-14, 5e-13, 2e-12, 1e-9):
        uniforms = chance * (1 + relative * max(1.0, scale / 10))
        got = ops.mis_chain(ratio, torch.zeros(400), uniforms)
        assert torch.equal(got.accepted, reference(ratio, torch.zeros(400), uniforms).accepted)
        assert got.accepted.all() == (relative < 0)
        assert got.accepted.any() == (relative < 0)


def test_many_chains_do_not_depend_on_threads_or_batch(backend):
    weights, starts, uniforms = problem(5, 700, 100, 0.1)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(ops.mis_chain(weights, starts, uniforms))
    finally:
        torch.set_num_threads(before)
    results.append(
        [
            torch.cat(parts)
            for parts in zip(
                *(
                    ops.mis_chain(weights[a:b], starts[a:b], uniforms[a:b])
                    for a, b in pairwise((0, 1, 300, 700))
                ),
                strict=True,
            )
        ]
    )
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


def test_recycled_is_the_expected_visit_of_a_step(backend):
    # One step from a start: averaged over its coin, `visits` must be `recycled`.
    n = 20_000
    torch.manual_seed(7)
    uniforms = torch.rand(n, 1, dtype=torch.float64)
    got = ops.mis_chain(torch.full((n, 1), -0.7), torch.zeros(n), uniforms)
    chance = math.exp(-0.7)
    torch.testing.assert_close(got.recycled[0], torch.tensor([chance, 1 - chance]))
    error = math.sqrt(chance * (1 - chance) / n)
    assert abs(got.visits[:, 0].mean().item() - chance) < 4 * error


def test_empty_and_strided_inputs(backend):
    got = ops.mis_chain(torch.empty(3, 0), None, torch.empty(3, 0))
    assert got.state.shape == (3, 0)
    assert got.visits.tolist() == [[0.0]] * 3
    assert ops.mis_chain(torch.empty(0, 4), torch.empty(0), torch.empty(0, 4)).state.shape == (0, 4)
    weights, starts, uniforms = problem(6, 11, 13)
    wide = torch.full((13, 22), NAN)
    wide[:, ::2] = weights.T
    strided = ops.mis_chain(wide[:, ::2].T, starts, uniforms.T.contiguous().T)
    for one, two in zip(strided, ops.mis_chain(weights, starts, uniforms), strict=True):
        assert torch.equal(one, two)


def test_dtypes_follow_the_weights():
    weights, starts, uniforms = problem(8, 4, 6)
    single = ops.mis_chain(weights, starts, uniforms)
    double = ops.mis_chain(weights.double(), starts.double(), uniforms.float())
    assert (single.state.dtype, single.accepted.dtype) == (torch.int32, torch.bool)
    assert single.visits.dtype == single.recycled.dtype == torch.float32
    assert double.visits.dtype == double.recycled.dtype == torch.float64


def test_no_gradient_flows_through(backend):
    weights, starts, uniforms = problem(9, 4, 6)
    got = ops.mis_chain(weights.requires_grad_(), starts.requires_grad_(), uniforms)
    assert not got.visits.requires_grad
    assert not got.recycled.requires_grad


@pytest.mark.parametrize("has_start", [True, False])
def test_the_operator_is_well_formed(has_start):
    weights, starts, uniforms = problem(10, 4, 6)
    arguments = (weights, starts if has_start else None, uniforms, 1)
    torch.library.opcheck(torch.ops.jsarag.mis_chain.default, arguments)


def test_wrong_arguments_are_refused_by_name():
    weights, starts, uniforms = problem(11, 4, 6)
    with pytest.raises(ShapeError, match="log_weight expected"):
        ops.mis_chain(weights[0], None, uniforms)
    with pytest.raises(ShapeError, match="uniforms expected"):
        ops.mis_chain(weights, None, uniforms[:, 1:])
    with pytest.raises(ShapeError, match="start_log_weight expected"):
        ops.mis_chain(weights, starts[1:], uniforms)
    with pytest.raises(DtypeError, match="log_weight expected float32, float64"):
        ops.mis_chain(weights.bfloat16(), None, uniforms)
    with pytest.raises(DtypeError, match="start_log_weight expected float32"):
        ops.mis_chain(weights, starts.double(), uniforms)
