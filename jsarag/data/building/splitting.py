"""Documents as passages: by heading, then by paragraph and sentence, within a token limit.

The cutting is semantic-text-splitter's. Here are the limit it gets, titles, positions and ids.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jsarag.data.building.documents import Document
from jsarag.data.building.extra import need
from jsarag.data.building.markup import Section
from jsarag.errors import DataError
from jsarag.types import Passage

TITLE_SEPARATOR = " > "
MIN_TOKENS = 24
_MIN_TITLE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class _Title:
    text: str
    shortened: bool


class PassageSplitter:
    """Cuts documents into passages that an encoder reads whole.

    Args:
        tokenizer: the encoder's, a transformers tokeniser.
        max_tokens: the most tokens of ``title: text`` with the special tokens, at least 24.
        overlap_tokens: how much of a passage the next one of its section repeats, in whole
            sentences where they fit; 0 for none.

    Raises:
        DataError: the limits make no sense.
        BackendUnavailableError: the extra ``documents`` is not installed.

    Attributes:
        longest: tokens of the longest passage made so far.
        shortened_titles: passages whose title path was too long for a quarter of the limit; the
            outermost headings went, and the whole path stands in ``meta``.
    """

    def __init__(self, tokenizer: Any, *, max_tokens: int, overlap_tokens: int) -> None:
        if max_tokens < MIN_TOKENS:
            raise DataError(f"expected a limit of at least {MIN_TOKENS} tokens, got {max_tokens}")
        if not 0 <= overlap_tokens <= max_tokens // 2:
            raise DataError(
                f"expected an overlap from 0 to half the limit ({max_tokens // 2} tokens), got "
                f"{overlap_tokens}"
            )
        self._splitters = need("semantic_text_splitter", "to split documents")
        self._tokenizer = tokenizer
        self._pieces = _bare(tokenizer)
        self._made: dict[int, Any] = {}
        self.max_tokens, self.overlap_tokens = max_tokens, overlap_tokens
        self.longest = 0
        self.shortened_titles = 0

    def split(self, document: Document) -> Iterator[Passage]:
        """The passages of a document, in order.

        An id is made of the document's path, the title and the text, so it stays whatever happens
        to other files, and to other passages of this one. ``meta`` holds ``source`` (the path),
        ``part`` (from 1, in the document) and, where the source has them, ``line`` or ``page``.
        """
        part = 0
        for section in document.sections:
            headings = document.title_path(section)
            title = self._title(headings)
            text, starts = _joined(section)
            for offset, piece in self._cut(title.text, text):
                part += 1
                meta: dict[str, Any] = {"source": document.path, "part": part}
                block = section.blocks[bisect_right(starts, offset) - 1]
                where = {"line": block.line, "page": block.page}
                meta |= {name: value for name, value in where.items() if value is not None}
                if title.shortened:
                    self.shortened_titles += 1
                    meta["headings"] = list(headings)
                identity = passage_id(document.path, title.text, piece)
                yield Passage(identity, piece, title.text, meta)

    def count(self, title: str, text: str) -> int:
        """Tokens of a passage as retrievers read it, special tokens included."""
        return self._tokens(f"{title}: {text}" if title else text)

    def _tokens(self, text: str) -> int:
        encoded = self._tokenizer(text, truncation=False, verbose=False)
        return len(encoded["input_ids"])

    def _title(self, headings: Sequence[str]) -> _Title:
        """The title path; a quarter of the limit is all that generators give a title."""
        room = max(_MIN_TITLE_TOKENS, self.max_tokens // 4)
        special = self._tokens("")
        for first in range(len(headings)):
            text = TITLE_SEPARATOR.join(headings[first:])
            if self._tokens(text) - special <= room:
                return _Title(text, shortened=first > 0)
        words = headings[-1].split()
        while len(words) > 1 and self._tokens(" ".join(words)) - special > room:
            words.pop()
        text = " ".join(words)
        return _Title(text if self._tokens(text) - special <= room else "", shortened=True)

    def _cut(self, title: str, text: str) -> list[tuple[int, str]]:
        """(character offset, piece) of every passage of a section."""
        room = self.max_tokens - self.count(title, "")
        while True:
            pieces = list(self._splitter(room).chunk_indices(text))
            longest = max((self.count(title, piece) for _, piece in pieces), default=0)
            if longest <= self.max_tokens or room <= 1:
                self.longest = max(self.longest, longest)
                return pieces
            # Some tokenisers need more tokens for a whole than for its parts.
            room = max(1, room - (longest - self.max_tokens))

    def _splitter(self, room: int) -> Any:
        """The splitter into pieces of at most ``room`` tokens; making one takes 30 ms."""
        if room not in self._made:
            kind = self._splitters.TextSplitter
            overlap = min(self.overlap_tokens, room // 2)
            if self._pieces is not None:
                made = kind.from_huggingface_tokenizer(self._pieces, room, overlap=overlap)
            else:

                def tokens(piece: str) -> int:
                    return len(self._tokenizer.tokenize(piece))

                made = kind.from_callback(tokens, room, overlap=overlap)
            self._made[room] = made
        return self._made[room]


def passage_id(path: str, title: str, text: str) -> str:
    """An id from a document's path and a passage's content, without white space.

    The files of other tools (TREC's) separate fields by white space.
    """
    digest = hashlib.sha256("\0".join((path, title, text)).encode("utf-8", "surrogatepass"))
    return f"{'_'.join(path.split())}#{digest.hexdigest()[:12]}"


def _bare(tokenizer: Any) -> Any:
    """The tokeniser's own pieces without its truncation and padding; None for a slow one."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    copied = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied


def _joined(section: Section) -> tuple[str, list[int]]:
    """A section's text, and the offset of each of its blocks."""
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    for block in section.blocks:
        before = "" if not parts else ("\n" if block.joined else "\n\n")
        parts += [before, block.text]
        starts.append(length + len(before))
        length += len(before) + len(block.text)
    return "".join(parts), starts
