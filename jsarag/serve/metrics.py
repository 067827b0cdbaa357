"""Prometheus metrics of one server; absent where ``prometheus-client`` is not installed."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def metrics_available() -> bool:
    """True where ``prometheus-client`` is installed."""
    return find_spec("prometheus_client") is not None


class ServerMetrics:
    """Requests, their seconds, queries and the queue, in a registry of this server's own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry: CollectorRegistry = CollectorRegistry()
        self.requests = Counter(
            "jsarag_requests", "HTTP requests", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "jsarag_request_seconds", "Seconds per request", ["path"], registry=self.registry
        )
        self.queries = Counter("jsarag_queries", "Queries searched", registry=self.registry)
        self.waiting = Gauge(
            "jsarag_queue_waiting", "Queries that wait for a batch", registry=self.registry
        )
        self.waiting.set_function(waiting)

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class MeteredApp:
    """ASGI middleware that counts and times requests.

    Args:
        app: what is measured.
        metrics: where to.
        paths: paths named in labels; all others are "other", so that clients cannot grow the set.
    """

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
