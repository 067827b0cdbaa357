"""The kernels' thread pool: several callers at once, and a forked child."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch

from jsarag import ops
from jsarag.backends import native

pytestmark = pytest.mark.skipif(bool(native.MISSING), reason=native.MISSING or "compiled")


def scan():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(9, 32, generator=generator)
    passages = torch.randn(5000, 32, generator=generator)
    return ops.scan(queries, passages, 10, 1.0, tile_lse=True, threads=3)


def test_callers_at_once_get_what_each_gets_alone():
    alone = scan()
    found = []
    callers = [
        threading.Thread(target=lambda: found.extend(scan() for _ in range(5))) for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert len(found) == 30
    for other in found:
        assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_starts_threads_of_its_own():
    alone = scan()  # the parent's pool exists now
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(scan().ids.tolist()))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert queue.get() == alone.ids.tolist()
