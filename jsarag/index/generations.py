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
    """One generation: what its manifest says, where it lies, and whether it is searched."""

    manifest: Manifest
    folder: Path
    in_use: bool

    @property
    def number(self) -> int:
        """Counts changes; 0 is the index as it was built."""
        return self.manifest.generation

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
    """The generation in use and the complete ones before it, oldest first.

    Raises:
        CheckpointError: no index lies there.
    """
    current = current_folder(folder)
    used = Generation(Manifest.read(current), current, in_use=True)
    places = [folder, *(path for path in folder.iterdir() if _FOLDER.fullmatch(path.name))]
    found = [
        Generation(Manifest.read(path), path, in_use=False)
        for path in places
        if path != current and is_complete(path) and (path / NAME).is_file()
    ]
    # What a change left that was killed before its switch has a higher number.
    older = sorted((one for one in found if one.number < used.number), key=lambda one: one.number)
    return [*older, used]


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
