"""SQuAD v1.1 and v2.0 (and XQuAD): questions asked of all paragraphs of the files at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jsarag.data.formats.base import (
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
from jsarag.data.formats.quac_json import paragraphs
from jsarag.types import Example

_SPLITS = ("train", "dev", "test")


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read ``train-v1.1.json`` and the like; v2.0's questions without an answer are left out.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("squad", field_map)
    wanted(splits, _SPLITS, "squad")
    for split in splits:
        need(folder, f"{split}-v*.json", f"{split}.json")
    pool, counts = PassagePool("squad"), Counts()
    rows: dict[str, list[Example]] = {}
    for split in _SPLITS:
        path = find(folder, f"{split}-v*.json", f"{split}.json")
        if path is not None:
            rows[split] = _read_split(path, pool, counts)
    chosen = {split: rows[split] for split in splits}
    return FormatData(pool.passages, chosen, counts.notes("squad"))


def _read_split(path: Path, pool: PassagePool, counts: Counts) -> list[Example]:
    rows: dict[str, Example] = {}
    for paragraph in paragraphs(path):
        if not paragraph.context:
            raise paragraph.where.error("expected a 'context', found empty text")
        gold = pool.add(paragraph.title, paragraph.context)
        for asked in paragraph.asked:
            if asked.impossible or not asked.answers:
                counts.add("questions without an answer, left out")
            elif not asked.question:
                counts.add("questions without a text, left out")
            elif asked.id in rows:
                counts.add("questions whose id was there before, left out")
            else:
                rows[asked.id] = Example(
                    id=asked.id,
                    answers=asked.answers,
                    question=asked.question,
                    gold_passages=(gold,),
                    dialogue_id=asked.id,
                )
    return list(rows.values())


FORMAT = Format(
    name="squad",
    title="SQuAD v1.1 or v2.0",
    source="Published by Stanford NLP under CC BY-SA 4.0.",
    files=(
        FileNeed("train-v1.1.json or train-v2.0.json", "training questions"),
        FileNeed("dev-v1.1.json or dev-v2.0.json", "dev questions"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("train-v[12]*.json*", "dev-v[12]*.json*"),
)
