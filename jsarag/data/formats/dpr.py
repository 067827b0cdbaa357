"""DPR's JSON: training files of its bi-encoder, and retriever output as FiD reads it."""

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
    json_lines,
    need,
    require_no_map,
    wanted,
)
from jsarag.data.formats.nq import blocks
from jsarag.types import Example, Passage

_SPLITS = ("train", "dev", "test")
_BLOCKS = "psgs_w100.tsv"
_CONTEXTS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs", "ctxs")
_ID_KEYS = ("passage_id", "psg_id", "id")


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read ``*train*.json`` and the like (a list, or one object a line).

    Gold are the positive contexts of bi-encoder files and contexts marked ``isgold``;
    ``has_answer`` is no such mark, since a passage may hold the answer by chance. Passages are
    those of ``psgs_w100.tsv`` if it is there, else every context of every file.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("dpr", field_map)
    wanted(splits, _SPLITS, "dpr")
    for split in splits:
        need(folder, *_names(split))
    counts, pool = Counts(), PassagePool("dpr")
    block_path = find(folder, _BLOCKS)
    fixed = None if block_path is None else list(blocks(block_path))
    known = None if fixed is None else {passage.id for passage in fixed}
    rows: dict[str, list[Example]] = {}
    for split in _SPLITS:
        path = find(folder, *_names(split))
        if path is not None and (split in splits or fixed is None):
            rows[split] = list(_rows(split, path, pool, known, counts))
    passages: Sequence[Passage] = pool.passages if fixed is None else fixed
    return FormatData(passages, {split: rows[split] for split in splits}, counts.notes("dpr"))


def _names(split: str) -> tuple[str, ...]:
    return (f"{split}.json", f"*{split}*.json", f"*{split}*.jsonl")


def _rows(
    split: str, path: Path, pool: PassagePool, known: set[str] | None, counts: Counts
) -> Iterator[Example]:
    by_line = ".jsonl" in path.name
    for number, row in enumerate(json_lines(path) if by_line else json_document(path).items()):
        answers = _answers(row)
        gold = [
            identity
            for name in _CONTEXTS
            for context in _list(row, name)
            for identity in _context(context, name, pool, known, counts)
        ]
        question = row["question"].text().strip()
        if not answers or not question:
            counts.add("questions without a text or an answer, left out")
            continue
        name = f"dpr-{split}-{number:05d}"
        yield Example(
            id=name,
            answers=answers,
            question=question,
            gold_passages=distinct(gold),
            dialogue_id=name,
        )


def _answers(row: Node) -> tuple[str, ...]:
    target = row.optional("target")
    return distinct([target, *(answer.text() for answer in _list(row, "answers"))])


def _list(row: Node, name: str) -> list[Node]:
    node = row.get(name)
    return [] if node is None else list(node.items())


def _context(
    context: Node, name: str, pool: PassagePool, known: set[str] | None, counts: Counts
) -> list[str]:
    """The context's id if it is gold, else nothing; adds it to the pool where that is the kb."""
    text, title = context["text"].text().strip(), context.optional("title").strip()
    given = next((node.identity() for key in _ID_KEYS if (node := context.get(key))), None)
    mark = context.get("isgold")
    is_gold = name == "positive_ctxs" or (mark is not None and mark.value is True)
    if not text:
        counts.add("contexts without a text, left out")
        return []
    if known is None:
        identity = given if given is not None and given in pool else pool.add(title, text, given)
        return [identity] if is_gold else []
    if not is_gold:
        return []
    if given is None or given not in known:
        counts.add(f"positive contexts that {_BLOCKS} lacks, left out")
        return []
    return [given]


FORMAT = Format(
    name="dpr",
    title="DPR JSON",
    source="Bi-encoder training files, or retriever output as FiD reads it; the licence is each "
    "set's own.",
    files=(
        FileNeed("*train*.json", "training questions with contexts"),
        FileNeed("*dev*.json", "dev questions with contexts"),
        FileNeed("psgs_w100.tsv", "the knowledge base; else all contexts are", optional=True),
    ),
    splits=_SPLITS,
    read=read,
    marks=("biencoder-*.json*",),
)
