"""GGUF files as plain model folders: converted once, kept in a cache, found again by content.

Reading such a file takes tens of seconds, nearly all of it unpacking quantised weights, and what
comes out cannot be saved as it is. So it is written once as float32 safetensors with its tokeniser,
and everything else sees a folder like any other. Leaves reading and writing models to ``hub``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from jsarag.errors import BackendUnavailableError, ConfigError
from jsarag.io.atomic import is_complete, locked, write_folder

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_NEEDED = ("gguf", "accelerate")
# Part of a converted folder's name; raised when conversions come out differently.
_EDITION = 1

Convert = Callable[[Path, Path], None]
"""Reads a GGUF file and fills a folder with the model and its tokeniser."""


def find_gguf(path: Path) -> Path | None:
    """The GGUF file a path means: itself, or the only one in a folder without config.json.

    Raises:
        ConfigError: the folder holds several.
    """
    if path.is_file() and path.suffix == SUFFIX:
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(entry for entry in path.iterdir() if entry.suffix == SUFFIX and entry.is_file())
    if len(files) > 1:
        raise ConfigError(
            f"model '{path}': expected one {SUFFIX} file in this folder, found {len(files)} "
            f"({', '.join(file.name for file in files)}); name the file itself"
        )
    return files[0] if files else None


def can_convert() -> bool:
    """Whether the packages that read GGUF files are installed."""
    return not _missing()


def is_converted(file: Path) -> bool:
    """Whether a file's conversion is in the cache."""
    return is_complete(_target(file))


def converted(file: Path, convert: Convert) -> Path:
    """The plain folder of a GGUF file, made if it is not in the cache yet.

    Args:
        file: the GGUF file.
        convert: called with the file and a temporary folder to fill. The folder gets its name when
            it is whole, so a conversion that was cut off leaves nothing that could be taken for
            one; a second process that wants the same file waits for the first.

    Raises:
        ConfigError: it is no GGUF file.
        BackendUnavailableError: it must be converted and a package for that is missing.
    """
    with file.open("rb") as content:
        head = content.read(len(_MAGIC))
    if head != _MAGIC:
        raise ConfigError(
            f"{file}: expected a GGUF file, which begins with {_MAGIC!r}, found {head!r}; "
            "download it again, or name another model"
        )
    target = _target(file)
    if is_complete(target):
        return target
    missing = _missing()
    if missing:
        raise BackendUnavailableError(
            f"{file}: reading a GGUF file needs {' and '.join(missing)}, not installed here. "
            "Run `pip install 'jsarag[lm]'`"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):
        if not is_complete(target):
            with write_folder(target) as folder:
                convert(file, folder)
    return target


def cache_folder() -> Path:
    """Where converted models are kept: JSARAG_CACHE, else jsarag in the user's cache folder."""
    named = os.environ.get("JSARAG_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jsarag"


def _missing() -> list[str]:
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def _target(file: Path) -> Path:
    state = file.stat()
    digest = _digest(file.resolve(), state.st_size, state.st_mtime_ns)
    return cache_folder() / "models" / f"{file.stem}-{state.st_size}-{digest}-{_EDITION}"


@lru_cache(maxsize=16)
def _digest(file: Path, size: int, changed: int) -> str:
    """Digest of the whole content, once per process and state of the file.

    Head and size would not do: two fine-tunes of one model share both. The whole file costs 0.1 to
    0.2 s per 100 MB, little beside reading its float32 weights, which are four to eight times as
    large; and unlike the time of its last change it survives a reinstallation.
    """
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
