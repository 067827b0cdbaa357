"""How long a client may take, and how many may be connected: limits under the web server.

uvicorn bounds the time between two requests and nothing else: a client that sends a header letter
by letter, or never reads its answer, would hold its connection for good. What requests ask for is
limited above, by ``security.Gate`` and ``server.Limits``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from jsarag.errors import BackendUnavailableError
from jsarag.io.atomic import to_json
from jsarag.serve.problems import problem_body

# Handles for what else a process opens: an index that is reloaded, a log, a resolver.
_SPARE: Final = 24
_LEAST: Final = 4
_MOST: Final = 1000
_BACKLOG: Final = 128
_LINGER_S: Final = 1.0
_LOGGED: Final = 5
_PERIOD_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds a client may take, and how many may be connected.

    header_s: from connecting, or from the last answer, to a whole header. body_s: from there to a
    whole body. send_s: without reading on, while an answer waits to be sent. connections: at once;
    None takes as many as the system's limit on open files allows, at most 1,000.
    """

    header_s: float = 10.0
    body_s: float = 60.0
    send_s: float = 60.0
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections are kept, and how many more may be accepted in one go."""

    connections: int
    backlog: int


def find_room(wanted: int | None = None) -> Room:
    """The connections that the limit on open files leaves room for.

    Args:
        wanted: at most so many; None: 1,000.

    Raises:
        BackendUnavailableError: it leaves hardly any.
    """
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return Room(wanted or _MOST, _BACKLOG)
    free = allowed - len(os.listdir(_DESCRIPTORS)) - _SPARE
    # The event loop accepts a backlog at a time, some of them before it looks at the first one or
    # closes what was to make room.
    backlog = max(min(_BACKLOG, free // 8), 1)
    room = min(free - 4 * backlog, wanted or _MOST)
    if room < _LEAST:
        raise BackendUnavailableError(
            f"serving: the limit on open files ({allowed}) leaves room for {max(room, 0)} "
            f"connections, expected at least {_LEAST}; raise it (ulimit -n 1024)"
        )
    return Room(room, backlog)


_DESCRIPTORS: Final = Path("/proc/self/fd")


class LimitedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol of one connection, with deadlines, in a server with room for so many.

    A connection is waited for (for a header or a body), served, or sent to. Where there is no room
    for another one, the one waited for longest is closed; where all are served, the new one is
    answered 503.
    """

    limits: ConnectionLimits
    room: Room
    # Connections that are waited for, longest first; of this class, so of one server.
    waiting: dict[LimitedProtocol, None]
    # uvicorn's.
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    connections: set[asyncio.Protocol]
    logger: logging.Logger
    cycle: Any

    _refused = False
    _waits_for: str | None = None
    _deadline: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection, make room for it, or refuse it."""
        full = len(self.connections) >= self.room.connections
        super().connection_made(transport)
        if full:
            oldest = next(iter(self.waiting), None)
            if oldest is None:
                self.logger.warning("a connection was refused: all are being answered")
                self._answer(503, "too many connections; retry later", "Retry-After: 1")
                return
            self.logger.warning("a connection was closed that sent nothing: all are taken")
            oldest.stop_waiting()
            oldest.connections.discard(oldest)
            oldest.transport.abort()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.stop_waiting()
        self._stop_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; what came may complete a header or a body."""
        if not self._refused:
            super().data_received(data)
            self._follow()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        """The client does not read: give it some time."""
        super().pause_writing()
        self._stop_sending()
        self._sending = self.loop.call_later(self.limits.send_s, self._not_read)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._stop_sending()

    def stop_waiting(self) -> None:
        """Drop the deadline."""
        self._waits_for = None
        self.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _follow(self) -> None:
        """Set the deadline of what is waited for now; one that runs already goes on."""
        cycle = self.cycle
        if self._refused or self.transport.is_closing():
            wanted = None
        elif cycle is None or cycle.response_complete:
            wanted = "header"
        else:
            wanted = "body" if cycle.more_body else None
        if wanted == self._waits_for:
            return
        self.stop_waiting()
        if wanted is not None:
            limits = self.limits
            seconds = limits.header_s if wanted == "header" else limits.body_s
            self._waits_for, self.waiting[self] = wanted, None
            self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        waited_for = self._waits_for
        self.stop_waiting()
        if self.cycle is None or not self.cycle.response_started:
            self._answer(408, f"the request's {waited_for} took too long")
        else:
            self.transport.abort()

    def _not_read(self) -> None:
        self.logger.warning("a connection was closed: the client did not read its answer")
        self.transport.abort()

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _answer(self, status: int, message: str, *headers: str) -> None:
        """Write a response without the application, and close.

        Not at once: what the client sends meanwhile would be answered by a reset, and the response
        be lost.
        """
        body = to_json(problem_body(status, message)).encode()
        phrase = {408: "Request Timeout", 503: "Service Unavailable"}[status]
        lines = [
            f"HTTP/1.1 {status} {phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *headers,
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self._refused = True
        if len(self.connections) > self.room.connections + self.room.backlog // 2:
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)


def limited_protocol(limits: ConnectionLimits, room: Room) -> type[LimitedProtocol]:
    """The protocol class of one server."""
    return type("ServerProtocol", (LimitedProtocol,), _attributes(limits, room))


def _attributes(limits: ConnectionLimits, room: Room) -> dict[str, Any]:
    return {"limits": limits, "room": room, "waiting": {}}


class RateLimit(logging.Filter):
    """Lets a message through five times a minute, and says how many like it were left out.

    Args:
        clock: seconds; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[str, list[float]] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        kind = str(record.msg).partition("\n")[0][:200]
        now = self._clock()
        recent = [at for at in self._seen.get(kind, ()) if now - at < _PERIOD_S]
        if len(recent) >= _LOGGED:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._seen = {
            key: times for key, times in self._seen.items() if now - times[-1] < _PERIOD_S
        }
        self._seen[kind] = [*recent, now]
        left_out = self._left_out.pop(kind, 0)
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like this were left out)"
            record.args = ()
        return True
