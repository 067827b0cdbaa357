"""What only a GPU can show: streams, graphs, no hidden waiting, the same bits again.

Never run where no GPU is (``pytest -m gpu``, ``scripts/gpu_check``).
"""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch

from jsarag import ops
from jsarag.backends import native

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
OPS = (
    *("scan-float32", "scan-bfloat16", "scan-float16", "scan-int8", "scan-many", "certified"),
    *("draw", "log_partition", "mis_chain", "row_errors", "passage_logp", "passage_logp-backward"),
)


def make(name: str, seed: int = 0, device: str = "cuda"):
    """(the inputs that a replay may change, a function of them that gives a tuple of tensors)."""
    torch.manual_seed(seed)
    batch, rows, width = (200 if name == "scan-many" else 9), 3000, 64
    queries, exact = torch.randn(batch, width), torch.randn(rows, width)
    if name.startswith(("scan", "certified", "draw", "log_partition", "row_errors")):
        dtype = name.partition("-")[2]
        if dtype == "int8" or name in ("certified", "row_errors"):
            passages, scales = ops.quantise_rows(exact)
            scales = scales.to(device)
        else:
            passages, scales = exact.to(getattr(torch, dtype, torch.bfloat16)), None
        passages, exact = passages.to(device), exact.to(device)
        queries = queries.to(device)
        if name == "certified":
            errors = ops.row_errors(passages, exact, scales=scales)

            def certified(queries):
                return ops.scan(
                    queries,
                    passages,
                    7,
                    1.0,
                    scales=scales,
                    certify=True,
                    exact_passages=exact,
                    row_errors=errors,
                )[:2]

            return (queries,), certified
        if name == "row_errors":
            return (passages,), lambda passages: ops.row_errors(passages, exact, scales=scales)
        if name == "draw":
            lse = ops.scan(queries, passages, 1, 0.3, tile_lse=True).tile_lse
            uniforms = torch.rand(batch, 5, dtype=torch.float64, device=device)
            return (uniforms,), lambda uniforms: ops.draw(queries, passages, 0.3, lse, uniforms)
        if name == "log_partition":

            def gradient(queries):
                leaf = queries.detach().requires_grad_()
                value = ops.log_partition(leaf, passages, 0.3)
                return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

            return (queries,), gradient
        exclude = torch.randint(-1, rows, (batch, 2), device=device)
        return (queries,), lambda queries: ops.scan(
            queries, passages, 7, 0.3, scales=scales, exclude=exclude, tile_lse=True
        )
    if name == "mis_chain":
        weight = torch.randn(50, 70, device=device)
        uniforms = torch.rand(50, 70, dtype=torch.float64, device=device)
        return (weight, uniforms), lambda w, u: ops.mis_chain(w, None, u)
    hidden = torch.randn(300, 128, dtype=torch.bfloat16, device=device)
    weight = torch.randn(1000, 128, dtype=torch.bfloat16, device=device)
    targets = torch.randint(0, 1000, (300,), device=device)
    bounds = torch.tensor([0, 100, 300], device=device)
    if name == "passage_logp":
        return (hidden,), lambda hidden: ops.passage_logp(hidden, weight, targets, bounds)

    def backward(hidden):
        leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        logp = ops.passage_logp(*leaves, targets, bounds).logp
        return torch.autograd.grad(logp.sum(), leaves)

    return (hidden,), backward


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if a is not None)


@contextlib.contextmanager
def waiting_is_an_error():
    """Inside, whatever makes torch wait for the GPU raises."""
    try:
        with warnings.catch_warnings():
            # torch says once that this is a prototype, after it has switched the mode.
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_every_op_has_its_kernel():
    wanted = {"scan", "draw", "log_partition", "mis_chain", "passage_logp"}
    assert wanted <= native.native_ops("cuda")


@pytest.mark.parametrize("name", OPS)
def test_nothing_waits_for_the_gpu(name):
    inputs, call = make(name)
    call(*inputs)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        call(*inputs)


