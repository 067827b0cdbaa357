"""DoQA v2.1: dialogues about a forum thread, answered with a span of its accepted answer.

A row is one question with the turns before it; a passage is a thread's answer. The user's own post
(``background``) is not used: at test time a new user has not written one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jsarag.data.formats.base import (
    CANNOT_ANSWER,
    Counts,
    FileNeed,
    Format,
    FormatData,
    PassagePool,
    find,
    need,
    require_no_map,
    wanted,
)
from jsarag.data.formats.quac_json import Paragraph, paragraphs
from jsarag.types import Example, Turn

_FILES = {
    "train": "doqa-cooking-train-v2.1.json",
    "dev": "doqa-cooking-dev-v2.1.json",
    "test": "doqa-cooking-test-v2.1.json",
    "test_movies": "doqa-movies-test-v2.1.json",
    "test_travel": "doqa-travel-test-v2.1.json",
}
_FOLDER = "doqa_dataset"


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read the files of ``doqa_dataset`` (the folder itself or the one it lies in).

    ``test`` is the cooking forum, the one training is about; ``test_movies`` and ``test_travel``
    are the two others. The knowledge base holds the answers of all files present.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("doqa", field_map)
    wanted(splits, tuple(_FILES), "doqa")
    folder = folder / _FOLDER if (folder / _FOLDER).is_dir() else folder
    for split in splits:
        need(folder, _FILES[split])
    pool, counts = PassagePool("doqa"), Counts()
    rows: dict[str, list[Example]] = {}
    for split, name in _FILES.items():
        path = find(folder, name)
        if path is not None:
            found = (
                example
                for number, paragraph in enumerate(paragraphs(path))
                for example in _dialogue(f"doqa-{split}-{number:04d}", paragraph, pool, counts)
            )
            rows[split] = list(found)
    return FormatData(pool.passages, {split: rows[split] for split in splits}, counts.notes("doqa"))


def _dialogue(
    identity: str, paragraph: Paragraph, pool: PassagePool, counts: Counts
) -> Iterator[Example]:
    if not paragraph.context:
        raise paragraph.where.error("expected a 'context', found empty text")
    gold = pool.add(paragraph.title, paragraph.context)
    history: list[Turn] = []
    for place, asked in enumerate(paragraph.asked):
        if not asked.question:
            counts.add("turns without a question, left out")
            continue
        history.append(Turn("user", asked.question))
        if not asked.answers:
            counts.add("turns without an answer, left out")
            continue
        if asked.answers[0] == CANNOT_ANSWER:
            counts.add(f"rows whose response is {CANNOT_ANSWER}")
        yield Example(
            id=f"{identity}-{place:02d}",
            answers=asked.answers,
            history=tuple(history),
            gold_passages=(gold,),
            dialogue_id=identity,
        )
        history.append(Turn("system", asked.answers[0]))


FORMAT = Format(
    name="doqa",
    title="DoQA v2.1",
    source="Published by the IXA group as doqa-v2.1.zip under CC BY-SA 4.0; unpack it there.",
    files=(
        FileNeed("doqa-cooking-train-v2.1.json", "training dialogues"),
        FileNeed("doqa-cooking-dev-v2.1.json", "dev dialogues"),
        FileNeed("doqa-cooking-test-v2.1.json", "test, cooking", optional=True),
        FileNeed("doqa-movies-test-v2.1.json", "test, movies", optional=True),
        FileNeed("doqa-travel-test-v2.1.json", "test, travel", optional=True),
    ),
    splits=tuple(_FILES),
    read=read,
    marks=("**/doqa-cooking-train-v2.1.json*",),
)
