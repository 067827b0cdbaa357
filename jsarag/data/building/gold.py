"""Which passages a row's source column means; for evaluation only, no objective reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jsarag.data.building.splitting import TITLE_SEPARATOR
from jsarag.data.building.texts import squeezed
from jsarag.types import Passage


@dataclass(frozen=True, slots=True)
class GoldReport:
    """How the names in the source column fared.

    Attributes:
        rows: rows that name a source.
        found: of those, rows with gold passages now.
        unknown: names that no document and no title has, in order, each once.
        passages_per_row: gold passages a row that has any, on average.
    """

    rows: int
    found: int
    unknown: tuple[str, ...]
    passages_per_row: float


class Sources:
    """Finds passages by the name of their file, its path, or a title above them.

    Args:
        passages: the knowledge base's.
        by_source: path of a document -> ids of its passages.
    """

    def __init__(self, passages: Iterable[Passage], by_source: Mapping[str, Sequence[str]]) -> None:
        self._titles: dict[str, list[str]] = {}
        for passage in passages:
            levels = passage.meta.get("headings") or passage.title.split(TITLE_SEPARATOR)
            # Every way to write the path down to each of its headings: the heading, or from above.
            for end in range(1, len(levels) + 1):
                for start in range(end):
                    name = _plain(TITLE_SEPARATOR.join(levels[start:end]))
                    ids = self._titles.setdefault(name, [])
                    if not ids or ids[-1] != passage.id:
                        ids.append(passage.id)
        self._paths: dict[str, list[str]] = {}
        shorter: dict[str, list[str]] = {}
        for path in by_source:
            self._paths[_plain(path)] = [path]
            parts = path.split("/")
            for start in range(len(parts)):
                tail = "/".join(parts[start:])
                for name in {_plain(tail), _plain(tail.rpartition(".")[0] or tail)}:
                    shorter.setdefault(name, []).append(path)
        # A name that several files end in means none of them.
        for name, paths in shorter.items():
            if name not in self._paths and len(set(paths)) == 1:
                self._paths[name] = paths[:1]
        self._by_source = by_source

    def passages(self, name: str) -> tuple[str, ...]:
        """Ids of the passages a source means; () if nothing is called so.

        ``file.md#Heading`` means that heading's passages in that file.
        """
        name = name.strip().removeprefix("./")
        file, _, anchor = name.partition("#")
        found = self._of_file(name) or self._of_file(file)
        if found and anchor:
            wanted = _plain(anchor.replace("-", " "))
            inside = [
                identity
                for title, ids in self._titles.items()
                if title.replace("-", " ") == wanted
                for identity in ids
            ]
            return tuple(identity for identity in found if identity in inside) or found
        return found or tuple(self._titles.get(_plain(name), ()))

    def _of_file(self, name: str) -> tuple[str, ...]:
        paths = self._paths.get(_plain(name.rstrip("/")))
        if paths is None and "/" in name:
            # An address or a path from elsewhere: its end may be known.
            paths = self._paths.get(_plain(name.rstrip("/").rpartition("/")[2]))
        return tuple(dict.fromkeys(self._by_source[paths[0]])) if paths else ()


def find_gold(
    named: Sequence[Sequence[str]], sources: Sources
) -> tuple[list[tuple[str, ...]], GoldReport]:
    """Gold passages of every row, and how many rows got any.

    Args:
        named: each row's sources.
        sources: where they are looked up.
    """
    gold: list[tuple[str, ...]] = []
    unknown: dict[str, None] = {}
    for names in named:
        ids: dict[str, None] = {}
        for name in names:
            found = sources.passages(name)
            ids |= dict.fromkeys(found)
            if not found:
                unknown[name] = None
        gold.append(tuple(ids))
    sizes = [len(ids) for ids in gold if ids]
    mean = sum(sizes) / len(sizes) if sizes else 0.0
    rows = sum(bool(names) for names in named)
    return gold, GoldReport(rows, len(sizes), tuple(unknown), mean)


def _plain(name: str) -> str:
    return squeezed(name).replace("\\", "/").casefold()
