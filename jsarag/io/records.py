"""Small JSON files that something is opened or continued from: sealed when written, one reader.

A record holds a checksum of its own content, so that a flipped digit is an error and not another
number. Files of earlier versions have none and are read as they are; damage that leaves valid JSON
without the checksum has changed the checksum alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsarag.errors import CheckpointError
from jsarag.io.atomic import to_json, write_text
from jsarag.io.digests import text_digest
from jsarag.io.faults import storage_error

CHECKSUM = "checksum"


def read_text(path: Path | str, *, fix: str) -> str:
    """A text file's content.

    Args:
        path: the file.
        fix: what to do where it is missing or damaged, as the end of a sentence.

    Raises:
        CheckpointError: it is missing or no UTF-8.
        StorageError: the system does not give it.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing; {fix}") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise CheckpointError(
            f"{path}: expected UTF-8, found byte 0x{byte:02x} at position {error.start}; {fix}"
        ) from error
    except OSError as error:
        raise storage_error(path, error) from error


def read_json(path: Path | str, *, fix: str) -> dict[str, Any]:
    """A JSON file that holds one object; raises as :func:`read_text`, also for other content."""
    text = read_text(path, fix=fix)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, found none ({error}); {fix}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {_kind(content)}; {fix}")
    return content


def read_record(path: Path | str, *, fix: str) -> dict[str, Any]:
    """What :func:`write_record` wrote; raises as :func:`read_text`, also for a wrong checksum."""
    content = read_json(path, fix=fix)
    sealed = content.pop(CHECKSUM, None)
    if sealed is not None and sealed != seal_of(content):
        raise CheckpointError(
            f"{path}: expected content with the checksum {str(sealed)[:21]}..., found "
            f"{seal_of(content)[:21]}...: it was damaged or changed by hand; {fix}"
        )
    return content


def write_record(path: Path | str, value: Mapping[str, Any]) -> None:
    """Replace ``path`` by an object as indented JSON with its own checksum, in one step.

    Args:
        path: the file.
        value: as for :func:`jsarag.io.atomic.to_json`; NaN becomes null.
    """
    plain = json.loads(to_json(value))
    write_text(path, to_json({**plain, CHECKSUM: seal_of(plain)}, indent=2) + "\n")


def without_seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's own content."""
    return {key: value for key, value in record.items() if key != CHECKSUM}


def seal_of(content: Mapping[str, Any]) -> str:
    """The checksum of JSON content; the order of keys and white space do not matter."""
    return text_digest(
        json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    )


def _kind(content: Any) -> str:
    names = {list: "a list", str: "text", type(None): "null", bool: "true or false"}
    return names.get(type(content), "a number")
