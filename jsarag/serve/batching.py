"""Collects queries of concurrent requests into batches for one worker thread.

No timer: while a batch runs, what arrives queues up and becomes the next batch, so a lone query
never waits for company. Nor for a crowd: requests share every batch, each in its own order, so one
of a thousand queries delays another of one query by a batch. What a batch computes is the caller's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from jsarag.errors import JsaragError

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(JsaragError):
    """The queue is full; ``retry_after_s`` says when it should have room."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{waiting} queries are waiting and the queue is full; retry in {retry_after_s} s"
        )


class NotRunningError(JsaragError):
    """The batcher was not started, or is shutting down."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """One item's result and how long it waited for its batch to start."""

    result: Result
    waited_s: float


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Done[Result]]
    # All jobs of the same submission, this one included.
    submission: list[_Job[Item, Result]] = field(default_factory=list, repr=False)
    queued_at: float = field(default_factory=time.perf_counter)


class MicroBatcher(Generic[Item, Result]):
    """A bounded queue in front of one worker thread.

    Args:
        process: maps a batch to as many results, in order; runs in the worker thread.
        max_batch: items per call of ``process``; larger submissions are split.
        capacity: items that may wait; a submission beyond it is refused whole.
    """

    def __init__(
        self,
        process: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int,
        capacity: int,
    ) -> None:
        self._process = process
        self._max_batch = max_batch
        self._capacity = capacity
        # A request each, in the order of their turns; none is empty.
        self._queue: deque[deque[_Job[Item, Result]]] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="jsarag-search")
        self._worker: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._last_batch_s = 0.0

    @property
    def waiting(self) -> int:
        """Items that wait for a batch."""
        return sum(map(len, self._queue))

    def start(self) -> None:
        """Start the worker in the running event loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def submit(self, items: Sequence[Item]) -> list[Done[Result]]:
        """Process items, together with whatever else waits.

        Raises:
            OverloadedError: they do not fit into the queue.
            NotRunningError: not started, or closing.
            BaseException: what ``process`` raised for a batch that held one of them.
        """
        if self._worker is None or self._closing:
            raise NotRunningError("the server is starting or shutting down; retry elsewhere")
        if self.waiting + len(items) > self._capacity:
            batches = math.ceil((self.waiting + 1) / self._max_batch)
            raise OverloadedError(self.waiting, max(1, math.ceil(batches * self._last_batch_s)))
        loop = asyncio.get_running_loop()
        jobs: list[_Job[Item, Result]] = []
        jobs.extend(_Job(item, loop.create_future(), jobs) for item in items)
        if jobs:
            self._queue.append(deque(jobs))
        self._wake.set()
        try:
            return list(await asyncio.gather(*(job.future for job in jobs)))
        except asyncio.CancelledError:
            # Whoever asked has left: what waits is not worth computing, and its room is free.
            for job in jobs:
                job.future.cancel()
            self._forget_done()
            raise

    async def close(self) -> None:
        """Refuse new items, finish those that wait, and stop the worker."""
        self._closing = True
        self._wake.set()
        if self._worker is not None:
            await self._worker
        self._executor.shutdown()

    async def _work(self) -> None:
        while True:
            batch = self._take()
            if batch:
                await self._run(batch)
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _take(self) -> list[_Job[Item, Result]]:
        batch: list[_Job[Item, Result]] = []
        while self._queue and len(batch) < self._max_batch:
            # An equal share of the room for each request that waits; who had one goes to the end.
            share = max((self._max_batch - len(batch)) // len(self._queue), 1)
            request = self._queue.popleft()
            batch += [request.popleft() for _ in range(min(share, len(request)))]
            if request:
                self._queue.append(request)
        return [job for job in batch if not job.future.done()]

    def _forget_done(self) -> None:
        left = (deque(job for job in jobs if not job.future.done()) for jobs in self._queue)
        self._queue = deque(jobs for jobs in left if jobs)

    async def _run(self, batch: list[_Job[Item, Result]]) -> None:
        started = time.perf_counter()
        running = asyncio.get_running_loop().run_in_executor(
            self._executor, self._process, [job.item for job in batch]
        )
        await asyncio.wait({running})
        self._last_batch_s = time.perf_counter() - started
        error = running.exception()
        if error is not None:
            self._fail(batch, error)
            return
        for job, result in zip(batch, running.result(), strict=True):
            if not job.future.done():
                job.future.set_result(Done(result, started - job.queued_at))

    def _fail(self, batch: list[_Job[Item, Result]], error: BaseException) -> None:
        """Fail every submission with an item in the batch; the rest of each is not computed."""
        for job in (sibling for member in batch for sibling in member.submission):
            if not job.future.done():
                job.future.set_exception(error)
        self._forget_done()
