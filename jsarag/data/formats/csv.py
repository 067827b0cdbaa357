"""Tables of our fields: ``kb.csv`` and one table a split, with a header row (or ``.tsv``).

A split may be JSON Lines all the same; ``kb.jsonl`` beside tables is a folder of ours, read by
``registry``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jsarag.data.examples import read_examples
from jsarag.data.formats.base import FileNeed, Format, FormatData, need, wanted
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.rows import ReadStats

_SPLITS = ("train", "dev", "test")


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read comma- or tab-separated tables; ``--map`` renames their columns.

    Raises:
        DataError: a file is missing or a row is faulty; names file, line, field and fix.
    """
    wanted(splits, _SPLITS, "csv")
    stats = ReadStats()
    path = need(folder, "kb.csv", "kb.tsv")
    kb = KnowledgeBase.read(path, field_map, stats=stats)
    notes = list(stats.notes(path.name))
    found = {}
    for split in splits:
        path, stats = need(folder, f"{split}.csv", f"{split}.tsv", f"{split}.jsonl"), ReadStats()
        found[split] = read_examples(path, field_map=field_map, kb=kb, stats=stats)
        notes += stats.notes(path.name)
    return FormatData(kb.passages, found, tuple(notes))


FORMAT = Format(
    name="csv",
    title="CSV",
    source="Your own tables.",
    files=(
        FileNeed("kb.csv or kb.tsv", "columns id, text, title"),
        FileNeed("train.csv or train.tsv", "columns id, question, answers, gold_passages"),
        FileNeed("dev.csv or dev.tsv", "the same columns"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("kb.[ct]sv*",),
)
