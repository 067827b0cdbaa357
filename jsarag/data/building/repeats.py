"""What stands in documents more than once: whole files, passages, and lines that every page has."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jsarag.data.building.documents import Document
from jsarag.data.building.texts import squeezed
from jsarag.types import Passage

# A line is boilerplate from this many documents on, and this share of them.
_LEAST_DOCUMENTS = 3
_LEAST_SHARE = 0.2
_LEAST_CHARACTERS = 12


def without_copies(documents: Sequence[Document]) -> tuple[list[Document], dict[str, str]]:
    """The documents of which each text stands there once, and path of a copy -> path of what it
    repeats (the first in order)."""
    kept: list[Document] = []
    copies: dict[str, str] = {}
    first: dict[str, str] = {}
    for document in documents:
        sha = hashlib.sha256()
        for section in document.sections:
            sha.update(repr((section.headings, [block.text for block in section.blocks])).encode())
        original = first.setdefault(sha.hexdigest(), document.path)
        if original == document.path:
            kept.append(document)
        else:
            copies[document.path] = original
    return kept, copies


@dataclass(slots=True)
class PassageSet:
    """Passages that differ in title or text, and where each document's went.

    Attributes:
        passages: in order.
        by_source: path of a document -> ids of its passages, those kept from another included.
        repeated: passages left out since title and text are another's.
        same_text: passages kept whose text another one has under another title.
    """

    passages: list[Passage] = field(default_factory=list)
    by_source: dict[str, list[str]] = field(default_factory=dict)
    repeated: int = 0
    same_text: int = 0
    _known: dict[tuple[str, str], str] = field(default_factory=dict)
    _texts: set[str] = field(default_factory=set)

    def add(self, source: str, passages: Iterable[Passage]) -> None:
        """Take a document's passages, without those that are there."""
        ids = self.by_source.setdefault(source, [])
        for passage in passages:
            text = squeezed(passage.text)
            key = squeezed(passage.title), text
            known = self._known.get(key)
            if known is not None:
                self.repeated += 1
                if known not in ids:
                    ids.append(known)
                continue
            self._known[key] = passage.id
            ids.append(passage.id)
            self.same_text += text in self._texts
            self._texts.add(text)
            self.passages.append(passage)


def boilerplate(documents: Sequence[Document], most: int = 10) -> list[tuple[str, int]]:
    """(line, documents it stands in) of lines that many documents share, the commonest first.

    They are reported, not removed: removing them would make a passage's text, and so its id, depend
    on other files.
    """
    counts: Counter[str] = Counter()
    for document in documents:
        lines = {
            squeezed(line)
            for section in document.sections
            for block in section.blocks
            for line in block.text.split("\n")
        }
        counts.update(line for line in lines if len(line) >= _LEAST_CHARACTERS)
    least = max(_LEAST_DOCUMENTS, _LEAST_SHARE * len(documents))
    return [(line, count) for line, count in counts.most_common(most) if count >= least]
