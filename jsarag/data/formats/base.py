"""What every official format offers, and the two tools its reader works with.

A format turns the files a publisher ships into passages and rows, and says in notes what it left
out. Our own folders are read by ``registry``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsarag.data.rows import read_json, read_lines
from jsarag.errors import DataError
from jsarag.types import Example, Passage

CANNOT_ANSWER = "CANNOTANSWER"


@dataclass(frozen=True, slots=True)
class FormatData:
    """What a reader found: passages in kb order, rows by split, notes for the user."""

    passages: Sequence[Passage]
    splits: Mapping[str, list[Example]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileNeed:
    """One published file: its name, what it holds, and whether reading can do without it."""

    name: str
    holds: str
    optional: bool = False


Reader = Callable[[Path, Sequence[str], Mapping[str, str]], FormatData]


@dataclass(frozen=True, slots=True)
class Format:
    """An official format: its name, its files, and how to read them.

    Attributes:
        name: what the command line calls it.
        title: its full name.
        source: who publishes it and under which licence, in words.
        files: what must lie in the folder.
        splits: the splits it may have.
        read: (folder, splits, field map) -> data; raises DataError.
        marks: file names (patterns) by all of which a folder is recognised; empty: by none.
    """

    name: str
    title: str
    source: str
    files: tuple[FileNeed, ...]
    splits: tuple[str, ...]
    read: Reader
    marks: tuple[str, ...] = ()

    def recognises(self, folder: Path) -> bool:
        """Whether a folder looks like this format."""
        return bool(self.marks) and all(any(folder.glob(mark)) for mark in self.marks)

    def what_to_put(self, folder: Path) -> str:
        """Which files to put where, in words."""
        listed = "; ".join(
            f"{need.name} ({need.holds}{', optional' if need.optional else ''})"
            for need in self.files
        )
        return f"{self.title} needs in {folder}: {listed}. {self.source}"


def require_no_map(name: str, field_map: Mapping[str, str]) -> None:
    """Refuse a renaming where the fields are the publisher's."""
    if field_map:
        raise DataError(
            f"map: the format '{name}' has fixed fields, got {', '.join(sorted(field_map))}; "
            "drop --map (it renames fields of JSON Lines and CSV files)"
        )


def find(folder: Path, *names: str) -> Path | None:
    """The first of the names (or patterns) that is there, plain or as ``.gz``."""
    for name in names:
        for pattern in (name, f"{name}.gz"):
            for path in sorted(folder.glob(pattern)):
                if path.is_file():
                    return path
    return None


def need(folder: Path, *names: str) -> Path:
    """As :func:`find`.

    Raises:
        DataError: none of them is there.
    """
    path = find(folder, *names)
    if path is None:
        present = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        shown = ", ".join(present[:8]) or "nothing"
        raise DataError(
            f"expected {' or '.join(names)} (or .gz), found {shown}; put the file there",
            path=folder,
        )
    return path


