"""The folder an export goes to: whole or not there, and never in place of something else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsarag._version import __version__
from jsarag.errors import ConfigError
from jsarag.io.atomic import is_complete, write_folder, write_json

MARKER = "jsarag_export.json"
FORMAT_VERSION = 1


def require_free(dest: Path, *, force: bool) -> None:
    """Refuse a destination that holds something, unless it is an export that may be replaced.

    Raises:
        ConfigError: it is a file, holds other files, or an export and ``force`` is off.
    """
    if not dest.exists():
        return
    if not dest.is_dir():
        raise ConfigError(f"{dest}: expected a folder to write, found a file; name another one")
    if not any(dest.iterdir()):
        return
    if not (is_complete(dest) and read_marker(dest)):
        raise ConfigError(
            f"{dest}: expected a new or empty folder, or an earlier export; it holds other files, "
            "which would be lost. Name another folder"
        )
    if not force:
        raise ConfigError(
            f"{dest}: an earlier export lies there; replace it with --force, or name another folder"
        )


@contextmanager
def export_folder(dest: Path, about: Mapping[str, Any], *, force: bool) -> Iterator[Path]:
    """Fill a folder that appears under its name only when the block ends well.

    Args:
        dest: where it shall appear.
        about: what it is; kept in :data:`MARKER` inside.
        force: replace an earlier export.

    Yields:
        The temporary folder to fill.

    Raises:
        ConfigError: see :func:`require_free`.
    """
    require_free(dest, force=force)
    with write_folder(dest) as folder:
        head = {"format_version": FORMAT_VERSION, "jsarag": __version__, **about}
        write_json(folder / MARKER, head)
        yield folder


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What :func:`export_folder` kept about an export; None where none of ours lies there."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "format_version" in found else None
