"""KILT: one task's questions with provenance, and Wikipedia by paragraphs."""

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
from jsarag.types import Example, Passage, Turn

_SPLITS = ("train", "dev")
_SOURCE = "kilt_knowledgesource.json"
_SECTION = "Section::::"


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read ``<task>-{train,dev}-kilt.jsonl`` and the knowledge source (all of it or a part).

    A passage is a paragraph, its id ``<wikipedia_id>-<paragraph>``; gold are the paragraphs of the
    provenance. An input of several lines is a dialogue, the user speaking last.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("kilt", field_map)
    wanted(splits, _SPLITS, "kilt")
    paths = {split: need(folder, f"*-{split}-kilt.jsonl") for split in splits}
    counts = Counts()
    passages = list(_paragraphs(need(folder, _SOURCE, f"{_SOURCE}l")))
    known = {passage.id for passage in passages}
    rows = {split: list(_rows(path, known, counts)) for split, path in paths.items()}
    return FormatData(passages, rows, counts.notes("kilt"))


def _paragraphs(path: Path) -> Iterator[Passage]:
    for row in json_lines(path):
        page, title = row["wikipedia_id"].identity(), row["wikipedia_title"].text().strip()
        for place, node in enumerate(row["text"].items()):
            text = node.text().strip()
            # Paragraph 0 is the title and "Section::::" lines are headings: nothing to retrieve.
            if text and not text.startswith(_SECTION) and not (place == 0 and text == title):
                yield Passage(f"{page}-{place}", text, title)


def _rows(path: Path, known: set[str], counts: Counts) -> Iterator[Example]:
    for row in json_lines(path):
        identity = row["id"].identity()
        lines = [line.strip() for line in row["input"].text().splitlines() if line.strip()]
        outputs = row.get("output")
        items = [] if outputs is None else list(outputs.items())
        answers = distinct([item.optional("answer") for item in items])
        if not lines or not answers:
            counts.add("rows without an input or an answer, left out")
            continue
        yield Example(
            id=identity,
            answers=answers,
            question=lines[0] if len(lines) == 1 else None,
            history=_turns(lines) if len(lines) > 1 else (),
            gold_passages=tuple(_gold(items, known, counts)),
            dialogue_id=identity,
        )


def _turns(lines: Sequence[str]) -> tuple[Turn, ...]:
    last = len(lines) - 1
    return tuple(
        Turn("user" if (last - place) % 2 == 0 else "system", line)
        for place, line in enumerate(lines)
    )


def _gold(items: Sequence[Node], known: set[str], counts: Counts) -> dict[str, None]:
    found: dict[str, None] = {}
    for item in items:
        provenance = item.get("provenance")
        for place in () if provenance is None else provenance.items():
            page, start = place.get("wikipedia_id"), place.get("start_paragraph_id")
            if page is None or start is None:
                continue
            end = place.get("end_paragraph_id")
            last = start.number() if end is None else end.number()
            for paragraph in range(start.number(), last + 1):
                identity = f"{page.identity()}-{paragraph}"
                if identity in known:
                    found[identity] = None
                else:
                    counts.add("provenance paragraphs that the knowledge source lacks, left out")
    return found


FORMAT = Format(
    name="kilt",
    title="KILT",
    source="Published by Facebook AI Research; the licence is each task's own.",
    files=(
        FileNeed("<task>-train-kilt.jsonl", "training rows of one task"),
        FileNeed("<task>-dev-kilt.jsonl", "dev rows of the same task"),
        FileNeed(_SOURCE, "the knowledge source, JSON lines"),
    ),
    splits=_SPLITS,
    read=read,
    marks=("*-train-kilt.jsonl*", f"{_SOURCE}*"),
)
