"""BEIR folders: a corpus, queries and graded judgements; answers only where queries carry some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jsarag.data.formats.base import (
    Counts,
    FileNeed,
    Format,
    FormatData,
    Node,
    distinct,
    json_lines,
    need,
    require_no_map,
    wanted,
)
from jsarag.data.tables import table
from jsarag.errors import DataError
from jsarag.types import Example, Passage

_SPLITS = ("train", "dev", "test")


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

    Gold passages are those judged above 0. BEIR's queries have no answers; where a row of
    ``queries.jsonl`` has ``answers`` (at the top or in ``metadata``) they are used, and elsewhere
    the response is empty: such rows measure the prior retriever and train nothing.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("beir", field_map)
    wanted(splits, _SPLITS, "beir")
    judgements = {split: need(folder, f"qrels/{split}.tsv") for split in splits}
    counts = Counts()
    passages = list(_corpus(need(folder, "corpus.jsonl"), counts))
    known = {passage.id for passage in passages}
    queries = _queries(need(folder, "queries.jsonl"))
    rows = {
        split: list(_rows(split, path, queries, known, counts))
        for split, path in judgements.items()
    }
    return FormatData(passages, rows, counts.notes("beir"))


def _corpus(path: Path, counts: Counts) -> Iterator[Passage]:
    for row in json_lines(path):
        text, title = row.optional("text"), row.optional("title")
        if not text.strip():
            if not title.strip():
                counts.add("passages without text or title, left out")
                continue
            text, title = title, ""  # some corpora (arguana, trec-covid) have titles alone
            counts.add("passages with a title alone, read as their text")
        yield Passage(row["_id"].identity(), text, title)


def _queries(path: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Query id -> (text, answers)."""
    found = {}
    for row in json_lines(path):
        metadata = row.get("metadata")
        answers = row.get("answers")
        if answers is None and metadata is not None:
            answers = metadata.get("answers")
        texts = () if answers is None else _texts(answers)
        found[row["_id"].identity()] = (row["text"].text().strip(), texts)
    return found


def _texts(answers: Node) -> tuple[str, ...]:
    return distinct([answer.text() for answer in answers.items()])


def _rows(
    split: str,
    path: Path,
    queries: Mapping[str, tuple[str, tuple[str, ...]]],
    known: set[str],
    counts: Counts,
) -> Iterator[Example]:
    gold: dict[str, list[str]] = {}
    for query, passage, score, line in _judgements(path):
        if query not in queries:
            raise DataError(
                f"'{query}' is no query of queries.jsonl; the files belong to different sets",
                path=path,
                line=line,
                field="query-id",
            )
        relevant = gold.setdefault(query, [])
        if score <= 0:
            continue
        if passage in known:
            relevant.append(passage)
        else:
            counts.add(f"judgements of '{split}' about passages the corpus lacks, left out")
    for query, relevant in gold.items():
        text, answers = queries[query]
        if not text:
            counts.add("queries without a text, left out")
            continue
        if not answers:
            counts.add(f"rows of '{split}' without answers (only the prior can be measured)")
        yield Example(
            id=query,
            answers=answers or ("",),
            question=text,
            gold_passages=distinct(relevant),
            dialogue_id=query,
        )


def _judgements(path: Path) -> Iterator[tuple[str, str, int, int]]:
    for line, cells in table(path, quoting=False):
        if len(cells) == 3 and not cells[2].strip().lstrip("-").isdigit() and line == 1:
            continue  # the header
        if len(cells) != 3 or not cells[2].strip().lstrip("-").isdigit():
            raise DataError(
                "expected query-id, corpus-id and a whole score separated by tabs, found "
                f"{len(cells)} columns ({' | '.join(cells)[:60]})",
                path=path,
                line=line,
            )
        yield cells[0], cells[1], int(cells[2]), line


FORMAT = Format(
    name="beir",
    title="BEIR",
    source="Any folder in BEIR's layout; the licence is each set's own.",
    files=(
        FileNeed("corpus.jsonl", "passages"),
        FileNeed("queries.jsonl", "questions"),
        FileNeed("qrels/train.tsv, qrels/dev.tsv, qrels/test.tsv", "judgements, one a split"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("corpus.jsonl*", "queries.jsonl*", "qrels/*.tsv*"),
)
