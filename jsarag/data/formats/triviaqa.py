"""TriviaQA, reading comprehension part: questions, and evidence pages cut into passages.

No passage is marked gold: that a page holds the answer's words does not make it evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jsarag.data.formats.base import (
    Counts,
    FileNeed,
    Format,
    FormatData,
    Node,
    PassagePool,
    distinct,
    find,
    json_document,
    need,
    require_no_map,
    wanted,
)
from jsarag.data.rows import read_text
from jsarag.types import Example

_SPLITS = ("train", "dev")
_WORDS = 100
_PAGES = (("EntityPages", "wikipedia"), ("SearchResults", "web"))


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read ``qa/{wikipedia,web}-{train,dev}.json`` and the evidence pages they name.

    Pages are cut into passages of 100 words. The response is the answer's ``Value``; its aliases
    are accepted, too.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("triviaqa", field_map)
    wanted(splits, _SPLITS, "triviaqa")
    for split in splits:
        need(folder, *_names(split))
    pool, counts, pages = PassagePool("triviaqa"), Counts(), set[Path]()
    rows: dict[str, list[Example]] = {}
    for split in _SPLITS:
        path = find(folder, *_names(split))
        if path is not None:
            rows[split] = list(_rows(path, folder, pool, pages, counts))
    return FormatData(
        pool.passages, {split: rows[split] for split in splits}, counts.notes("triviaqa")
    )


def _names(split: str) -> tuple[str, ...]:
    return tuple(
        f"{place}{domain}-{split}.json" for place in ("qa/", "") for domain in ("wikipedia", "web")
    )


def _rows(
    path: Path, folder: Path, pool: PassagePool, pages: set[Path], counts: Counts
) -> Iterator[Example]:
    for row in json_document(path)["Data"].items():
        _evidence(row, folder, pool, pages, counts)
        answer, identity = row["Answer"], row["QuestionId"].identity()
        aliases = answer.get("Aliases")
        texts = [] if aliases is None else [alias.text() for alias in aliases.items()]
        answers = distinct([answer["Value"].text(), *texts])
        question = row["Question"].text().strip()
        if not question or not answers:
            counts.add("questions without a text or an answer, left out")
            continue
        yield Example(id=identity, answers=answers, question=question, dialogue_id=identity)


def _evidence(row: Node, folder: Path, pool: PassagePool, pages: set[Path], counts: Counts) -> None:
    for key, domain in _PAGES:
        listed = row.get(key)
        for page in () if listed is None else listed.items():
            name = page.optional("Filename")
            path = folder / "evidence" / domain / name
            if not name or path in pages:
                continue
            pages.add(path)
            if not path.is_file():
                counts.add(f"{domain} pages that are not in evidence/, left out")
                continue
            words = read_text(path).split()
            title = page.optional("Title").strip()
            for start in range(0, len(words), _WORDS):
                pool.add(title, " ".join(words[start : start + _WORDS]))


FORMAT = Format(
    name="triviaqa",
    title="TriviaQA",
    source="Published by the University of Washington (triviaqa-rc.tar.gz), Apache-2.0; unpack it "
    "there.",
    files=(
        FileNeed("qa/wikipedia-train.json or qa/web-train.json", "training questions"),
        FileNeed("qa/wikipedia-dev.json or qa/web-dev.json", "dev questions"),
        FileNeed("evidence/", "the pages"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("qa/*-train.json*", "evidence"),
)
