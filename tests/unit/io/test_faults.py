"""What the system refuses, and what others did to our files, is named with path and fix: exit 4."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag.errors import CheckpointError, JsaragError, StorageError
from jsarag.io import atomic
from jsarag.io.faults import storage_error
from jsarag.io.lines import append_line, read_json_lines
from jsarag.io.records import read_json, read_record, write_record
from jsarag.io.tensors import load_tensors, save_tensors


def or_error(read: Callable[[], Any]) -> Any:
    """What was read, or what was said."""
    try:
        return read()
    except JsaragError as error:
        return str(error)


def fill_folder(path: Path) -> None:
    with atomic.write_folder(path) as folder:
        (folder / "a.txt").write_text("a")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: atomic.write_text(path, "text"),
    "json": lambda path: atomic.write_json(path, {"a": 1}),
    "rows": lambda path: atomic.write_jsonl(path, [{"a": 1}]),
    "record": lambda path: write_record(path, {"a": 1}),
    "tensors": lambda path: save_tensors(path, {"a": torch.ones(3)}),
    "line": lambda path: append_line(path, "a", durable=True),
    "folder": fill_folder,
}
FAULTS = {
    errno.ENOSPC: "No space left on device; free some space",
    errno.EDQUOT: "quota",
    errno.EFBIG: r"File too large; raise the limit on a file's size \(ulimit -f\)",
    errno.EROFS: "Read-only file system; choose a folder on a file system that can be written",
    errno.EACCES: "Permission denied; change its permissions",
    errno.EIO: "the disk reports errors",
}


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_the_system_refuses_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    target = tmp_path / "out"
    with pytest.raises(StorageError, match=f"{target}: .*{FAULTS[number]}") as found:
        WRITERS[writer](target)
    assert found.value.exit_code == 4
    if writer != "line":  # a log grows; everything else is there whole or not at all
        assert list(tmp_path.iterdir()) == []


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.replace_file(tmp_path / "a"):
        (tmp_path / "missing").read_text()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device"):
        append_line(tmp_path / "metrics.jsonl", "{}")


@pytest.mark.parametrize("what", ["tensors", "text"])
def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path, what: str) -> None:
    code = f"""
import resource, torch
from pathlib import Path
from jsarag.errors import StorageError
from jsarag.io.atomic import write_text
from jsarag.io.tensors import save_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
path = Path({str(tmp_path / "big")!r})
try:
    if {what!r} == "tensors":
        save_tensors(path, {{"a": torch.zeros(4096)}})
    else:
        write_text(path, "x" * 8192)
except StorageError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert f"{tmp_path / 'big'}: File too large; raise the limit" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_safetensors_library_are_understood() -> None:
    error = storage_error("a", RuntimeError("I/O error: No space left on device (os error 28)"))
    assert str(error).startswith("a: No space left on device; free some space")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the file is missing"),
        (b"", "expected JSON, found none"),
        (b"{", "expected JSON, found none"),
        (b"\xff{}", "expected UTF-8, found byte 0xff at position 0"),
        (b"[]", "expected a JSON object, found a list"),
        (b"null", "expected a JSON object, found null"),
        (b"3", "expected a JSON object, found a number"),
        (b"[" * 100_000, "expected JSON, found none"),
    ],
)
def test_a_bad_file_is_named_with_the_fix(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path}: {says}.*; do this") as found:
        read_json(path, fix="do this")
    assert found.value.exit_code == 4


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{tmp_path}: Is a directory; a folder stands where"):
        read_json(tmp_path, fix="do this")


def test_a_record_comes_back_and_notices_every_change(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"b": [1, 0.1 + 0.2, None, "é"], "a": {"x": 2**70}}
    write_record(path, value)
    assert read_record(path, fix="") == value
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert read_record(path, fix="") == value  # neither order nor white space is content
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found = or_error(lambda: read_record(path, fix="do this"))
        if isinstance(found, str):
            assert f"{path}: expected" in found
        else:  # only the name of the checksum itself may go: the content is there
            assert {key: found.get(key) for key in value} == value
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_record(path, fix="do this")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1}\n{]\n{"a": 2}\n', ":2: expected JSON"),
        (b'{"a": 1}\n[]\n', ":2: expected a JSON object"),
        (b'{"a": 1}\n\xff\n', ": expected UTF-8, found byte 0xff at position 9"),
    ],
)
def test_a_bad_line_of_a_log_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path}{says}.*remove"):
        read_json_lines(path)


def test_every_flipped_byte_of_a_tensor_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"rows": torch.arange(6).view(2, 3), "x": torch.randn(3).to(torch.bfloat16)}
    save_tensors(path, tensors)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found = or_error(lambda: load_tensors(path))
        if isinstance(found, str):
            assert str(path) in found
        else:  # only the name of the checksum itself may go: the content is there
            assert found.keys() == tensors.keys()
            assert all(found[name].equal(tensors[name]) for name in tensors)
