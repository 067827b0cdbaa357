"""Fetching from a server on this machine: whole, continued, verified, refused."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.fetch import RECORD, fetch, verify
from jsarag.errors import BackendUnavailableError, ConfigError, DataError

CONTENT = bytes(range(256)) * 5000


class Server(http.server.ThreadingHTTPServer):
    """Serves one content; can break off, ignore ranges, or change."""

    content = CONTENT
    break_after: int | None = None
    ranges = True
    asked: list[str | None]
    url: str


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path != "/data.json":
            self.send_error(404)
            return
        content, start = self.server.content, 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if self.server.break_after is not None:
            rest = rest[: self.server.break_after]
        self.wfile.write(rest)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        running.url = f"http://127.0.0.1:{running.server_port}/data.json"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "official"


def parts(target: Path) -> list[Path]:
    return sorted(target.glob("*.part"))


def test_a_first_fetch_records_the_digest(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    found = fetch(
        "wow", target, server.url, progress=lambda have, total: seen.append((have, total))
    )
    assert found.path == target / "data.json"
    assert found.path.read_bytes() == CONTENT
    assert (found.downloaded, found.first) == (True, True)
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    recorded = json.loads((target / RECORD).read_text())
    assert recorded == {
        "data.json": {"bytes": len(CONTENT), "sha256": found.sha256, "url": server.url}
    }
    assert parts(target) == []


def test_an_interrupted_fetch_goes_on(server: Server, target: Path) -> None:
    server.break_after = 100_000
    with pytest.raises(BackendUnavailableError, match="goes on from there"):
        fetch("wow", target, server.url)
    (part,) = parts(target)
    assert part.stat().st_size == 100_000
    assert not (target / "data.json").exists()
    server.break_after = None
    assert fetch("wow", target, server.url).path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_without_ranges_sends_all_again(server: Server, target: Path) -> None:
    server.break_after = 100_000
    with pytest.raises(BackendUnavailableError):
        fetch("wow", target, server.url)
    server.break_after, server.ranges = None, False
    assert fetch("wow", target, server.url).path.read_bytes() == CONTENT


def test_a_part_that_is_already_whole(server: Server, target: Path) -> None:
    fetch("wow", target, server.url)
    server.break_after = 10
    (target / "data.json").unlink()
    with pytest.raises(BackendUnavailableError):
        fetch("wow", target, server.url)
    parts(target)[0].write_bytes(CONTENT)
    assert fetch("wow", target, server.url).path.read_bytes() == CONTENT
    parts_of_another = target / "data.json.part"
    parts_of_another.write_bytes(b"x" * 10)  # never mixed in
    (target / "data.json").unlink()
    server.break_after = None
    assert fetch("wow", target, server.url).path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, target: Path) -> None:
    server.break_after = 10
    with pytest.raises(BackendUnavailableError):
        fetch("wow", target, server.url)
    parts(target)[0].write_bytes(CONTENT + b"more")
    server.break_after = None
    assert fetch("wow", target, server.url).path.read_bytes() == CONTENT


def test_a_second_fetch_verifies_without_asking(server: Server, target: Path) -> None:
    fetch("wow", target, server.url)
    again = fetch("wow", target, server.url)
    assert (again.downloaded, again.first) == (False, False)
    assert len(server.asked) == 1
    assert verify(target) == []


def test_a_changed_file_is_noticed(server: Server, target: Path) -> None:
    fetch("wow", target, server.url)
    (target / "data.json").write_bytes(b"y" + CONTENT[1:])
    with pytest.raises(DataError, match=r"expected sha256 .* remove the file and fetch it again"):
        fetch("wow", target, server.url)
    assert len(verify(target)) == 1
    (target / "data.json").unlink()
    assert "missing" in verify(target)[0]


def test_a_changed_server_is_noticed(server: Server, target: Path) -> None:
    fetch("wow", target, server.url)
    (target / "data.json").unlink()
    server.content = CONTENT + b"!"
    with pytest.raises(DataError, match="it was changed or cut"):
        fetch("wow", target, server.url)
    assert not (target / "data.json").exists()
    assert parts(target) == []


def test_a_file_brought_by_the_user_is_recorded(server: Server, target: Path) -> None:
    target.mkdir()
    (target / "data.json").write_bytes(b"mine")
    found = fetch("wow", target, server.url)
    assert (found.downloaded, found.first) == (False, True)
    assert server.asked == []
    (target / "data.json").write_bytes(b"other")
    with pytest.raises(DataError, match="expected 4 bytes, found 5"):
        fetch("wow", target, server.url)


def test_without_an_address_the_files_are_named(target: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected --url.*valid_topic_split\.json") as caught:
        fetch("wow", target)
    assert str(target) in str(caught.value)
    assert not target.exists()


def test_without_a_network_the_files_are_named(target: Path) -> None:
    # A closed port on this machine: refused at once.
    with pytest.raises(BackendUnavailableError, match=r"cannot be fetched.*train\.json") as caught:
        fetch("wow", target, "http://127.0.0.1:9/wow.json", timeout_s=2)
    assert str(target) in str(caught.value)
    assert caught.value.exit_code == 4


def test_the_servers_errors(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match="the server answered 404"):
        fetch("wow", target, server.url.replace("data.json", "other.json"))


@pytest.mark.parametrize("url", ["ftp://host/x", "train.json", "http://host/", "http://host/.."])
def test_addresses_of_no_file(url: str, target: Path) -> None:
    with pytest.raises(ConfigError, match="address of a file"):
        fetch("wow", target, url)


def test_unknown_names(target: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'squad'"):
        fetch("sqad", target, "http://127.0.0.1:9/x")


def test_local_addresses_names_and_secrets(target: Path, tmp_path: Path, server: Server) -> None:
    source = tmp_path / "some file.json"
    source.write_bytes(CONTENT)
    assert fetch("wow", target, source.as_uri()).path == target / "some file.json"
    signed = server.url.replace("http://", "http://me:secret@") + "?token=secret"
    with pytest.raises((BackendUnavailableError, DataError)):
        fetch("wow", target, signed)
    named = fetch("wow", target, server.url + "#x", file_name="train.json")
    assert named.path == target / "train.json"
    (target / "data.json").write_bytes(CONTENT)
    fetch("wow", target, signed)
    assert "secret" not in (target / RECORD).read_text()


def test_a_damaged_record_is_named(server: Server, target: Path) -> None:
    target.mkdir()
    (target / RECORD).write_text('{"data.json": 3}')
    with pytest.raises(DataError, match="record of earlier fetches"):
        fetch("wow", target, server.url)
