"""Downloading one published file: resumable, its digest recorded at first and verified ever after.

The address is the user's to give: this package invents neither URLs nor digests. What the files
mean belongs to ``formats``.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsarag.data.formats import get_format
from jsarag.errors import BackendUnavailableError, ConfigError, DataError
from jsarag.io.atomic import write_json
from jsarag.io.digests import FileRecord

RECORD = "fetched.json"
# A published file may be exchanged on purpose, which a fast checksum would not notice.
_ALGORITHM = "sha256"
_BLOCK = 2**20
_SCHEMES = ("http", "https", "file")

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None where the server does not say)."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there and whole.

    Attributes:
        path: where it lies.
        bytes: its size.
        sha256: its digest.
        downloaded: False where an earlier fetch was found and verified instead.
        first: True where the digest was recorded now, so nothing vouches for it but this download.
    """

    path: Path
    bytes: int
    sha256: str
    downloaded: bool
    first: bool


def fetch(
    name: str,
    target: Path | str,
    url: str | None = None,
    *,
    file_name: str | None = None,
    progress: Progress | None = None,
    timeout_s: float = 30.0,
) -> Fetched:
    """Fetch one file of an official data set into ``target``.

    An interrupted download is continued where the server allows it. The first time, size and
    SHA-256 are written to ``target/fetched.json``; from then on the file must match them, whether
    it is found there or fetched again.

    Args:
        name: the data set, for advice on which files it needs.
        target: the folder to fetch into.
        url: where the file is; required.
        file_name: its name in the folder; default: the address's last part.
        progress: called as bytes arrive.
        timeout_s: of each network wait.

    Raises:
        ConfigError: no URL, or one that is no address of a file.
        BackendUnavailableError: no connection; says which files to put where instead.
        DataError: the file is not the one recorded, or the server's answer is an error.
    """
    format_, folder = get_format(name), Path(target).expanduser()
    if not url:
        raise ConfigError(
            f"fetch {name}: expected --url with the address of a file, got none; this package "
            f"ships no addresses. {format_.what_to_put(folder)}"
        )
    path = folder / (file_name or _name_in(url))
    recorded = _recorded(folder).get(path.name)
    if path.exists():
        return _found(path, recorded, url)
    folder.mkdir(parents=True, exist_ok=True)
    # Another address means another download: never continue one file with the bytes of another.
    part = path.with_name(f"{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    try:
        _download(url, part, progress, timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raise DataError(
                f"the server answered {error.code} ({error.reason}); check --url",
                path=_without_secrets(url),
            ) from error
    except (OSError, http.client.HTTPException) as error:
        raise BackendUnavailableError(
            f"{_without_secrets(url)}: cannot be fetched ({_reason(error)}); what has arrived is "
            "kept, so the same command goes on from there. Or bring the files yourself: "
            f"{format_.what_to_put(folder)}"
        ) from error
    record = FileRecord.of(part, _ALGORITHM)
    if recorded is not None and record != _file_record(recorded):
        part.unlink()
        raise DataError(
            f"the file at {_without_secrets(url)} has sha256 {record.digest[:12]}..., "
            f"{folder / RECORD} recorded {recorded['sha256'][:12]}...; it was changed or cut. "
            "Fetch again, or remove its entry if the new one is right",
            path=path,
        )
    part.rename(path)
    _record(folder, path.name, record, url)
    return Fetched(path, record.bytes, record.digest, downloaded=True, first=recorded is None)


def verify(target: Path | str) -> list[str]:
    """What is wrong with the files fetched into a folder; empty where all are as recorded."""
    folder = Path(target).expanduser()
    problems = (
        _file_record(entry).problem(folder / name) for name, entry in _recorded(folder).items()
    )
    return [problem for problem in problems if problem is not None]


def _found(path: Path, recorded: Mapping[str, Any] | None, url: str) -> Fetched:
    """A file that is there already: verified, or recorded as the user's own."""
    record = FileRecord.of(path, _ALGORITHM)
    if recorded is None:
        _record(path.parent, path.name, record, url)
    elif (problem := _file_record(recorded).problem(path)) is not None:
        raise DataError(
            f"{problem}, as {path.parent / RECORD} recorded it; remove the file and fetch it "
            "again, or remove its entry if the file is right",
            path=path,
        )
    return Fetched(path, record.bytes, record.digest, downloaded=False, first=recorded is None)


def _download(url: str, part: Path, progress: Progress | None, timeout_s: float) -> None:
    """Bring ``part`` to its full length, from where it is."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies beyond what we have
            raise
        error.close()
        if _total(error.headers) != have:
            part.unlink()
            _download(url, part, progress, timeout_s)
        return
    with answer:
        if have and getattr(answer, "status", None) != 206:
            have = 0  # the server sends it all again
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
    if total is not None and have != total:
        raise http.client.IncompleteRead(b"", total - have)


def _total(headers: Any) -> int | None:
    """The full length in ``Content-Range: bytes */123``."""
    end = str(headers.get("Content-Range", "")).rpartition("/")[2]
    return int(end) if end.isdigit() else None


def _name_in(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    name = urllib.parse.unquote(parts.path).rpartition("/")[2]
    if parts.scheme not in _SCHEMES or name in ("", ".", ".."):
        raise ConfigError(
            f"--url: expected the {', '.join(_SCHEMES)} address of a file, got "
            f"'{_without_secrets(url)}'; give the whole address"
        )
    return name


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for entry in found.values():
            _file_record(entry)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            "expected the record of earlier fetches; it was edited or damaged, remove it to start "
            "anew",
            path=path,
        ) from error
    return dict(found)


def _record(folder: Path, name: str, record: FileRecord, url: str) -> None:
    entry = {"bytes": record.bytes, "sha256": record.digest, "url": _without_secrets(url)}
    write_json(folder / RECORD, {**_recorded(folder), name: entry})


def _file_record(entry: Mapping[str, Any]) -> FileRecord:
    return FileRecord(int(entry["bytes"]), str(entry["sha256"]), _ALGORITHM)


def _without_secrets(url: str) -> str:
    """The address without user, password and query, where signed addresses carry their keys."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
