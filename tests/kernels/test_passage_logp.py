"""passage_logp: against float64, with an error budget; shapes, gradients, threads, memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from jsarag import ops
from jsarag.backends import native
from jsarag.errors import DtypeError, JsaragError, ShapeError
from jsarag.ops.reference.passage_logp import passage_logp as reference

NAN, INF = math.nan, math.inf
EPS32 = torch.finfo(torch.float32).eps
needs_kernel = pytest.mark.skipif(
    "passage_logp" not in native.CPU_OPS, reason=native.MISSING or "no compiled passage_logp"
)


KERNELS = [
    pytest.param("cpu", marks=needs_kernel),
    "emulated",
    "emulated-hopper",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=["reference", *KERNELS])
def backend(request, chosen_backend):
    return chosen_backend(request.param)


@pytest.fixture(params=KERNELS)
def kernel(request, chosen_backend):
    return chosen_backend(request.param)


@pytest.fixture
def cpu_kernel(monkeypatch):
    monkeypatch.setenv("JSARAG_BACKEND", "cpu")


def make(seed, tokens, width, vocabulary, sequences, dtype=torch.float32, ignored=0.2):
    """hidden, weight, targets, cu_seqlens and bias as leaves that want gradients."""
    torch.manual_seed(seed)
    hidden = torch.randn(tokens, width).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width) / width**0.5 * 2).to(dtype).requires_grad_()
    bias = torch.randn(vocabulary).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,))
    targets[torch.rand(tokens) < ignored] = -100
    inner = torch.randint(0, tokens + 1, (max(sequences - 1, 0),)).sort().values
    ends = torch.tensor([tokens]) if sequences else torch.tensor([], dtype=torch.int64)
    cu_seqlens = torch.cat([torch.tensor([0]), inner, ends])
    return hidden, weight, targets, cu_seqlens, bias


def doubles(*tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def distance(got, want):
    return (got.detach().double() - want.detach().double()).abs().max().item()


def naive(hidden, weight, targets, cu_seqlens, **options):
    """The usual code in the inputs' own dtype: all logits, then cross entropy."""
    logits = hidden @ weight.T
    if "bias" in options:
        logits = logits + options["bias"]
    logits = logits * options.get("logit_scale", 1.0)
    if "softcap" in options:
        logits = options["softcap"] * torch.tanh(logits / options["softcap"])
    token = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    pieces = [token[a:b].float().sum() for a, b in pairwise(cu_seqlens)]
    return torch.stack(pieces)


