"""Generations of an index folder: which one is searched, and how the next takes its place.

An index as it was built is one generation, and lies in the folder itself. A change writes the next
one whole into ``gen-N/`` inside the folder and then names it in ``CURRENT``, in one step: readers
open the old or the new one, and a change that is killed leaves the old one in use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jsarag.errors import CheckpointError
from jsarag.index.manifest import NAME, Manifest
from jsarag.io.atomic import is_complete, remove_folder, write_text

CURRENT = "CURRENT"
LOCK = ".lock"
_FOLDER = re.compile(r"gen-\d+")


@dataclass(frozen=True, slots=True)
class Generation:
    """One complete generation: its number, where it lies, and what its manifest says."""

    number: int
    folder: Path
    manifest: Manifest
    in_use: bool

    @property
    def bytes(self) -> int:
        """Of its vectors and passages on disk."""
        records = [shard.record for shard in self.manifest.shards]
        return sum(record.bytes for record in (*records, *self.manifest.files.values()))


def current_folder(folder: Path) -> Path:
    """Where the generation in use lies; ``folder`` itself where nothing was changed.

    Raises:
        CheckpointError: ``CURRENT`` names no generation that is there.
    """
    try:
        name = (folder / CURRENT).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return folder
    if _FOLDER.fullmatch(name) is None or not is_complete(folder / name):
        raise CheckpointError(
            f"{folder / CURRENT}: expected the name of a generation in this folder (gen-1, ...), "
            f"found {name!r}; restore it, or build the index again"
        )
    return folder / name


def is_index(folder: Path) -> bool:
    """Whether an index folder lies there, changed or not."""
    return (folder / NAME).is_file() or (folder / CURRENT).is_file()


def belongs(name: str) -> bool:
    """Whether an entry of an index folder is one of this module's."""
    return name in (CURRENT, LOCK) or _FOLDER.fullmatch(name) is not None


def generations(folder: Path) -> list[Generation]:
    """The complete generations there are, oldest first; what a killed change left is none."""
    current = current_folder(folder)
    places = [folder, *(path for path in folder.iterdir() if _FOLDER.fullmatch(path.name))]
    found = [
        Generation(manifest.generation, path, manifest, path == current)
        for path in places
        if is_complete(path) and (path / NAME).is_file()
        for manifest in [Manifest.read(path)]
    ]
    in_use = next(one.number for one in found if one.in_use)
    return sorted((one for one in found if one.number <= in_use), key=lambda one: one.number)


def switch(folder: Path, number: int) -> None:
    """Use a generation that lies in ``gen-<number>/`` from now on."""
    write_text(folder / CURRENT, f"gen-{number}\n")


def prune(folder: Path, keep: int) -> None:
    """Remove old generations but the last ``keep`` before the one in use.

    Who has one open or mapped keeps it until it is closed.
    """
    old = [one for one in generations(folder) if not one.in_use]
    for one in old[: max(len(old) - keep, 0)]:
        if one.folder != folder:
            remove_folder(one.folder)
        else:
            (folder / NAME).unlink()  # first: without it the rest is no generation
    if not (folder / NAME).is_file():
        for path in (*folder.glob("vectors-*.bin"), *folder.glob("passages.*")):
            path.unlink(missing_ok=True)
