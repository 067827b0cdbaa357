"""Threads: results that do not depend on their number, and calls from several of them at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor

from jsarag import ops
from jsarag.backends import native

pytestmark = pytest.mark.skipif(bool(native.MISSING), reason=native.MISSING or "compiled")

# 18,000 passages are 36 tiles and more than two of the parts that log_partition's gradient adds up.
BATCH, COUNT, WIDTH = 9, 18_000, 10


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("JSARAG_BACKEND", "cpu")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def search_inputs(kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """queries, passages, scales and exclude."""
    queries, rows = torch.randn(BATCH, WIDTH), torch.randn(COUNT, WIDTH)
    rows[COUNT // 2 :] = rows[: COUNT // 2].clone()  # equal scores, far apart
    exclude = torch.randint(0, COUNT, (BATCH, 50))
    if kind == torch.int8:
        return queries, *ops.quantise_rows(rows), exclude
    return queries, rows.to(kind), None, exclude


# Each of these draws its numbers and returns a call that may be made again, from any thread.
Results = list[Tensor]


def scan(kind: torch.dtype) -> Callable[[], Results]:
    queries, passages, scales, exclude = search_inputs(kind)
    return lambda: list(
        ops.scan(queries, passages, 700, 2.0, scales=scales, exclude=exclude, tile_lse=True)
    )


def certified_scan(kind: torch.dtype) -> Callable[[], Results]:
    queries, exact, _, exclude = search_inputs(torch.float32)
    passages, scales = exact.to(kind), None
    if kind == torch.int8:
        passages, scales = ops.quantise_rows(exact)
    return lambda: list(
        ops.scan(
            queries,
            passages,
            20,
            2.0,
            scales=scales,
            exclude=exclude,
            tile_lse=True,
            certify=True,
            exact_passages=exact,
        )
    )


def draw(kind: torch.dtype) -> Callable[[], Results]:
    queries, passages, scales, exclude = search_inputs(kind)
    options = {"scales": scales, "exclude": exclude}
    mass = ops.scan(queries, passages, 1, 0.5, tile_lse=True, **options).tile_lse
    uniforms = torch.rand(BATCH, 64, dtype=torch.float64)
    return lambda: list(ops.draw(queries, passages, 0.5, mass, uniforms, **options))


def log_partition(kind: torch.dtype) -> Callable[[], Results]:
    queries, passages, scales, exclude = search_inputs(kind)

    def call() -> Results:
        leaf = queries.clone().requires_grad_()
        total = ops.log_partition(leaf, passages, 0.5, scales=scales, exclude=exclude)
        return [total.detach(), *torch.autograd.grad(total.sum(), leaf)]

    return call


def mis_chain(kind: torch.dtype) -> Callable[[], Results]:
    weights, start = torch.randn(600, 90), torch.randn(600)
    uniforms = torch.rand(600, 90, dtype=torch.float64).to(kind)
    return lambda: list(ops.mis_chain(weights, start, uniforms))


def passage_logp(kind: torch.dtype) -> Callable[[], Results]:
    given = [torch.randn(200, 20), torch.randn(1500, 20), torch.randn(1500)]
    targets, bounds = torch.randint(0, 1500, (200,)), torch.tensor([0, 70, 70, 200])

    def call() -> Results:
        leaves = [tensor.to(kind, copy=True).requires_grad_() for tensor in given]
        got = ops.passage_logp(*leaves[:2], targets, bounds, bias=leaves[2])
        return [got.logp.detach(), got.tokens, *torch.autograd.grad(got.logp.sum(), leaves)]

    return call


PASSAGES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
CALLS = [
    *((op, kind) for op in (scan, draw, log_partition) for kind in PASSAGES),
    *((certified_scan, kind) for kind in (torch.bfloat16, torch.int8)),
    *((mis_chain, kind) for kind in (torch.float32, torch.float64)),
    *((passage_logp, kind) for kind in (torch.float32, torch.bfloat16)),
]
Op = Callable[[torch.dtype], Callable[[], Results]]


def name(value: object) -> str:
    return getattr(value, "__name__", str(value).removeprefix("torch."))


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("op", "kind"), CALLS, ids=name)
def test_the_number_of_threads_changes_no_bit(op: Op, kind: torch.dtype) -> None:
    torch.manual_seed(3)
    call, results = op(kind), []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(call())
    assert all(not tensor.isnan().any() for tensor in results[0])
    assert all(equal(results[0], other) for other in results[1:])


def at_once(works: list[Callable[[], None]]) -> None:
    """Run each in a thread of its own, started together; what one raises is raised here."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        torch.set_num_threads(2)
        barrier.wait()
        work()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            running = [pool.submit(run, work) for work in works]
    finally:
        sys.setswitchinterval(before)
    for future in running:
        future.result()


def test_calls_from_several_threads_at_once() -> None:
    torch.manual_seed(4)
    calls = [op(kind) for op, kind in CALLS]
    wanted = [call() for call in calls]
    got: list[list[Results]] = [[] for _ in calls]

    def work(number: int) -> None:
        for _ in range(3):
            got[number].append(calls[number]())

    at_once([partial(work, number) for number in range(len(calls))])
    for (op, kind), results, right in zip(CALLS, got, wanted, strict=True):
        assert len(results) == 3
        assert all(equal(result, right) for result in results), (name(op), kind)


def test_row_errors_are_remembered_from_several_threads_at_once() -> None:
    # Each call brings new passages, so every thread adds to and clears the same memory.
    exact = [torch.randn(6, 4) for _ in range(8)]
    queries = torch.randn(2, 4)
    wanted = [ops.scan(queries, rows, 3, 1.0) for rows in exact]

    def work() -> None:
        for _ in range(40):
            for rows, right in zip(exact, wanted, strict=True):
                got = ops.scan(
                    queries,
                    rows.to(torch.bfloat16),
                    3,
                    1.0,
                    certify=True,
                    exact_passages=rows.clone(),
                    threads=1,
                )
                assert torch.equal(got.ids, right.ids)

    at_once([work] * 4)


FORK = """
import os
import torch
from jsarag import ops

queries, passages = torch.randn(4, 8), torch.randn(5000, 8)
before = ops.scan(queries, passages, 9, 1.0, threads=3)
child = os.fork()
after = ops.scan(queries, passages, 9, 1.0, threads=3)
same = all(torch.equal(a, b) for a, b in zip(before[:2], after[:2]))
if child == 0:
    os._exit(0 if same else 1)
assert same
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("fine")
"""


def test_a_forked_process_has_a_pool_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "fine", done.stderr
