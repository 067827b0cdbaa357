"""The path from documents and questions to a folder in our layout.

documents -> sections -> passages -> questions -> gold -> splits -> ``kb.jsonl``, ``train.jsonl``,
``dev.jsonl`` and a README. Each station is a module beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jsarag.data.building.documents import Documents, read_documents
from jsarag.data.building.gold import GoldReport, Sources, find_gold
from jsarag.data.building.questions import Questions, read_questions
from jsarag.data.building.repeats import PassageSet, boilerplate, without_copies
from jsarag.data.building.splits import Split, SplitBy, split_rows
from jsarag.data.building.splitting import PassageSplitter
from jsarag.data.building.summary import readme
from jsarag.data.building.texts import counted
from jsarag.data.convert import convert, refuse_foreign
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.registry import Dataset
from jsarag.errors import DataError


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a user may choose.

    Attributes:
        tokenizer: the encoder's, a transformers tokeniser.
        encoder: its name, for the summary.
        max_tokens: the most tokens of a passage with its title.
        overlap_tokens: how much of a passage the next one repeats.
        field_map: role -> column of the questions.
        dev_fraction: dev's share of the rows.
        split_by: what rows of one group share.
        seed: chooses the groups of dev.
    """

    tokenizer: Any
    encoder: str
    max_tokens: int
    overlap_tokens: int
    field_map: Mapping[str, str] = field(default_factory=dict)
    dev_fraction: float = 0.2
    split_by: SplitBy = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was made of what; everything that was guessed, left out or found twice.

    Attributes:
        target: the folder written.
        encoder: whose tokens were counted.
        max_tokens, overlap_tokens: the limits of a passage.
        documents: files read.
        passages: in the knowledge base.
        longest_tokens: of its passages, title and special tokens included.
        copies: path of a document that repeats another -> that other's.
        repeated_passages: left out, since title and text are another's.
        same_text: passages whose text another has under another title; they stay.
        boilerplate: (line, documents it stands in).
        unreadable: documents that could not be read, each with the reason.
        kinds_left_out: files of other kinds by suffix.
        columns: what was read from which column.
        columns_unused: columns of the table that were not read.
        rows: questions by split.
        rows_left_out: rows of the table that could not be used, each with the reason.
        gold: how the source column fared; None without one.
        kept_together: what rows of one split share.
        groups: how many groups of such rows there are.
        notes: the rest, a sentence each.
    """

    target: str
    encoder: str
    max_tokens: int
    overlap_tokens: int
    documents: int
    passages: int
    longest_tokens: int
    copies: Mapping[str, str]
    repeated_passages: int
    same_text: int
    boilerplate: Sequence[tuple[str, int]]
    unreadable: Sequence[str]
    kinds_left_out: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]
    columns_unused: Sequence[str]
    rows: Mapping[str, int]
    rows_left_out: Sequence[str]
    gold: GoldReport | None
    kept_together: Sequence[str]
    groups: int
    notes: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON types only, with stable keys."""
        return asdict(self)


def build_dataset(
    places: Sequence[Path], questions: Path, target: Path, options: BuildOptions
) -> BuildReport:
    """Make a data set of documents and a table of questions, and write it.

    Args:
        places: folders and files of documents.
        questions: the table; not read as a document where it lies among them.
        target: the folder to write; one that was written by this function before is replaced.
        options: limits, columns and splits.

    Raises:
        DataError: no document or no row could be read, or the target holds something else.
        BackendUnavailableError: the extra ``documents`` is not installed.
    """
    refuse_foreign(target)
    splitter = PassageSplitter(
        options.tokenizer, max_tokens=options.max_tokens, overlap_tokens=options.overlap_tokens
    )
    asked = read_questions(questions, options.field_map)  # first: documents take longer
    if len(asked.rows) < 2:
        raise DataError("expected at least two questions, found one; add some", path=questions)
    found = read_documents(places, exclude=(questions, target))
    documents, copies = without_copies(found.read)
    kept = PassageSet()
    for document in documents:
        kept.add(document.path, splitter.split(document))
    kept.by_source.update({copy: kept.by_source[path] for copy, path in copies.items()})
    sources = Sources(kept.passages, kept.by_source)
    gold, fared = find_gold([row.sources for row in asked.rows], sources)
    split = split_rows(
        asked.rows,
        gold,
        dev_fraction=options.dev_fraction,
        by=options.split_by,
        seed=options.seed,
    )
    report = BuildReport(
        target=str(target),
        encoder=options.encoder,
        max_tokens=options.max_tokens,
        overlap_tokens=options.overlap_tokens,
        documents=len(found.read),
        passages=len(kept.passages),
        longest_tokens=splitter.longest,
        copies=copies,
        repeated_passages=kept.repeated,
        same_text=kept.same_text,
        boilerplate=boilerplate(documents),
        unreadable=[str(problem) for problem in found.unreadable],
        kinds_left_out=found.left_out,
        columns={role: list(names) for role, names in asked.columns.roles.items()},
        columns_unused=list(asked.columns.unused),
        rows={"train": len(split.train), "dev": len(split.dev)},
        rows_left_out=[str(problem) for problem in asked.left_out],
        gold=fared if fared.rows else None,
        kept_together=split.kept_together,
        groups=split.groups,
        notes=[*asked.notes, *split.notes, *_notes(found, splitter)],
    )
    _write(target, kept, asked, gold, split, report)
    return report


def _notes(found: Documents, splitter: PassageSplitter) -> list[str]:
    """What was guessed or shortened on the way from files to passages, a sentence each."""
    notes = []
    guessed = [
        f"{item.path} ({item.encoding})"
        for item in found.read
        if item.encoding not in ("", "utf-8")
    ]
    if guessed:
        more = f" and {len(guessed) - 5:,} more" if len(guessed) > 5 else ""
        notes.append(f"not in UTF-8, so read as: {', '.join(guessed[:5])}{more}")
    if splitter.shortened_titles:
        notes.append(
            f"{counted(splitter.shortened_titles, 'passage')} with a title path of more than a "
            "quarter of the limit: the outermost headings went (meta.headings has all)"
        )
    return notes


def _write(
    target: Path,
    kept: PassageSet,
    asked: Questions,
    gold: Sequence[tuple[str, ...]],
    split: Split,
    report: BuildReport,
) -> None:
    examples = [
        replace(row.example, gold_passages=ids) for row, ids in zip(asked.rows, gold, strict=True)
    ]
    splits = {
        "train": [examples[place] for place in split.train],
        "dev": [examples[place] for place in split.dev],
    }
    kb = KnowledgeBase(kept.passages, source=str(target))
    made = Dataset(target.resolve().name, kb, splits)
    convert(made, target, texts={"README.md": readme(report)})
