"""OR-QuAC: QuAC's dialogues asked of all of Wikipedia, with rewritten questions.

The context is the dialogue as it was held; the rewrites (CANARD) are not used, since they were made
by people who knew what was meant.
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
from jsarag.types import Example, Passage, Turn

_SPLITS = ("train", "dev", "test")
_LOST = "NOTRECOVERED"
Relevant = Mapping[str, Sequence[str]]


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read ``{train,dev,test}.txt``, and ``all_blocks.txt`` with ``qrels.txt`` where they are.

    Without ``all_blocks.txt`` the knowledge base is every row's evidences, and gold those labelled
    1; with it, gold is what ``qrels.txt`` says.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("orquac", field_map)
    wanted(splits, _SPLITS, "orquac")
    for split in splits:
        need(folder, f"{split}.txt", f"preprocessed/{split}.txt")
    counts, pool = Counts(), PassagePool("orquac")
    block_path = find(folder, "all_blocks.txt")
    fixed = None if block_path is None else list(_blocks(block_path))
    relevant = None if fixed is None else _qrels(need(folder, "qrels.txt"), fixed, counts)
    rows: dict[str, list[Example]] = {}
    for split in _SPLITS:
        path = find(folder, f"{split}.txt", f"preprocessed/{split}.txt")
        if path is not None and (split in splits or fixed is None):
            rows[split] = list(_rows(path, pool, relevant, counts))
    passages: Sequence[Passage] = pool.passages if fixed is None else fixed
    return FormatData(passages, {split: rows[split] for split in splits}, counts.notes("orquac"))


def _blocks(path: Path) -> Iterator[Passage]:
    for row in json_lines(path):
        text = row["text"].text().strip()
        if text:
            yield Passage(row["id"].identity(), text, row.optional("title").strip())


def _qrels(path: Path, passages: Sequence[Passage], counts: Counts) -> Relevant:
    known = {passage.id for passage in passages}
    found: dict[str, list[str]] = {}
    for query, judged in json_document(path).pairs():
        for passage, grade in judged.pairs():
            if grade.number() <= 0:
                continue
            if passage in known:
                found.setdefault(query, []).append(passage)
            else:
                counts.add("judgements about passages all_blocks.txt lacks, left out")
    return found


def _rows(
    path: Path, pool: PassagePool, relevant: Relevant | None, counts: Counts
) -> Iterator[Example]:
    for row in json_lines(path):
        identity = row["qid"].identity()
        gold = _evidence_gold(row, pool) if relevant is None else relevant.get(identity, ())
        answer, question = row["answer"]["text"].text().strip(), row["question"].text().strip()
        if not question or not answer or answer == _LOST:
            counts.add("rows without a question or with a lost answer, left out")
            continue
        if answer == CANNOT_ANSWER:
            counts.add(f"rows whose response is {CANNOT_ANSWER}")
        yield Example(
            id=identity,
            answers=(answer,),
            history=(*_history(row), Turn("user", question)),
            gold_passages=distinct(list(gold)),
            dialogue_id=identity.partition("_q#")[0],
        )


def _evidence_gold(row: Node, pool: PassagePool) -> list[str]:
    evidences = row.get("evidences")
    if evidences is None:
        return []
    texts = [node.text().strip() for node in evidences.items()]
    labels = [node.number() for node in row["retrieval_labels"].items()]
    if len(texts) != len(labels):
        raise row["retrieval_labels"].error(
            f"expected one label for each of {len(texts)} evidences, found {len(labels)}; is this "
            "the official file?"
        )
    ids = [pool.add("", text) if text else "" for text in texts]
    return [identity for identity, label in zip(ids, labels, strict=True) if label > 0 and identity]


def _history(row: Node) -> Iterator[Turn]:
    turns = row.get("history")
    for turn in () if turns is None else turns.items():
        for speaker, text in (
            ("user", turn["question"].text()),
            ("system", turn["answer"]["text"].text()),
        ):
            if text.strip():
                yield Turn(speaker, text.strip())


FORMAT = Format(
    name="orquac",
    title="OR-QuAC",
    source="Published by prdwb/orconvqa-release under CC BY-SA 4.0.",
    files=(
        FileNeed("train.txt", "training rows (preprocessed/)"),
        FileNeed("dev.txt", "dev rows (preprocessed/)"),
        FileNeed("all_blocks.txt or .gz", "11 million passages; else the evidences", optional=True),
        FileNeed("qrels.txt", "gold, together with all_blocks.txt", optional=True),
    ),
    splits=_SPLITS,
    read=read,
)
