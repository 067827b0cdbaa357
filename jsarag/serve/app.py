"""The web application: its routes. Searching is ``engine.py``'s, state is ``server.py``'s."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ValidationError

from jsarag._version import __version__
from jsarag.errors import ConfigError
from jsarag.index.interfaces import Encoder, SearchIndex
from jsarag.ops import MAX_K
from jsarag.serve.batching import Done
from jsarag.serve.compat import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    RetrieveRequest,
    embeddings_response,
    retrieve_response,
)
from jsarag.serve.engine import Answer, Passages, SearchEngine
from jsarag.serve.metrics import MeteredApp, ServerMetrics, metrics_available
from jsarag.serve.page import CONTENT_SECURITY_POLICY, docs_page, query_page
from jsarag.serve.problems import install_handlers, problem
from jsarag.serve.schemas import Problem, ReloadResponse, SearchRequest, SearchResponse
from jsarag.serve.security import RELOAD_PATH, Gate, read_api_key
from jsarag.serve.server import Limits, Reload, Server

_PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_COMPATIBLE = ("search-r1",)
# Passages of an answer that is written in less time than a thread takes to start.
_SMALL = 50


def create_app(
    index: SearchIndex,
    encoder: Encoder,
    kb: Passages,
    name: str,
    *,
    api_key: str | None = None,
    limits: Limits | None = None,
    compat: Sequence[str] = (),
    admin_key: str | None = None,
    reload: Reload | None = None,
    hosts: Sequence[str] = (),
) -> FastAPI:
    """The search application over one index.

    Args:
        index: opened, and checked against its passage encoder.
        encoder: the query encoder (the prior).
        kb: passages by row: the knowledge base, or the index folder's ``PassageStore``.
        name: what the index is called in answers.
        api_key: bearer key; None takes ``JSARAG_API_KEY`` if that is set.
        limits: None takes the defaults.
        compat: other servers whose routes are offered, too: 'search-r1'.
        admin_key: opens ``POST /v1/index/reload``, which is not there without one.
        reload: opens the index anew.
        hosts: names under which this server is reached besides addresses and ``localhost``; others
            are refused where no key is asked for.

    Raises:
        IndexStaleError, DataError: encoder, index and passages do not fit together.
        ConfigError: the limits contradict each other, the key is blank, or ``compat`` is unknown.
    """
    for name_ in compat:
        if name_ not in _COMPATIBLE:
            raise ConfigError(
                f"--compat: expected one of {', '.join(_COMPATIBLE)}, found '{name_}'"
            )
    limits = limits or Limits()
    if limits.max_k > MAX_K:
        raise ConfigError(f"--k {limits.max_k}: expected at most {MAX_K}, the most a search finds")
    if limits.queue_capacity < limits.max_queries:
        raise ConfigError(
            f"serve limits: queue_capacity ({limits.queue_capacity}) is below max_queries "
            f"({limits.max_queries}), so a full request could never be taken; raise it"
        )
    api_key = read_api_key(os.environ) if api_key is None else api_key
    server = Server(SearchEngine(index, encoder, kb), name, limits, reload)
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
    if "search-r1" in compat:
        _add_search_r1(app, server, metrics)
    if reload is not None and admin_key is not None:
        _add_reload(app, server)
    _add_probes(app, server)
    _add_pages(app, server)
    app.add_middleware(
        Gate,
        api_key=api_key,
        admin_key=admin_key,
        max_body_bytes=limits.max_body_bytes,
        hosts=hosts,
    )
    if metrics is not None:
        _add_metrics(app, metrics)
    return app


def _add_search(app: FastAPI, server: Server, metrics: ServerMetrics | None) -> None:
    @app.post(
        "/v1/search", responses={200: _said("passages", SearchResponse), **_refusals(*_REFUSALS)}
    )
    async def search(request: SearchRequest) -> JSONResponse:
        """The k best passages for each query."""
        return await answered(request)

    @app.get(
        "/v1/search",
        responses={200: _said("passages", SearchResponse), **_refusals(401, 413, 422, 429, 503)},
    )
    async def search_one(
        q: Annotated[str, Query(description="the query")],
        k: Annotated[int, Query(ge=1, description="passages")] = 10,
    ) -> JSONResponse:
        """The same for one query, from a browser's address line."""
        try:
            request = SearchRequest(queries=q, k=k, return_text=True)
        except ValidationError as error:
            raise RequestValidationError(
                [{**item, "loc": ("query", "q")} for item in error.errors(include_input=False)]
            ) from error
        return await answered(request)

    async def answered(request: SearchRequest) -> JSONResponse:
        started = time.perf_counter()
        done = await server.answer(request.texts, request.k)
        _count(metrics, len(done))

        def response() -> JSONResponse:
            return JSONResponse(
                {
                    "index": server.index_info(done[0].result.engine.index.generation),
                    "results": [_hits(item.result, request.return_text) for item in done],
                    "timings_ms": _timings(done, time.perf_counter() - started),
                }
            )

        return await _rendered(response, len(done) * request.k)

    @app.post(
        "/v1/embeddings",
        responses={200: _said("embeddings", EmbeddingsResponse), **_refusals(*_REFUSALS)},
    )
    async def embeddings(request: EmbeddingsRequest) -> JSONResponse:
        """The query encoder's vectors, in OpenAI's shape."""
        done = await server.answer(request.texts, 0)
        _count(metrics, len(done))
        model = str(server.engine.index.spec.get("model", server.name))
        vectors = [item.result.embedding for item in done]
        return await _rendered(
            lambda: JSONResponse(embeddings_response(vectors, request, model)), len(done)
        )

    @app.get("/info", responses={200: _said("facts"), **_refusals(401)})
    async def info() -> JSONResponse:
        """What this server searches: index, encoder, limits."""
        return JSONResponse(server.info())


