"""Listen, serve, and end in order: SIGTERM answers what was accepted, then returns."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from jsarag.errors import ConfigError
from jsarag.serve.connections import ConnectionLimits, RateLimit, find_room, limited_protocol
from jsarag.serve.security import check_bind

_DRAIN_S = 30


def serve(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    insecure: bool = False,
    log_level: str = "warning",
    on_listening: Callable[[str], None] | None = None,
    limits: ConnectionLimits | None = None,
) -> None:
    """Serve an application until SIGTERM or SIGINT.

    After SIGTERM the call returns; after SIGINT it raises KeyboardInterrupt. Either way, requests
    already accepted are answered first (for at most 30 s).

    Args:
        app: of :func:`jsarag.serve.app.create_app`.
        host: address to listen on.
        port: 0 picks a free one.
        insecure: allow a public address without a key.
        log_level: uvicorn's, to stderr.
        on_listening: called with the URL once connections are queued by the system.
        limits: how long clients may take, and how many there may be; None takes the defaults.

    Raises:
        ConfigError: the address is public without a key, wrong, or taken.
        BackendUnavailableError: the system's limit on open files leaves no room for connections.
    """
    check_bind(host, app.state.api_key, insecure)
    limits = limits or ConnectionLimits()
    room = find_room(limits.connections)
    listener = open_socket(host, port)
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=False,  # uvicorn writes it to stdout, which is the result's
        server_header=False,
        http=limited_protocol(limits, room),
        ws="none",  # would leave the limits behind
        backlog=room.backlog,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(RateLimit())
    server = uvicorn.Server(config)
    if on_listening is not None:
        on_listening(url_of(listener, host))
    with _own_signals(server), listener:
        server.run(sockets=[listener])


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is unknown, forbidden or taken.
    """
    if not 0 <= port <= 65_535:  # the resolver would take it modulo 65536
        raise ConfigError(f"--port {port}: expected 0 to 65535, where 0 picks a free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another "
            "--port, or 0 for any free one"
        ) from error
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """The URL a browser on this machine can open."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def ending_while_loading() -> Iterator[None]:
    """Inside the block SIGTERM ends the process with 0 and SIGINT with 130, with one line each.

    At once, and not by an exception: libraries that are being imported or read weights would turn
    one into a traceback of their own. Nothing is accepted yet, so nothing is lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> None:
        os.write(2, b"warning: stopped while loading\n")
        os._exit(0 if number == signal.SIGTERM else 130)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_signals(server: uvicorn.Server) -> Iterator[None]:
    """Make SIGTERM end the call instead of the process, and SIGINT raise KeyboardInterrupt.

    uvicorn drains, restores the handlers it found, and raises the signal again; a handler of our
    own turns that into a normal return, so the exit code is 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        server.should_exit = True

    handlers = {signal.SIGTERM: stop, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
