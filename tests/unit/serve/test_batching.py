"""Order, batching, back pressure, cancellation and draining of the queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from jsarag.serve.batching import MicroBatcher, NotRunningError, OverloadedError


class Doubler:
    """Doubles numbers in batches it remembers; waits for ``gate``; refuses 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.gate.wait(20)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


async def entered(doubler: Doubler) -> None:
    assert await asyncio.to_thread(doubler.entered.wait, 20)


def results(done: object) -> list[int]:
    assert isinstance(done, list)
    return [item.result for item in done]


def test_what_waits_becomes_one_batch_in_order_and_is_split_at_the_limit() -> None:
    doubler = Doubler()

    async def session() -> None:
        batcher = MicroBatcher[int, int](doubler, max_batch=3, capacity=100)
        batcher.start()
        doubler.gate.clear()
        first = asyncio.create_task(batcher.submit([0]))
        await entered(doubler)
        second = asyncio.create_task(batcher.submit([1, 2]))
        third = asyncio.create_task(batcher.submit([3, 4, 5]))
        await asyncio.sleep(0.02)
        assert batcher.waiting == 5
        doubler.gate.set()
        assert results(await first) == [0]
        assert results(await second) == [2, 4]
        assert results(await third) == [6, 8, 10]
        await batcher.close()

    asyncio.run(session())
    assert doubler.batches == [[0], [1, 3, 2], [4, 5]], "requests share a batch"


def test_a_crowd_delays_a_lone_query_by_no_more_than_a_batch() -> None:
    doubler = Doubler()

    async def session() -> None:
        batcher = MicroBatcher[int, int](doubler, max_batch=8, capacity=1000)
        batcher.start()
        doubler.gate.clear()
        crowd = asyncio.create_task(batcher.submit(list(range(100, 300))))
        await entered(doubler)
        alone = asyncio.create_task(batcher.submit([1]))
        pair = asyncio.create_task(batcher.submit([2, 3]))
        await asyncio.sleep(0.02)
        doubler.gate.set()
        assert results(await alone) == [2]
        assert results(await pair) == [4, 6]
        assert results(await crowd) == [2 * item for item in range(100, 300)]
        await batcher.close()

    asyncio.run(session())
    assert doubler.batches[0] == list(range(100, 108))
    assert {1, 2, 3} <= set(doubler.batches[1])
    assert all(len(batch) == 8 for batch in doubler.batches[1:-1]), "no room is left empty"


def test_an_error_reaches_its_batch_only_and_the_worker_lives_on() -> None:
    doubler = Doubler()

    async def session() -> None:
        batcher = MicroBatcher[int, int](doubler, max_batch=2, capacity=100)
        batcher.start()
        with pytest.raises(ValueError, match="13"):
            await batcher.submit([13, 1, 2, 3])
        assert results(await batcher.submit([5])) == [10]
        await batcher.close()

    asyncio.run(session())
    # The rest of the failed request was not computed.
    assert doubler.batches == [[13, 1], [5]]


def test_overload_is_refused_whole_and_says_when() -> None:
    doubler = Doubler()

    async def session() -> None:
        batcher = MicroBatcher[int, int](doubler, max_batch=2, capacity=3)
        batcher.start()
        doubler.gate.clear()
        first = asyncio.create_task(batcher.submit([0]))
        await entered(doubler)
        second = asyncio.create_task(batcher.submit([1, 2]))
        await asyncio.sleep(0.02)
        with pytest.raises(OverloadedError) as refused:
            await batcher.submit([3, 4])
        assert refused.value.retry_after_s >= 1
        assert batcher.waiting == 2
        doubler.gate.set()
        await asyncio.gather(first, second)
        await batcher.close()

    asyncio.run(session())


def test_a_client_that_left_is_not_computed_and_makes_room() -> None:
    doubler = Doubler()

    async def session() -> None:
        batcher = MicroBatcher[int, int](doubler, max_batch=2, capacity=2)
        batcher.start()
        doubler.gate.clear()
        first = asyncio.create_task(batcher.submit([0]))
        await entered(doubler)
        gone = asyncio.create_task(batcher.submit([1, 2]))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        later = asyncio.create_task(batcher.submit([3, 4]))
        await asyncio.sleep(0.02)
        doubler.gate.set()
        await first
        assert results(await later) == [6, 8]
        await batcher.close()

    asyncio.run(session())
    assert doubler.batches == [[0], [3, 4]]


def test_closing_finishes_what_waits_and_refuses_the_rest() -> None:
    doubler = Doubler()

    async def session() -> None:
        batcher = MicroBatcher[int, int](doubler, max_batch=1, capacity=9)
        with pytest.raises(NotRunningError):
            await batcher.submit([1])
        batcher.start()
        doubler.gate.clear()
        accepted = asyncio.create_task(batcher.submit([1, 2]))
        await entered(doubler)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.02)
        with pytest.raises(NotRunningError):
            await batcher.submit([3])
        doubler.gate.set()
        await closing
        assert results(await accepted) == [2, 4]

    asyncio.run(session())