@pytest.mark.parametrize("name", OPS)
def test_the_same_bits_again(name):
    inputs, call = make(name)
    first = call(*inputs)
    for _ in range(3):
        assert same(first, call(*inputs))


@pytest.mark.parametrize("name", OPS)
def test_a_side_stream_is_kept_to(name):
    inputs, call = make(name)
    want = call(*inputs)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    changed = [torch.empty_like(tensor) for tensor in inputs]
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        # Inputs that only this stream has: work on any other would read what is not there yet.
        torch.cuda._sleep(20_000_000)
        for tensor, value in zip(changed, inputs, strict=True):
            tensor.copy_(value)
        found = call(*changed)
    side.synchronize()
    assert same(want, found)


@pytest.mark.parametrize("name", OPS)
def test_graph_capture_and_replay(name):
    inputs, call = make(name)
    fixed = [tensor.clone() for tensor in inputs]
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(2):
            call(*fixed)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(*fixed)
    other, _ = make(name, seed=1)
    for values in (inputs, other):
        for tensor, value in zip(fixed, values, strict=True):
            tensor.copy_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert same(call(*values), captured)


def test_chains_make_the_same_moves_as_on_the_cpu():
    inputs, call = make("mis_chain")
    found = call(*inputs)
    want = ops.mis_chain(inputs[0].cpu(), None, inputs[1].cpu())
    assert torch.equal(found.state.cpu(), want.state)
    assert torch.equal(found.accepted.cpu(), want.accepted)
    torch.testing.assert_close(found.recycled.cpu(), want.recycled)


def test_draws_are_those_of_the_cpu_but_at_boundaries():
    torch.manual_seed(3)
    queries, passages = torch.randn(64, 48), torch.randn(20_000, 48)
    uniforms = torch.rand(64, 64, dtype=torch.float64)
    drawn = []
    for device in ("cpu", "cuda"):
        q, p, u = (tensor.to(device) for tensor in (queries, passages, uniforms))
        lse = ops.scan(q, p, 1, 0.5, tile_lse=True).tile_lse
        drawn.append(ops.draw(q, p, 0.5, lse, u).ids.cpu())
    # A uniform within f32 rounding of a boundary may fall on either side of it.
    assert float((drawn[0] != drawn[1]).double().mean()) < 2e-3


@pytest.mark.filterwarnings("ignore")  # what torch's profiler says about itself
def test_one_launch_runs_all_chains():
    inputs, call = make("mis_chain")
    call(*inputs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call(*inputs)
        torch.cuda.synchronize()
    launched = [event for event in profile.events() if "mis_chain_kernel" in event.name]
    assert len(launched) == 1


def test_logits_are_never_stored():
    tokens, width, words = 4096, 256, 60_000
    hidden = torch.randn(tokens, width, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    weight = torch.randn(words, width, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    targets = torch.randint(0, words, (tokens,), device="cuda")
    bounds = torch.tensor([0, tokens], device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logp = ops.passage_logp(hidden, weight, targets, bounds).logp
    grads = torch.autograd.grad(logp.sum(), (hidden, weight))
    own = sum(grad.numel() * grad.element_size() for grad in grads)
    peak = torch.cuda.max_memory_allocated() - before - own
    assert peak < tokens * words * 2 / 10


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
@pytest.mark.parametrize("name", OPS)
def test_tensors_of_another_device_than_the_current(name: str):
    inputs, call = make(name, device="cuda:0")
    want = call(*inputs)
    moved, call = make(name, device="cuda:1")
    assert torch.cuda.current_device() == 0
    assert same([part.cpu() for part in want], [part.cpu() for part in call(*moved)])


def test_a_target_that_is_no_word_gives_nan():
    hidden, weight = torch.randn(5, 16, device="cuda"), torch.randn(30, 16, device="cuda")
    targets = torch.tensor([3, 30, 4, -7, 5], device="cuda")
    found = ops.passage_logp(hidden, weight, targets, torch.arange(6, device="cuda"))
    assert found.logp.isnan().tolist() == [False, True, False, True, False]