OPTIONS = [
    {},
    {"bias": True},
    {"logit_scale": 0.3},
    {"softcap": 5.0},
    {"bias": True, "logit_scale": -0.7, "softcap": 2.0},
]
# tokens, width, vocabulary, sequences: on and off the blocks of 48 tokens and 480 words
SHAPES = [(96, 64, 960, 4), (50, 33, 481, 3), (131, 7, 1003, 9), (48, 1, 480, 1), (3, 300, 29, 3)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_budget(kernel, dtype, shape, options):
    hidden, weight, targets, cu_seqlens, bias = make(1, *shape, dtype)
    exact_hidden, exact_weight, exact_bias = doubles(hidden, weight, bias)
    given = dict(options, bias=bias) if "bias" in options else options
    exact = dict(options, bias=exact_bias) if "bias" in options else options

    got = ops.passage_logp(hidden, weight, targets, cu_seqlens, **given)
    usual = naive(hidden, weight, targets, cu_seqlens, **given)
    want = reference(exact_hidden, exact_weight, targets, cu_seqlens, **exact)
    assert torch.equal(got.tokens, want.tokens)
    # The kernel sums in f32 whatever came in, so its budget is that of f32.
    wide = {name: v.float() if name == "bias" else v for name, v in given.items()}
    usual_f32 = naive(hidden.float(), weight.float(), targets, cu_seqlens, **wide)
    budget = distance(usual_f32, want.logp) + 2 * EPS32 * want.logp.abs().max().item()
    assert distance(got.logp, want.logp) <= budget

    wanted = torch.randn(cu_seqlens.numel() - 1)
    leaves = [hidden, weight] + ([bias] if "bias" in options else [])
    exact_leaves = [exact_hidden, exact_weight, exact_bias][: len(leaves)]
    ours = torch.autograd.grad((got.logp * wanted).sum(), leaves)
    theirs = torch.autograd.grad((usual * wanted).sum(), leaves)
    truth = torch.autograd.grad((want.logp * wanted.double()).sum(), exact_leaves)
    eps = torch.finfo(dtype).eps
    for one, other, right in zip(ours, theirs, truth, strict=True):
        assert one.dtype == dtype
        # Sums of hundreds of terms: three roundings of the largest gradient.
        assert distance(one, right) <= distance(other, right) + 3 * eps * right.abs().max().item()


def test_closed_form(backend):
    # Two words with logits (0, x): log p is -log(1 + e^x) or -log(1 + e^-x).
    x = torch.linspace(-30, 30, 61)
    weight = torch.tensor([[0.0], [1.0]])
    cu_seqlens = torch.arange(62)
    for word, sign in ((0, 1.0), (1, -1.0)):
        got = ops.passage_logp(x[:, None], weight, torch.full((61,), word), cu_seqlens)
        want = -torch.nn.functional.softplus(sign * x.double(), threshold=1e9)
        assert (got.tokens == 1).all()
        torch.testing.assert_close(got.logp.double(), want, rtol=3e-7, atol=3e-6)
        assert (got.logp <= 0).all()


def test_exp_keeps_its_error_budget(kernel):
    # With target 0 and logits (0, x), the gradient on x is -p(1) = -sigmoid(x).
    points = 20_011 if kernel == "cpu" else 2_011
    x = torch.cat([torch.linspace(-87, 10, points), torch.tensor([-200.0, -1e30, -INF])])
    hidden = x[:, None].clone().requires_grad_()
    weight = torch.tensor([[0.0], [1.0]])
    logp = ops.passage_logp(
        hidden, weight, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x) + 1)
    ).logp
    (grad,) = torch.autograd.grad(logp.sum(), hidden)
    finite = x > -88
    want = torch.sigmoid(x[finite].double())
    error = ((-grad[finite, 0].double() - want) / want).abs()
    # x - lse is rounded once (relative to |x|) before exp; exp itself may add 3 half-ulps.
    allowed = EPS32 / 2 * (3 + x[finite].double().abs() * 1.1)
    assert (error <= allowed).all(), (error / allowed).max()
    # At -inf the product 0 * -inf is NaN, as it is in torch.
    assert (grad[-3:-1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fuzz_against_the_reference(kernel, dtype):
    for seed in range(40 if kernel == "cpu" else 10):
        torch.manual_seed(500 + seed)
        tokens, width = int(torch.randint(0, 120, ())), int(torch.randint(1, 90, ()))
        vocabulary, sequences = int(torch.randint(1, 1100, ())), int(torch.randint(1, 9, ()))
        given = make(seed, tokens, width, vocabulary, sequences, dtype, seed % 5 / 4)
        hidden, weight, targets, cu_seqlens, bias = given
        got = ops.passage_logp(hidden, weight, targets, cu_seqlens.int(), bias=bias)
        exact_hidden, exact_weight, exact_bias = doubles(hidden, weight, bias)
        want = reference(exact_hidden, exact_weight, targets, cu_seqlens, bias=exact_bias)
        assert torch.equal(got.tokens, want.tokens)
        assert distance(got.logp, want.logp) <= 1e-6 * (1 + want.logp.abs().max().item()), seed
        wanted = torch.randn(sequences)
        wanted[torch.rand(sequences) < 0.3] = 0.0
        ours = torch.autograd.grad((got.logp * wanted).sum(), (hidden, weight, bias))
        truth = torch.autograd.grad(
            (want.logp * wanted.double()).sum(), (exact_hidden, exact_weight, exact_bias)
        )
        tolerance = 3e-6 if dtype == torch.float32 else 1e-2
        for one, right in zip(ours, truth, strict=True):
            if right.numel():
                assert distance(one, right) <= tolerance * (1 + right.abs().max().item()), seed


def test_the_reference_is_differentiable_twice():
    hidden, weight, targets, cu_seqlens, bias = make(2, 7, 3, 11, 3)
    leaves = doubles(hidden, weight, bias)

    def score(hidden, weight, bias):
        return ops.passage_logp(
            hidden, weight, targets, cu_seqlens, bias=bias, softcap=3.0, logit_scale=0.8
        ).logp

    assert torch.autograd.gradcheck(score, leaves)
    assert torch.autograd.gradgradcheck(score, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype, monkeypatch):
    monkeypatch.delenv("JSARAG_BACKEND", raising=False)
    hidden, weight, targets, cu_seqlens, _ = make(3, 20, 8, 30, 2, dtype)
    got = ops.passage_logp(hidden, weight, targets.int(), cu_seqlens.int())
    assert (got.logp.dtype, got.tokens.dtype) == (torch.float32, torch.int32)
    double = ops.passage_logp(hidden.double(), weight.double(), targets, cu_seqlens)
    assert double.logp.dtype == torch.float64
    assert distance(got.logp, double.logp) < 1e-4


def test_degenerate_shapes(backend):
    hidden, weight, targets, _, bias = make(4, 6, 5, 9, 2)
    empty = torch.empty(0, dtype=torch.int64)
    nothing = ops.passage_logp(hidden[:0], weight, empty, torch.tensor([0]))
    assert nothing.logp.shape == nothing.tokens.shape == (0,)
    silent = ops.passage_logp(hidden[:0], weight, empty, torch.tensor([0, 0, 0]), bias=bias)
    assert silent.logp.tolist() == [0.0, 0.0]
    assert silent.tokens.tolist() == [0, 0]

    ignored = ops.passage_logp(hidden, weight, targets * 0 - 100, torch.tensor([0, 2, 6]))
    assert ignored.logp.tolist() == [0.0, 0.0]
    grads = torch.autograd.grad(ignored.logp.sum(), (hidden, weight))
    assert [grad.abs().max().item() for grad in grads] == [0.0, 0.0]
    assert [grad.shape for grad in grads] == [hidden.shape, weight.shape]

    certain = ops.passage_logp(hidden, weight[:1], targets * 0, torch.tensor([0, 6]))
    assert certain.logp.tolist() == [0.0]
    assert certain.tokens.tolist() == [6]


def test_sequences_own_their_tokens(backend):
    hidden, weight, targets, _, _ = make(5, 9, 4, 12, 1, ignored=0.0)
    cu_seqlens = torch.tensor([0, 0, 4, 4, 9])
    got = ops.passage_logp(hidden, weight, targets, cu_seqlens)
    each = ops.passage_logp(hidden, weight, targets, torch.arange(10))
    assert got.tokens.tolist() == [0, 4, 0, 5]
    want = torch.stack([each.logp[a:b].sum() for a, b in ((0, 0), (0, 4), (4, 4), (4, 9))])
    torch.testing.assert_close(got.logp, want)
    one = ops.passage_logp(hidden[:4], weight, targets[:4], torch.tensor([0, 4]))
    assert torch.equal(one.logp[0], got.logp[1])


@pytest.mark.parametrize("ignore_index", [-100, 0, 7])
def test_ignored_tokens_may_hold_anything(backend, ignore_index):
    hidden, weight, targets, cu_seqlens, _ = make(6, 30, 6, 20, 3, ignored=0.0)
    targets[targets == ignore_index] = 3
    clean = hidden.detach().clone()
    dirty = clean.clone()
    targets[::3] = ignore_index
    dirty[::3] = NAN
    dirty.requires_grad_()
    one = ops.passage_logp(clean, weight, targets, cu_seqlens, ignore_index=ignore_index)
    two = ops.passage_logp(dirty, weight, targets, cu_seqlens, ignore_index=ignore_index)
    assert torch.equal(one.logp, two.logp)
    assert two.tokens.sum() == 20
    on_hidden, on_weight = torch.autograd.grad(two.logp.sum(), (dirty, weight))
    assert (on_hidden[::3] == 0).all()
    assert on_weight.isfinite().all()


def test_nan_and_infinity_stay_in_their_sequence(backend):
    hidden, weight, targets, _, bias = make(7, 8, 6, 500, 1, ignored=0.0)
    hidden = hidden.detach().clone()
    hidden[1] = NAN
    hidden[4, 0] = INF
    got = ops.passage_logp(hidden, weight, targets, torch.arange(9))
    assert got.logp.isnan().tolist() == [False, True, False, False, True, False, False, False]

    masked = bias.detach().clone()
    masked[10:] = -INF  # more than one block of words without any mass
    masked.requires_grad_()
    targets = targets % 10
    result = ops.passage_logp(hidden[5:], weight, targets[5:], torch.arange(4), bias=masked)
    short = ops.passage_logp(hidden[5:], weight[:10], targets[5:], torch.arange(4), bias=bias[:10])
    torch.testing.assert_close(result.logp, short.logp)
    (grad,) = torch.autograd.grad(result.logp.sum(), masked)
    assert (grad[10:] == 0).all()
    assert grad.isfinite().all()


def test_large_logits_do_not_overflow(backend):
    weight = torch.tensor([[3e4], [1e4], [-3e4]])
    got = ops.passage_logp(torch.ones(3, 1), weight, torch.arange(3), torch.arange(4))
    assert got.logp.tolist() == [0.0, -2e4, -6e4]


def test_strided_inputs(backend):
    hidden, weight, targets, cu_seqlens, bias = make(8, 40, 10, 70, 3)
    wide_hidden = torch.full((80, 25), NAN)
    wide_hidden[::2, 5:15] = hidden.detach()
    columns = torch.full((10, 140), NAN)
    columns[:, ::2] = weight.detach().T
    spaced = torch.stack([targets, targets + 1], 1)
    got = ops.passage_logp(
        wide_hidden[::2, 5:15],
        columns[:, ::2].T,
        spaced[:, 0],
        torch.stack([cu_seqlens, cu_seqlens], 1)[:, 0],
        bias=torch.stack([bias.detach(), bias.detach()], 1)[:, 1],
    )
    want = ops.passage_logp(hidden, weight, targets, cu_seqlens, bias=bias)
    assert torch.equal(got.logp, want.logp)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_change_no_bit(cpu_kernel, dtype):
    hidden, weight, targets, cu_seqlens, bias = make(9, 333, 40, 2500, 7, dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            got = ops.passage_logp(hidden, weight, targets, cu_seqlens, bias=bias)
            grads = torch.autograd.grad(got.logp.sum(), (hidden, weight, bias))
            results.append((got.logp, *grads))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


def test_only_wanted_gradients_are_made(kernel):
    hidden, weight, targets, cu_seqlens, bias = make(10, 60, 12, 600, 2)
    names = {"hidden": hidden, "weight": weight, "bias": bias}
    logp = ops.passage_logp(hidden, weight, targets, cu_seqlens, bias=bias).logp
    everything = torch.autograd.grad(logp.sum(), (hidden, weight, bias))
    for name, full in zip(names, everything, strict=True):
        leaf = names[name].detach().clone().requires_grad_()
        given = {other: tensor.detach() for other, tensor in names.items()} | {name: leaf}
        logp = ops.passage_logp(
            given["hidden"], given["weight"], targets, cu_seqlens, bias=given["bias"]
        ).logp
        assert torch.equal(torch.autograd.grad(logp.sum(), leaf)[0], full)


@needs_kernel
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operator_is_well_formed(cpu_kernel, dtype, with_bias):
    hidden, weight, targets, cu_seqlens, bias = make(11, 10, 4, 15, 2, dtype)
    arguments = (
        hidden,
        weight,
        targets,
        cu_seqlens,
        bias if with_bias else None,
        2.0 if with_bias else None,
        0.5,
        -100,
        1,
    )
    torch.library.opcheck(torch.ops.jsarag.passage_logp.default, arguments)


def test_a_second_derivative_is_refused(kernel):
    hidden, weight, targets, cu_seqlens, _ = make(12, 10, 4, 15, 2)
    logp = ops.passage_logp(hidden, weight, targets, cu_seqlens).logp
    (grad,) = torch.autograd.grad(logp.sum(), hidden, create_graph=True)
    with pytest.raises(JsaragError, match="no second derivative"):
        torch.autograd.grad(grad.sum(), hidden)


def refuse_values(hidden, weight, targets, cu_seqlens):
    with pytest.raises(ShapeError, match=r"targets\[2\] expected 0 to 14.*found 15"):
        ops.passage_logp(hidden, weight, targets.index_fill(0, torch.tensor(2), 15), cu_seqlens)
    with pytest.raises(ShapeError, match=r"targets\[0\] expected"):
        ops.passage_logp(hidden, weight, targets.index_fill(0, torch.tensor(0), -1), cu_seqlens)
    for wrong in ([0, 9], [1, 10], [0, 6, 5, 10], [0, 11]):
        with pytest.raises(ShapeError, match="cu_seqlens expected ascending"):
            ops.passage_logp(hidden, weight, targets, torch.tensor(wrong))


def test_wrong_arguments_are_refused_by_name(backend):
    hidden, weight, targets, cu_seqlens, bias = make(13, 10, 4, 15, 2)
    given = (hidden, weight, targets, cu_seqlens)
    if backend != "cuda":  # there nobody waits to see values
        refuse_values(*given)
    with pytest.raises(ShapeError, match="weight expected shape"):
        ops.passage_logp(hidden, weight[:, 1:], targets, cu_seqlens)
    with pytest.raises(ShapeError, match="at least one word"):
        ops.passage_logp(hidden, weight[:0], targets, cu_seqlens)
    with pytest.raises(ShapeError, match="bias expected shape"):
        ops.passage_logp(*given, bias=bias[1:])
    with pytest.raises(DtypeError, match="weight expected float32"):
        ops.passage_logp(hidden, weight.bfloat16(), targets, cu_seqlens)
    with pytest.raises(DtypeError, match="targets expected"):
        ops.passage_logp(hidden, weight, targets.float(), cu_seqlens)
    with pytest.raises(JsaragError, match="softcap expected a positive finite number or None"):
        ops.passage_logp(*given, softcap=0.0)
    with pytest.raises(JsaragError, match="logit_scale expected a finite"):
        ops.passage_logp(*given, logit_scale=INF)


EVERY_ISA = """
import torch
from jsarag import ops
from jsarag.ops.reference.passage_logp import passage_logp as reference

torch.manual_seed(0)
for dtype, tolerance in ((torch.float32, 3e-6), (torch.bfloat16, 1e-2)):
    for tokens, width, vocabulary in ((50, 33, 481), (97, 49, 1000), (5, 700, 12)):
        hidden = torch.randn(tokens, width).to(dtype).requires_grad_()
        weight = (torch.randn(vocabulary, width) / width**0.5 * 2).to(dtype).requires_grad_()
        bias = torch.randn(vocabulary).to(dtype)
        bias[vocabulary // 2] = -float("inf")
        bias.requires_grad_()
        targets = torch.randint(0, vocabulary // 2, (tokens,))
        cu_seqlens = torch.tensor([0, tokens // 3, tokens])
        leaves = hidden, weight, bias
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        for softcap in (None, 3.0):
            got = ops.passage_logp(*leaves[:2], targets, cu_seqlens, bias=bias, softcap=softcap)
            want = reference(*exact[:2], targets, cu_seqlens, bias=exact[2], softcap=softcap)
            torch.testing.assert_close(got.logp.double(), want.logp, rtol=1e-6, atol=1e-4)
            ours = torch.autograd.grad(got.logp.sum(), leaves)
            truth = torch.autograd.grad(want.logp.sum(), exact)
            for one, right in zip(ours, truth):
                error = (one.double() - right).abs().max()
                assert error <= tolerance * (1 + right.abs().max()), (dtype, width, error)
print("fine")
"""


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_kernel
@pytest.mark.slow
@pytest.mark.parametrize("isa", native.cpu_features())
def test_every_instruction_set(isa):
    # The allocator fills fresh memory with junk, so that padding nobody wrote is noticed.
    done = run_python(EVERY_ISA, JSARAG_CPU_ISA=isa, JSARAG_BACKEND="auto", MALLOC_PERTURB_="171")
    assert done.stdout.strip() == "fine", done.stderr


MEMORY = """
import resource
import torch
from jsarag import ops

tokens, width, vocabulary = 3000, 8, 60_000
hidden = torch.randn(tokens, width, requires_grad=True)
weight = torch.randn(vocabulary, width, requires_grad=True)
targets = torch.randint(0, vocabulary, (tokens,))
small = ops.passage_logp(hidden[:2], weight[:9], targets[:2] % 9, torch.tensor([0, 2])).logp
torch.autograd.grad(small.sum(), (hidden, weight))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
logp = ops.passage_logp(hidden, weight, targets, torch.tensor([0, tokens])).logp
torch.autograd.grad(logp.sum(), (hidden, weight))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@needs_kernel
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units there")
def test_the_logits_are_never_stored():
    done = run_python(MEMORY, JSARAG_BACKEND="cpu")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3000 * 60_000 * 4 / 10
