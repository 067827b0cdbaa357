"""The knowledge base: passages in a fixed order, found by row or by id.

A row is the identity every index and score uses; an id is what the user wrote. Embeddings belong to
``index``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from jsarag.data.rows import (
    PASSAGE_FIELDS,
    OnProblem,
    ReadStats,
    Row,
    map_for,
    raise_problem,
)
from jsarag.data.tables import read_any_rows
from jsarag.errors import DataError
from jsarag.types import Passage

_NO_RENAMING: Mapping[str, str] = {}


class KnowledgeBase:
    """Passages in order; immutable.

    Args:
        passages: at least one, with distinct ids.
        source: what messages call it, usually the file.

    Raises:
        DataError: no passage, or an id twice.
    """

    def __init__(self, passages: Iterable[Passage], *, source: str = "knowledge base") -> None:
        self._passages = tuple(passages)
        self.source = source
        if not self._passages:
            raise DataError("expected at least one passage, found none", path=source)
        self._rows = {passage.id: row for row, passage in enumerate(self._passages)}
        if len(self._rows) != len(self._passages):
            raise DataError(_repeated(self._passages), path=source, field="id")

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, row: int) -> Passage:
        return self._passages[row]

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages)

    def __contains__(self, passage_id: object) -> bool:
        return passage_id in self._rows

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All passages, by row."""
        return self._passages

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """All ids, by row."""
        return tuple(passage.id for passage in self._passages)

    def row_of(self, passage_id: str) -> int:
        """The row of a passage.

        Raises:
            DataError: no passage has this id.
        """
        row = self._rows.get(passage_id)
        if row is None:
            raise DataError(
                f"expected the id of one of its {len(self):,} passages, got {passage_id!r}",
                path=self.source,
            )
        return row

    @cached_property
    def digest(self) -> str:
        """SHA-256 over ids, titles and texts in order; what an index is bound to."""
        sha = hashlib.sha256()
        for row, passage in enumerate(self._passages):
            line = f"{passage.id}\t{passage.title}\t{passage.text}"
            sha.update((line if row == 0 else f"\n{line}").encode("utf-8", "surrogatepass"))
        return sha.hexdigest()

    @classmethod
    def read(
        cls,
        path: Path | str,
        field_map: Mapping[str, str] = _NO_RENAMING,
        *,
        stats: ReadStats | None = None,
    ) -> KnowledgeBase:
        """Read ``{"id"?, "text" or "title", "meta"?}`` rows from a JSON Lines file or a table.

        Args:
            path: the file.
            field_map: our field -> the file's field.
            stats: counts what was passed over.

        Raises:
            DataError: at the first problem; names file, line, field and fix.
        """
        path = Path(path)
        passages = read_passages(path, field_map, stats=stats)
        return cls(passages, source=str(path))


def read_passages(
    path: Path,
    field_map: Mapping[str, str] = _NO_RENAMING,
    *,
    stats: ReadStats | None = None,
    on_problem: OnProblem = raise_problem,
) -> list[Passage]:
    """The rows of a passage file, in order; faulty ones go to ``on_problem`` and are left out."""
    stats = ReadStats() if stats is None else stats
    renamed = map_for("kb", field_map)
    rows = read_any_rows(
        path, PASSAGE_FIELDS, field_map=renamed, stats=stats, on_problem=on_problem
    )
    passages: list[Passage] = []
    lines: dict[str, int] = {}
    for row in rows:
        try:
            passage = _passage(row, stats, lines)
            first = lines.setdefault(passage.id, row.line)
            if first != row.line:
                raise row.error(
                    f"'{passage.id}' is also the id of line {first}; make the ids distinct or "
                    "remove one of the rows",
                    "id",
                )
        except DataError as problem:
            on_problem(problem)
        else:
            passages.append(passage)
    return passages


def _passage(row: Row, stats: ReadStats, used: Mapping[str, int]) -> Passage:
    meta = row.get("meta") if row.has("meta") else {}
    if not isinstance(meta, dict):
        raise row.error("expected an object {...}; put the values under names", "meta")
    own, title = row.own_id(), row.optional_text("title")
    if title.strip() and not (row.has("text") and row.optional_text("text").strip()):
        # Some knowledge bases are lists of names. What is read is a passage's text, so that it is.
        text, title = title, ""
        stats.titles_alone += 1
    else:
        text = row.text("text")
    identity = row.made_id("p", (title, text), used, stats) if own is None else own
    return Passage(id=identity, text=text, title=title, meta=meta)


def _repeated(passages: Iterable[Passage]) -> str:
    seen: set[str] = set()
    for passage in passages:
        if passage.id in seen:
            return f"expected distinct ids, found '{passage.id}' twice"
        seen.add(passage.id)
    raise AssertionError("called without a repetition")
