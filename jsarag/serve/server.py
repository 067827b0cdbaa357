"""One server's state: the engine, the queue in front of it, whether it is warm, and reloading.

Knows nothing of HTTP but the errors a request may end with; routes are ``app.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from starlette.exceptions import HTTPException

from jsarag._version import __version__
from jsarag.errors import JsaragError
from jsarag.serve.batching import Done, MicroBatcher, NotRunningError
from jsarag.serve.engine import Answer, Query, SearchEngine

_logger = logging.getLogger("uvicorn.error")

Reload = Callable[[], SearchEngine]
"""Opens the index anew, blocking; the engine it returns has been checked."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one server takes on.

    max_batch: queries encoded together. max_queries: per request. queue_capacity: queries that may
    wait over all requests, at least ``max_queries``. max_query_chars: per query. max_k: passages
    per query. max_hits: passages per request, over all its queries. max_body_bytes: per request.
    """

    max_batch: int = 32
    max_queries: int = 1024
    queue_capacity: int = 4096
    max_query_chars: int = 20_000
    max_k: int = 1000
    max_hits: int = 20_000
    max_body_bytes: int = 8 << 20


class Server:
    """Answers queries through one queue and one worker thread.

    Args:
        engine: what searches; replaced as a whole by :meth:`reload`.
        name: what the index is called in answers.
        limits: how much is taken on.
        reload: opens the index anew; None where that is not offered.
    """

    def __init__(
        self, engine: SearchEngine, name: str, limits: Limits, reload: Reload | None = None
    ) -> None:
        self.engine, self.name, self.limits = engine, name, limits
        self._reload, self._reloading = reload, asyncio.Lock()
        self.batcher = MicroBatcher[Query, Answer](
            # The engine of the moment, so that a batch is computed by one engine from end to end.
            lambda queries: self.engine.answer(queries),
            max_batch=limits.max_batch,
            capacity=limits.queue_capacity,
        )
        self.warm = False
        self.failure: str | None = None
        # What was found damaged in the present index; other passages are still served.
        self.damage: str | None = None

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Warm up while the first requests already queue; drain the queue at the end."""
        self.batcher.start()
        warm_up = asyncio.create_task(self.batcher.submit([Query("warm-up", 1)]))
        warm_up.add_done_callback(self._note_warm_up)
        yield
        await self.batcher.close()

    def _note_warm_up(self, task: asyncio.Task[list[Done[Answer]]]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        self.warm = error is None
        if error is not None:
            self.failure = f"the warm-up query failed: {type(error).__name__}: {error}"

    def info(self) -> dict[str, Any]:
        """What is searched, with what, and how much at once; JSON types."""
        index = self.engine.index
        return {
            **self.index_info(index.generation),
            "count": len(index),
            "width": index.width,
            "encoder": index.spec,
            "limits": asdict(self.limits),
            "version": __version__,
        }

    def index_info(self, generation: int) -> dict[str, Any]:
        """Which index answered."""
        return {"name": self.name, "generation": generation}

    async def answer(self, texts: Sequence[str], k: int) -> list[Done[Answer]]:
        """Answer queries in order; ``k`` 0 asks for embeddings alone.

        Raises:
            HTTPException: too many, too long, or k above the limit; 503 where a passage cannot be
                read because the store was damaged.
            OverloadedError, NotRunningError: see :class:`MicroBatcher`.
        """
        self._check_size(texts, k)
        if self.failure is not None:
            raise NotRunningError(self.failure)
        queries = [Query(text, k) for text in texts]
        done = await self.batcher.submit(queries)
        while len({id(item.result.engine) for item in done}) > 1:
            # A reload fell between the batches of this request: two indexes must not be mixed.
            done = await self.batcher.submit(queries)
        for item in done:
            if item.result.damage is not None:
                raise self._damaged(item.result.engine, item.result.damage)
        return done

    def _damaged(self, engine: SearchEngine, error: JsaragError) -> HTTPException:
        """The answer to who asked for a damaged passage; names the store, the log its path."""
        _logger.error("%s", error)
        store = getattr(engine.passages, "path", None)
        what = f"index '{self.name}': its passages{'' if store is None else f' ({store.name})'} "
        message = f"{what}were damaged while they were served; the server's log says more"
        if engine is self.engine:
            self.damage = message
        return HTTPException(503, message)

    async def reload(self) -> dict[str, Any]:
        """Open the index beside the one in use, try it, and swap; the old one stays on failure.

        Raises:
            HTTPException: 409 while another reload runs; 500 where the new index cannot be opened
                or does not fit its encoder.
        """
        if self._reload is None or self._reloading.locked():
            raise HTTPException(409, "a reload is running already; wait for it")
        async with self._reloading:
            started = time.perf_counter()
            before = self.engine.index.generation
            try:
                self.engine = await asyncio.to_thread(self._opened)
            except (JsaragError, OSError, MemoryError) as error:
                _logger.error("reload failed, the old index stays in use: %s", error)
                raise HTTPException(500, f"the old index stays in use: {error}") from error
            self.failure, self.damage, self.warm = None, None, True
            return {
                "index": self.index_info(self.engine.index.generation),
                "previous_generation": before,
                "seconds": round(time.perf_counter() - started, 3),
            }

    def _opened(self) -> SearchEngine:
        assert self._reload is not None
        engine = self._reload()
        engine.answer([Query("warm-up", 1)])
        return engine

    def _check_size(self, texts: Sequence[str], k: int) -> None:
        limits = self.limits
        if len(texts) > limits.max_queries:
            raise HTTPException(
                413, f"{len(texts)} queries; a request may hold {limits.max_queries}: send several"
            )
        longest = max(map(len, texts))
        if longest > limits.max_query_chars:
            raise HTTPException(
                413, f"a query of {longest:,} characters; {limits.max_query_chars:,} are allowed"
            )
        if k > limits.max_k:
            raise HTTPException(422, f"k: expected at most {limits.max_k}, found {k}")
        if len(texts) * k > limits.max_hits:
            raise HTTPException(
                413,
                f"{len(texts)} queries for {k} passages each; a request may ask for "
                f"{limits.max_hits:,} passages: send several, or lower k",
            )