def _add_search_r1(app: FastAPI, server: Server, metrics: ServerMetrics | None) -> None:
    @app.post("/retrieve", responses=_refusals(*_REFUSALS))
    async def retrieve(request: RetrieveRequest) -> JSONResponse:
        """The search, in Search-R1's shape."""
        done = await server.answer(request.queries, request.k)
        _count(metrics, len(done))
        hits = [item.result.hits for item in done]
        return await _rendered(
            lambda: JSONResponse(retrieve_response(hits, request)), len(done) * request.k
        )


def _add_reload(app: FastAPI, server: Server) -> None:
    @app.post(
        RELOAD_PATH,
        responses={
            200: _said("the new index is in use", ReloadResponse),
            **_refusals(401, 409, 500),
        },
    )
    async def reload() -> JSONResponse:
        """Open the index again and swap it in; asks for the admin key."""
        return JSONResponse(await server.reload())


def _add_probes(app: FastAPI, server: Server) -> None:
    @app.get("/health", responses={200: _said("always")})
    async def health() -> JSONResponse:
        """The process is alive; never asks for the key."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", responses={200: _said("it is ready"), **_refusals(503)})
    async def ready() -> JSONResponse:
        """Index and encoder are loaded and a warm-up query was answered."""
        if server.warm and server.damage is None:
            return JSONResponse({"status": "ready"})
        reason = server.failure or server.damage or "warming up"
        return problem(503, reason, {"Retry-After": "1"})


def _add_pages(app: FastAPI, server: Server) -> None:
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

    pages = {"/", "/docs", "/metrics", "/openapi.json"}
    known = frozenset({*pages, *app.openapi()["paths"]})
    app.add_middleware(MeteredApp, metrics=metrics, paths=known)


_EXPLAINED = {
    400: "the body is no JSON",
    401: "the key is missing or wrong",
    409: "a reload is running already",
    413: "too many queries or passages, or a query that is too long",
    415: "the header 'Content-Type: application/json' is missing",
    422: "a field is missing, unknown or out of range",
    429: "the queue is full; Retry-After says when to come back",
    500: "it cannot be opened; the old one stays in use",
    503: "starting, shutting down, the encoder failed, or the passages were damaged",
}


_REFUSALS = (400, 401, 413, 415, 422, 429, 503)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _said(_EXPLAINED[status], Problem) for status in statuses}


def _said(description: str, model: type[BaseModel] | None = None) -> dict[str, Any]:
    """An answer's entry in the OpenAPI document."""
    return {"description": description} | ({} if model is None else {"model": model})


async def _rendered(make: Callable[[], JSONResponse], parts: int) -> JSONResponse:
    """A response; a large one is written by a thread, so that others are answered meanwhile."""
    return make() if parts <= _SMALL else await asyncio.to_thread(make)


def _hits(answer: Answer, with_text: bool) -> list[dict[str, Any]]:
    rows = [asdict(hit) for hit in answer.hits]
    if not with_text:
        for row in rows:
            del row["text"]
    return rows


def _timings(done: Sequence[Done[Answer]], total_s: float) -> dict[str, float]:
    batches = {item.result.timing for item in done}
    return {
        "queue": _ms(min(item.waited_s for item in done)),
        "encode": _ms(sum(timing.encode_s for timing in batches)),
        "search": _ms(sum(timing.search_s for timing in batches)),
        "total": _ms(total_s),
    }


def _count(metrics: ServerMetrics | None, queries: int) -> None:
    if metrics is not None:
        metrics.queries.inc(queries)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
