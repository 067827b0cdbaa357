"""The small file beside a saved generator that says which kind it is and how it was set up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsarag.errors import CheckpointError
from jsarag.io.atomic import write_json

SETTINGS_FILE = "jsarag_generator.json"


def write_settings(folder: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Write a saved generator's kind and settings (JSON types)."""
    write_json(Path(folder) / SETTINGS_FILE, {"kind": kind, **settings})


def read_settings(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Read what :func:`write_settings` wrote, 'kind' included.

    Args:
        folder: a saved generator's folder.
        kind: the kind it must be of; None takes any.

    Raises:
        CheckpointError: no generator, or one of another kind, was saved there.
    """
    path = Path(folder) / SETTINGS_FILE
    wanted = "a saved generator" if kind is None else f"a saved '{kind}' generator"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: expected {wanted} ({SETTINGS_FILE}); reading it failed with '{error}'. "
            "Give a folder this package saved a generator in"
        ) from error
    found = stored.get("kind") if isinstance(stored, dict) else None
    if found is None or kind not in (None, found):
        raise CheckpointError(
            f"{folder}: expected {wanted}, found the kind '{found}' in {SETTINGS_FILE}; give "
            "another folder, or load it with load_saved_generator"
        )
    return dict(stored)
