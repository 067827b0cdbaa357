"""The web application: routes, limits and life cycle. Searching is ``engine.py``'s."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from jsarag._version import __version__
from jsarag.errors import ConfigError
from jsarag.index.interfaces import Encoder
from jsarag.serve.batching import Done, MicroBatcher, NotRunningError
from jsarag.serve.engine import Answer, Passages, Query, SearchEngine, SearchIndex
from jsarag.serve.metrics import MeteredApp, ServerMetrics, metrics_available
from jsarag.serve.page import CONTENT_SECURITY_POLICY, docs_page, query_page
from jsarag.serve.problems import install_handlers, problem
from jsarag.serve.schemas import Problem, SearchRequest, SearchResponse
from jsarag.serve.security import Gate, read_api_key

_PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one server takes on.

    max_batch: queries encoded together. max_queries: per request. queue_capacity: queries that may
    wait over all requests, at least ``max_queries``. max_query_chars: per query. max_k: passages
    per query. max_body_bytes: per request.
    """

    max_batch: int = 32
    max_queries: int = 1024
    queue_capacity: int = 4096
    max_query_chars: int = 20_000
    max_k: int = 1000
    max_body_bytes: int = 8 << 20


class _Server:
    """State of one application: the engine, the queue in front of it, and whether it is warm."""

    def __init__(self, engine: SearchEngine, name: str, limits: Limits) -> None:
        self.engine, self.name, self.limits = engine, name, limits
        self.batcher = MicroBatcher[Query, Answer](
            engine.answer, max_batch=limits.max_batch, capacity=limits.queue_capacity
        )
        self.warm = False
        self.failure: str | None = None

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
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
        index = self.engine.index
        return {
            "name": self.name,
            "generation": index.generation,
            "count": len(index),
            "width": index.width,
            "encoder": index.spec,
            "limits": asdict(self.limits),
            "version": __version__,
        }

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        started = time.perf_counter()
        texts = request.texts
        self._check_size(texts, request.k)
        if self.failure is not None:
            raise NotRunningError(self.failure)
        done = await self.batcher.submit([Query(text, request.k) for text in texts])
        batches = {answer.result.timing for answer in done}
        return {
            "index": {"name": self.name, "generation": self.engine.index.generation},
            "results": [_hits(item.result, request.return_text) for item in done],
            "timings_ms": {
                "queue": _ms(min(item.waited_s for item in done)),
                "encode": _ms(sum(timing.encode_s for timing in batches)),
                "search": _ms(sum(timing.search_s for timing in batches)),
                "total": _ms(time.perf_counter() - started),
            },
        }

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


def create_app(
    index: SearchIndex,
    encoder: Encoder,
    kb: Passages,
    name: str,
    *,
    api_key: str | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The search application over one index.

    Args:
        index: opened, and checked against its passage encoder.
        encoder: the query encoder (the prior).
        kb: passages by row: the knowledge base, or the index folder's ``PassageStore``.
        name: what the index is called in answers.
        api_key: bearer key; None takes ``JSARAG_API_KEY`` if that is set.
        limits: None takes the defaults.

    Raises:
        IndexStaleError, DataError: encoder, index and passages do not fit together.
        ConfigError: the limits contradict each other, or the key is blank.
    """
    limits = limits or Limits()
    if limits.queue_capacity < limits.max_queries:
        raise ConfigError(
            f"serve limits: queue_capacity ({limits.queue_capacity}) is below max_queries "
            f"({limits.max_queries}), so a full request could never be taken; raise it"
        )
    api_key = read_api_key(os.environ) if api_key is None else api_key
    server = _Server(SearchEngine(index, encoder, kb), name, limits)
    app = FastAPI(
        title=f"jsarag: {name}",
        version=__version__,
        lifespan=server.lifespan,
        # The framework's own pages load scripts from a content network; ours do not.
        docs_url=None,
        redoc_url=None,
        # Newer FastAPI records spans and can export them when the environment says so.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.api_key = api_key
    install_handlers(app)
    metrics = ServerMetrics(lambda: server.batcher.waiting) if metrics_available() else None
    _add_search(app, server, metrics)
    _add_probes(app, server)
    _add_pages(app, server)
    app.add_middleware(Gate, api_key=api_key, max_body_bytes=limits.max_body_bytes)
    if metrics is not None:
        _add_metrics(app, metrics)
    return app


def _add_search(app: FastAPI, server: _Server, metrics: ServerMetrics | None) -> None:
    @app.post(
        "/v1/search", responses={200: _said("passages", SearchResponse), **_refusals(*_REFUSALS)}
    )
    async def search(request: SearchRequest) -> JSONResponse:
        """The k best passages for each query."""
        response = await server.search(request)
        if metrics is not None:
            metrics.queries.inc(len(request.texts))
        return JSONResponse(response)

    @app.get("/info", responses={200: _said("facts"), **_refusals(401)})
    async def info() -> JSONResponse:
        """What this server searches: index, encoder, limits."""
        return JSONResponse(server.info())


def _add_probes(app: FastAPI, server: _Server) -> None:
    @app.get("/health", responses={200: _said("always")})
    async def health() -> JSONResponse:
        """The process is alive; never asks for the key."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", responses={200: _said("it is ready"), **_refusals(503)})
    async def ready() -> JSONResponse:
        """Index and encoder are loaded and a warm-up query was answered."""
        if server.warm:
            return JSONResponse({"status": "ready"})
        return problem(503, server.failure or "warming up", {"Retry-After": "1"})


def _add_pages(app: FastAPI, server: _Server) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(query_page(server.name), headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(server.name, app.openapi()), headers=_PAGE_HEADERS)


def _add_metrics(app: FastAPI, metrics: ServerMetrics) -> None:
    @app.get("/metrics", include_in_schema=False)
    async def expose() -> Response:
        content, media_type = metrics.render()
        return Response(content, media_type=media_type)

    known = {"/", "/docs", "/health", "/info", "/metrics", "/openapi.json", "/ready", "/v1/search"}
    app.add_middleware(MeteredApp, metrics=metrics, paths=frozenset(known))


_REFUSALS = {
    400: "the body is no JSON",
    401: "the key is missing or wrong",
    413: "too many queries, or one that is too long",
    422: "a field is missing, unknown or out of range",
    429: "the queue is full; Retry-After says when to come back",
    503: "starting, shutting down, or the encoder failed",
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _said(_REFUSALS[status], Problem) for status in statuses}


def _said(description: str, model: type[BaseModel] | None = None) -> dict[str, Any]:
    """An answer's entry in the OpenAPI document."""
    return {"description": description} | ({} if model is None else {"model": model})


def _hits(answer: Answer, with_text: bool) -> list[dict[str, Any]]:
    rows = [asdict(hit) for hit in answer.hits]
    if not with_text:
        for row in rows:
            del row["text"]
    return rows


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