class Counts:
    """Counts what a reader left out, by reason; nothing is dropped in silence."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, count: int = 1) -> None:
        """Note that something happened ``count`` times."""
        self._counts[reason] += count

    def notes(self, name: str) -> tuple[str, ...]:
        """One sentence per reason."""
        return tuple(
            f"{name}: {reason}: {count:,}" for reason, count in self._counts.items() if count
        )


@dataclass(slots=True)
class PassagePool:
    """Distinct passages in the order met; the id of one without its own is a digest of its text.

    Such an id stays the same whichever other files are read, so indexes and predictions made from
    different selections agree.
    """

    prefix: str
    _ids: dict[tuple[str, str], str] = field(default_factory=dict)
    _passages: dict[str, Passage] = field(default_factory=dict)

    def add(self, title: str, text: str, identity: str | None = None) -> str:
        """The id of the passage with this title and text, added if new."""
        known = self._ids.get((title, text))
        if known is not None:
            return known
        if identity is None:
            digest = hashlib.sha256(f"{title}\0{text}".encode("utf-8", "surrogatepass"))
            identity = f"{self.prefix}-{digest.hexdigest()[:16]}"
        if identity in self._passages:
            raise DataError(
                f"the passage id '{identity}' stands for two different texts; make the ids distinct"
            )
        self._ids[title, text] = identity
        self._passages[identity] = Passage(identity, text, title)
        return identity

    def __len__(self) -> int:
        return len(self._passages)

    def __contains__(self, identity: object) -> bool:
        return identity in self._passages

    @property
    def passages(self) -> list[Passage]:
        """All passages in the order they were met."""
        return list(self._passages.values())


class Node:
    """A place in a JSON document that knows its path, so a complaint can say where.

    Args:
        value: what stands there.
        path: the file.
        where: the place inside it, such as ``data[3].title``.
        line: the line, in JSON Lines files.
    """

    __slots__ = ("line", "path", "value", "where")

    def __init__(self, value: Any, path: Path, where: str = "", line: int | None = None) -> None:
        self.value, self.path, self.where, self.line = value, path, where, line

    def error(self, problem: str) -> DataError:
        """A DataError about this place."""
        return DataError(problem, path=self.path, line=self.line, field=self.where or None)

    def get(self, key: str) -> Node | None:
        """The value under a key; None where it is missing or null.

        Raises:
            DataError: this is no object.
        """
        if not isinstance(self.value, dict):
            raise self.error(f"expected an object with '{key}', found {self._found()}")
        inside = self.value.get(key)
        if inside is None:
            return None
        return Node(inside, self.path, f"{self.where}.{key}" if self.where else key, self.line)

    def __getitem__(self, key: str) -> Node:
        node = self.get(key)
        if node is None:
            shown = ", ".join(map(str, self.value)) or "no keys"
            raise self.error(
                f"expected the key '{key}', found {shown[:120]}; is this the official file?"
            )
        return node

    def items(self) -> Iterator[Node]:
        """The members of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"expected a list, found {self._found()}; is this the official file?")
        for place, inside in enumerate(self.value):
            yield Node(inside, self.path, f"{self.where}[{place}]", self.line)

    def pairs(self) -> Iterator[tuple[str, Node]]:
        """The keys and values of an object."""
        if not isinstance(self.value, dict):
            raise self.error(
                f"expected an object, found {self._found()}; is this the official file?"
            )
        for key, inside in self.value.items():
            where = f"{self.where}.{key}" if self.where else str(key)
            yield str(key), Node(inside, self.path, where, self.line)

    def text(self) -> str:
        """The value as text, which may be empty."""
        if not isinstance(self.value, str):
            raise self.error(f"expected text, found {self._found()}; is this the official file?")
        return self.value

    def identity(self) -> str:
        """A text or whole number as an id."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return str(self.value)
        text = self.text()
        if not text:
            raise self.error("expected an id, found empty text")
        return text

    def optional(self, key: str) -> str:
        """The text under a key; "" where it is missing or null."""
        node = self.get(key)
        return "" if node is None else node.text()

    def number(self) -> int:
        """The value as a whole number."""
        if not isinstance(self.value, int):
            raise self.error(f"expected a whole number, found {self._found()}")
        return int(self.value)

    def _found(self) -> str:
        text = json.dumps(self.value)
        return text if len(text) <= 60 else f"{text[:57]}..."


def json_document(path: Path) -> Node:
    """The root of a JSON file."""
    return Node(read_json(path), path)


def json_lines(path: Path) -> Iterator[Node]:
    """The rows of a JSON Lines file; blank lines are skipped."""
    for number, text in read_lines(path):
        if not text.strip():
            continue
        try:
            yield Node(json.loads(text), path, line=number)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"expected one JSON object a line ({error}); is this the official file?",
                path=path,
                line=number,
            ) from error


def wanted(splits: Sequence[str], known: Sequence[str], name: str) -> None:
    """Refuse splits a format does not have."""
    for split in splits:
        if split not in known:
            raise DataError(
                f"{name}: expected splits among {', '.join(known)}, got '{split}'; choose one of "
                "those"
            )


def distinct(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts that are not blank, each once, in order."""
    return tuple(dict.fromkeys(text for text in texts if text.strip()))
