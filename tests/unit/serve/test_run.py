"""A real server in a process of its own: it listens, answers, and ends in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jsarag.errors import ConfigError
from jsarag.serve.run import open_socket, url_of

SERVER = """
import sys
sys.path.insert(0, {here!r})
from serve_parts import LetterEncoder, PlainIndex, TEXTS, embed_letters
from jsarag.serve.app import create_app
from jsarag.serve.run import serve
from jsarag.types import Passage

passages = [Passage(f"p{{row}}", text) for row, text in enumerate(TEXTS)]
app = create_app(PlainIndex(embed_letters(TEXTS)), LetterEncoder(slow_s=0.6), passages, "tiny")
serve(app, port=0, on_listening=lambda url: print(url, flush=True))
print("ended in order", flush=True)
"""


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = {key: value for key, value in os.environ.items() if key != "JSARAG_API_KEY"}
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(here=here)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_ready(url: str) -> None:
    for _ in range(200):
        if httpx.get(f"{url}ready").status_code == 200:
            return
        time.sleep(0.02)
    raise AssertionError("never ready")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_a_signal_drains_then_ends(
    server: tuple[subprocess.Popen[str], str], number: signal.Signals, code: int
) -> None:
    process, url = server
    wait_ready(url)
    answers: list[httpx.Response] = []
    # Made and connected before: making one takes as long as a query where the machine is busy.
    clients = [httpx.Client(base_url=url, timeout=60) for _ in range(3)]
    for client in clients:
        client.get("/health")

    def ask(client: httpx.Client) -> None:
        answers.append(client.post("/v1/search", json={"queries": "slow question", "k": 1}))
        client.close()

    asked = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in asked:
        thread.start()
    time.sleep(0.3)  # the first is being computed, the others wait
    process.send_signal(number)
    for thread in asked:
        thread.join()
    output, log = process.communicate(timeout=60)
    assert [answer.status_code for answer in answers] == [200] * 3
    if number == signal.SIGTERM:
        assert process.returncode == code
        assert output == "ended in order\n"
        assert log == ""
    else:
        assert "KeyboardInterrupt" in log
        assert output == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}health")


def test_a_taken_port_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match=r"--port .*cannot listen"),
    ):
        open_socket("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(("host", "port"), [("no such host", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_is_none_is_named(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=r"--host|0 to 65535"):
        open_socket(host, port)


def test_the_url_can_be_opened() -> None:
    with open_socket("127.0.0.1", 0) as listener:
        assert url_of(listener, "127.0.0.1") == f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert url_of(listener, "::1").startswith("http://[::1]:")
