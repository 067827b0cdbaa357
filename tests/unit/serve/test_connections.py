"""Slow, silent and too many clients: each is dropped in time, and the others are answered."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from jsarag.errors import BackendUnavailableError
from jsarag.serve.connections import RateLimit, find_room

SERVER = """
import resource, sys
sys.path.insert(0, {here!r})
from fastapi.responses import Response
from serve_parts import LetterEncoder, PlainIndex, TEXTS, embed_letters
from jsarag.serve.app import create_app
from jsarag.serve.connections import ConnectionLimits
from jsarag.serve.run import serve
from jsarag.types import Passage

passages = [Passage(f"p{{row}}", text) for row, text in enumerate(TEXTS)]
app = create_app(PlainIndex(embed_letters(TEXTS)), LetterEncoder(slow_s=1.5), passages, "tiny")
app.add_api_route("/big", lambda: Response(bytes(64 << 20)))
files = {files}
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
limits = ConnectionLimits({limits})
serve(app, port=0, limits=limits, on_listening=lambda url: print(url, flush=True))
"""


@contextmanager
def serving(limits: str, files: int = 0) -> Iterator[tuple[str, Callable[[], str]]]:
    """A server's URL, and a function that ends it and returns its log."""
    environment = {key: value for key, value in os.environ.items() if key != "JSARAG_API_KEY"}
    code = SERVER.format(here=str(Path(__file__).parent), limits=limits, files=files)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None

    def end() -> str:
        process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=60)[1]

    try:
        url = process.stdout.readline().strip()
        for _ in range(200):
            if httpx.get(f"{url}ready").status_code == 200:
                break
            time.sleep(0.02)
        yield url, end
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A hasty server with room for eight."""
    with serving("header_s=1.0, body_s=1.0, send_s=1.0, connections=8") as (address, _):
        yield address


def connect(url: str) -> socket.socket:
    parts = urllib.parse.urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def read_all(client: socket.socket) -> bytes:
    """Whatever comes until the server closes."""
    content = b""
    try:
        while piece := client.recv(65536):
            content += piece
    except ConnectionResetError:
        pass
    return content


HEADER = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "waited_for"),
    [
        (b"", "header"),
        (b"GET /health HTTP/1.1\r\nHo", "header"),
        (HEADER + b'Content-Length: 99\r\n\r\n{"queries"', "body"),
        (HEADER + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "body"),
    ],
)
def test_a_slow_request_ends_with_408(url: str, sent: bytes, waited_for: str) -> None:
    with connect(url) as client:
        started = time.monotonic()
        client.sendall(sent)
        answer = read_all(client)
        assert time.monotonic() - started < 6
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert f"the request's {waited_for} took too long".encode() in answer


def test_dripping_does_not_help(url: str) -> None:
    with connect(url) as client:
        started = time.monotonic()
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            for byte in (HEADER * 10)[:200]:
                client.sendall(bytes([byte]))
                time.sleep(0.1)
        assert time.monotonic() - started < 6


def test_who_does_not_read_the_answer_is_dropped(url: str) -> None:
    with connect(url) as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(4)
        assert len(read_all(client)) < 64 << 20


def test_a_connection_may_be_used_again(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        for _ in range(3):
            assert client.get("/health").status_code == 200
            time.sleep(0.5)


def test_silent_connections_make_room(url: str) -> None:
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connect(url))
        assert httpx.get(f"{url}health", timeout=20).status_code == 200


def test_where_all_are_served_another_is_told(url: str) -> None:
    answers: list[int] = []

    def ask() -> None:
        body = {"queries": "slow question", "k": 1}
        answers.append(httpx.post(f"{url}v1/search", json=body, timeout=60).status_code)

    asked = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asked:
        thread.start()
    time.sleep(0.8)  # all eight have been read
    refused = httpx.get(f"{url}health", timeout=20)
    for thread in asked:
        thread.join()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error_type"] == "unavailable"
    assert answers == [200] * 8


def test_with_few_file_handles_left_health_is_answered_and_the_log_is_short() -> None:
    with serving("", files=90) as (url, end), ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(url))
        assert httpx.get(f"{url}health", timeout=20).status_code == 200
        log = end()
    assert "Traceback" not in log
    assert len(log.splitlines()) < 20, log


def test_a_limit_that_leaves_no_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    open_now = len(os.listdir("/proc/self/fd"))
    for files, ends in ((open_now + 20, False), (open_now + 100, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        if ends:
            room = find_room()
            assert room.connections + room.backlog < 100
            continue
        with pytest.raises(BackendUnavailableError, match=r"open files \(\d+\) leaves room for 0"):
            find_room()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_loading_ends_in_quiet(number: signal.Signals, code: int) -> None:
    script = (
        "import time\nfrom jsarag.serve.run import ending_while_loading\n"
        "with ending_while_loading():\n    print('loading', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", "warning: stopped while loading\n")


def test_a_message_is_logged_five_times_a_minute() -> None:
    now = 0.0
    limit = RateLimit(lambda: now)

    def passes(text: str, *values: int) -> str | None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, text, values, None)
        return record.getMessage() if limit.filter(record) else None

    assert [passes("lost %d", number) for number in range(5)] == [f"lost {n}" for n in range(5)]
    assert [passes("lost %d", number) for number in range(1000)] == [None] * 1000
    assert passes("another") == "another"
    now = 61.0
    assert passes("lost %d", 7) == "lost 7 (1000 more like this were left out)"
    assert passes("lost %d", 8) == "lost 8"
