"""The only way files and folders are written: whole or not at all.

A folder is filled under a temporary sibling name, flushed to disk, marked ``COMPLETE`` and renamed
into place; a file is replaced by one rename. A crash leaves ``.tmp-jsarag-*`` entries that readers
never look at and the next write removes. What goes into the files is the callers' business.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jsarag.errors import CheckpointError
from jsarag.io.faults import named_faults

COMPLETE = "COMPLETE"
_TEMPORARY = ".tmp-jsarag-"
_OLD = ".old-jsarag-"
_counter = itertools.count()


def is_complete(path: Path | str) -> bool:
    """True where ``path`` is a folder whose writing finished."""
    return (Path(path) / COMPLETE).is_file()


@contextmanager
def write_folder(path: Path | str) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is whole.

    Args:
        path: where the folder shall appear. A complete or empty folder there is replaced (readers
            that have its files open or mapped keep them); anything else is refused.

    Yields:
        The temporary folder to fill. When the block raises, it goes and ``path`` is as before.

    Raises:
        CheckpointError: ``path`` holds something that was not written by this function.
        StorageError: the disk is full, the place cannot be written, or a limit is reached.
    """
    target = Path(os.path.realpath(path))
    with named_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(target)
        clean_leftovers(target.parent)
        _refuse_foreign(target)
        temporary, lock = _reserve(target, folder=True)
        try:
            yield temporary
            _seal(temporary)
            _swap(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)


@contextmanager
def replace_file(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name; it replaces ``path`` when the block ends well.

    Yields:
        The temporary file's path; writers may truncate or recreate it.

    Raises:
        StorageError: the disk is full, the place cannot be written, or a limit is reached.
    """
    target = Path(path)
    with named_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _reserve(target, folder=False)
        try:
            yield temporary
            _fsync(temporary)
            os.replace(temporary, target)
            _fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(lock)


def write_text(path: Path | str, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) in one step."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON; see :func:`to_json` for what is accepted."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_jsonl(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Replace ``path`` by one JSON object per line; returns the number of rows."""
    count = 0
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(to_json(row) + "\n")
            count += 1
    return count


def to_json(value: Any, *, indent: int | None = None, strict: bool = False) -> str:
    """``value`` as standard JSON text.

    Args:
        value: JSON types, and also paths, dataclasses, mappings, sequences, sets (sorted) and
            one-element tensors or numpy scalars.
        indent: spaces per level; None writes one line.
        strict: non-finite floats raise ValueError instead of becoming null. JSON has no NaN, and a
            result file that other tools refuse is worse than a visible null.
    """
    return json.dumps(_plain(value, strict), ensure_ascii=False, indent=indent, allow_nan=False)


def remove_folder(path: Path | str) -> None:
    """Remove a folder so that no moment shows it complete but half empty."""
    target = Path(path)
    if not target.exists():
        return
    doomed = target.with_name(f"{_TEMPORARY}{target.name}-{os.getpid()}-{next(_counter)}")
    os.rename(target, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Wait for and hold the lock that a file stands for; the file stays, empty.

    On a file system without locks nothing is held: what is written by the functions above is still
    whole, only done twice.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def recover_folder(path: Path | str) -> None:
    """Put back the previous folder if a crash struck between the two renames of a replacement."""
    target = Path(path)
    old = target.with_name(f"{_OLD}{target.name}")
    lock = _try_lock(old)
    if lock is None:
        return
    try:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, target)
    finally:
        os.close(lock)


def clean_leftovers(folder: Path | str) -> int:
    """Remove what crashed writes left in ``folder``; returns how many entries went.

    A write in progress, of this or another process, holds a lock on its temporary entry and is
    left alone.
    """
    removed = 0
    with suppress(FileNotFoundError):
        for entry in sorted(Path(folder).iterdir()):
            if not entry.name.startswith(_TEMPORARY):
                continue
            lock = _try_lock(entry)
            if lock is None:
                continue
            try:
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
                removed += 1
            finally:
                os.close(lock)
    return removed


def _plain(value: Any, strict: bool) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not strict and not math.isfinite(value):
            return None
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, strict) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [_plain(item, strict) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [_plain(item, strict) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), strict) for f in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(getattr(value, "tolist", None)):  # numpy and torch, without importing either
        return _plain(value.tolist(), strict)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _refuse_foreign(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target}: expected a folder, found a file; choose another path")
    if not is_complete(target) and any(target.iterdir()):
        raise CheckpointError(
            f"{target}: expected no folder, an empty one or one marked {COMPLETE}; it holds other "
            "files, which would be lost. Choose another path or move them away"
        )


def _reserve(target: Path, *, folder: bool) -> tuple[Path, int]:
    """A fresh temporary entry beside ``target`` and the lock that says its writer lives."""
    while True:
        temporary = target.with_name(f"{_TEMPORARY}{target.name}-{os.getpid()}-{next(_counter)}")
        try:
            if folder:
                temporary.mkdir()
            else:
                temporary.touch(exist_ok=False)
        except FileExistsError:
            continue
        lock = os.open(temporary, os.O_RDONLY)
        # A file system without locks gives no protection against a second process's cleaning;
        # everything else works there.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if temporary.exists():  # else a cleaner took it between creation and lock
            return temporary, lock
        os.close(lock)


def _try_lock(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _seal(folder: Path) -> None:
    for directory, _, files in os.walk(folder):
        for name in files:
            _fsync(Path(directory) / name)
        _fsync(Path(directory))
    marker = folder / COMPLETE
    marker.write_text("complete\n", encoding="utf-8")
    _fsync(marker)
    _fsync(folder)


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        _fsync(target.parent)
        return
    old = target.with_name(f"{_OLD}{target.name}")
    lock = _try_lock(target)
    try:
        os.rename(target, old)
        os.rename(temporary, target)
        _fsync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
