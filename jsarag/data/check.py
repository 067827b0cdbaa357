"""What ``jsarag data check`` reports: every fault of a folder, and what a run should know of it.

Reads a whole folder without stopping at the first problem; nothing is corrected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jsarag.data.examples import read_examples
from jsarag.data.knowledge_base import KnowledgeBase, read_passages
from jsarag.data.near_duplicates import near_duplicates
from jsarag.data.registry import (
    SPLITS,
    Dataset,
    find_kb,
    find_split,
    load_dataset,
    own_folder,
)
from jsarag.data.rows import OnProblem, ReadStats
from jsarag.data.text_forms import TextForms, plain
from jsarag.errors import DataError
from jsarag.types import Example

_NO_RENAMING: Mapping[str, str] = {}
# Characters of a passage shown as an example.
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of some texts in words (split at white space)."""

    median: int
    p95: int
    longest: int

    @classmethod
    def of(cls, texts: Iterable[str]) -> Lengths:
        """Measured over ``texts``; zeros where there are none."""
        sizes = sorted(len(text.split()) for text in texts)
        if not sizes:
            return cls(0, 0, 0)
        last = len(sizes) - 1
        return cls(sizes[last // 2], sizes[round(0.95 * last)], sizes[last])


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two passages that say nearly the same: ids, the share of word pairs in common, beginnings."""

    later: str
    earlier: str
    similarity: float
    later_text: str
    earlier_text: str


@dataclass(frozen=True, slots=True)
class KbReport:
    """The knowledge base in numbers.

    Attributes:
        repeated_texts: passages whose title and text are another's.
        near_duplicates: passages that say nearly what an earlier one says.
        near_looked_at: how many passages were compared for that.
        near_examples: the first of those pairs.
        forms: characters that comparisons stumble over.
    """

    passages: int
    without_title: int
    repeated_texts: int
    near_duplicates: int
    near_looked_at: int
    near_examples: list[NearPair]
    words: Lengths
    forms: TextForms


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split in numbers; shares are of its rows.

    Attributes:
        gold_missing_share: rows without any gold passage (retrieval cannot be measured on them).
        repeated_rows: rows whose context and response occurred before in the split.
        contexts_in_train: rows whose context, word for word, is also one of train.
        asked_in_train: rows whose context is train's but for case, signs, spaces, Unicode's form.
        answered_in_train: of those, the ones with an answer of that training row.
        gold_in_train_share: of the rows with gold, those with all of it gold in training, too.
        gold_answer_share: of the rows with gold, those with an answer word for word in a gold text.
    """

    rows: int
    dialogues: int
    gold_missing_share: float
    gold_per_row: float
    repeated_rows: int
    contexts_in_train: int
    asked_in_train: int
    answered_in_train: int
    dialogues_in_train: int
    gold_in_train_share: float
    gold_answer_share: float
    context_words: Lengths
    response_words: Lengths
    context_forms: TextForms
    answer_forms: TextForms


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All of it; ``ok`` means that training would read the folder without an error.

    ``data`` is what could be read, for further measures; None without a passage.
    """

    name: str
    kb: KbReport | None
    splits: Mapping[str, SplitReport]
    problems: tuple[DataError, ...]
    problem_count: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    data: Dataset | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return self.problem_count == 0

    def as_dict(self) -> dict[str, Any]:
        """JSON types only, with stable keys."""
        return {
            "name": self.name,
            "ok": self.ok,
            "kb": None if self.kb is None else asdict(self.kb),
            "splits": {split: asdict(report) for split, report in self.splits.items()},
            "problem_count": self.problem_count,
            "problems": [
                {
                    "path": None if problem.path is None else str(problem.path),
                    "line": problem.line,
                    "field": problem.field,
                    "problem": problem.problem,
                }
                for problem in self.problems
            ],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


@dataclass(slots=True)
class _Problems:
    """Keeps the first few problems and counts the rest."""

    limit: int
    first: list[DataError] = field(default_factory=list)
    count: int = 0

    def add(self, problem: DataError) -> None:
        self.count += 1
        if len(self.first) < self.limit:
            self.first.append(problem)


def check_dataset(
    dataset: str,
    *,
    data_dir: Path | str | None = None,
    field_map: Mapping[str, str] = _NO_RENAMING,
    splits: Sequence[str] | None = None,
    max_problems: int = 20,
) -> CheckReport:
    """Read a data set to its end and report on it.

    In a folder of ours every faulty row is found; an official format is generated or published as
    a whole, and its reader stops at the first thing that is not as published.

    Args:
        dataset: as for ``load_dataset``.
        data_dir: as for ``load_dataset``.
        field_map: as for ``load_dataset``.
        splits: which to check; None means all that are there.
        max_problems: how many problems to keep; all are counted.
    """
    problems = _Problems(max_problems)
    folder = own_folder(dataset, data_dir)
    notes: tuple[str, ...] = ()
    kb: KnowledgeBase | None = None
    rows: dict[str, list[Example]] = {}
    name = dataset if folder is None else folder.resolve().name
    try:
        if folder is None:
            loaded = _load(dataset, data_dir, field_map, splits)
            name, kb, rows, notes = loaded.name, loaded.kb, dict(loaded.splits), loaded.notes
        else:
            kb, rows, notes = _read_folder(folder, field_map, splits, problems.add)
    except DataError as problem:
        problems.add(problem)
    reports = {split: _split_report(split, rows, kb) for split in rows}
    kb_report = None if kb is None else _kb_report(kb)
    return CheckReport(
        name=name,
        kb=kb_report,
        splits=reports,
        problems=tuple(problems.first),
        problem_count=problems.count,
        warnings=tuple(_warnings(kb_report, reports)),
        notes=notes,
        data=None if kb is None else Dataset(name, kb, rows),
    )


def _load(
    dataset: str,
    data_dir: Path | str | None,
    field_map: Mapping[str, str],
    splits: Sequence[str] | None,
) -> Dataset:
    if splits is not None:
        return load_dataset(dataset, data_dir=data_dir, field_map=field_map, splits=splits)
    loaded = load_dataset(dataset, data_dir=data_dir, field_map=field_map, splits=("train",))
    found = dict(loaded.splits)
    notes = list(loaded.notes)
    for split in SPLITS[1:]:
        try:
            more = load_dataset(dataset, data_dir=data_dir, field_map=field_map, splits=(split,))
        except DataError as problem:
            notes.append(f"'{split}' was not checked: {problem}")
        else:
            found.update(more.splits)
            notes += [note for note in more.notes if note not in notes]
    return Dataset(loaded.name, loaded.kb, found, tuple(notes))


def _read_folder(
    folder: Path,
    field_map: Mapping[str, str],
    splits: Sequence[str] | None,
    on_problem: OnProblem,
) -> tuple[KnowledgeBase | None, dict[str, list[Example]], tuple[str, ...]]:
    notes: list[str] = []
    kb_path = find_kb(folder)
    assert kb_path is not None
    stats = ReadStats()
    passages = read_passages(kb_path, field_map, stats=stats, on_problem=on_problem)
    notes += stats.notes(kb_path.name)
    kb = KnowledgeBase(passages, source=str(kb_path)) if passages else None
    if kb is None and not stats.rows:
        on_problem(DataError("expected at least one passage, found none", path=kb_path))
    rows: dict[str, list[Example]] = {}
    for split in splits or SPLITS:
        path = find_split(folder, split)
        if path is None:
            if splits is not None or split == "train":
                on_problem(
                    DataError(
                        "expected this file, found none; add it", path=folder / f"{split}.jsonl"
                    )
                )
            continue
        stats = ReadStats()
        try:
            rows[split] = read_examples(
                path, field_map=field_map, kb=kb, stats=stats, on_problem=on_problem
            )
        except DataError as problem:
            on_problem(problem)
        notes += stats.notes(path.name)
    return kb, rows, tuple(notes)


def _kb_report(kb: KnowledgeBase) -> KbReport:
    counts = Counter((passage.title, passage.text) for passage in kb)
    texts = [f"{passage.title} {passage.text}" for passage in kb]
    near = near_duplicates(texts)
    return KbReport(
        passages=len(kb),
        without_title=sum(not passage.title.strip() for passage in kb),
        repeated_texts=len(kb) - len(counts),
        near_duplicates=near.count,
        near_looked_at=near.looked_at,
        near_examples=[
            NearPair(
                kb[pair.later].id,
                kb[pair.earlier].id,
                pair.similarity,
                kb[pair.later].text[:_SHOWN],
                kb[pair.earlier].text[:_SHOWN],
            )
            for pair in near.examples
        ],
        words=Lengths.of(passage.text for passage in kb),
        forms=TextForms.of(texts),
    )


def _split_report(
    split: str, rows: Mapping[str, list[Example]], kb: KnowledgeBase | None
) -> SplitReport:
    examples = rows[split]
    train = [] if split == "train" else rows.get("train", [])
    with_gold = [example for example in examples if example.gold_passages]
    known_gold = {gold for example in train for gold in example.gold_passages}
    known_contexts = {_context(example) for example in train}
    known_dialogues = {example.dialogue_id for example in train}
    asked: dict[str, set[str]] = {}
    for example in train:
        asked.setdefault(plain(_context(example)), set()).update(map(plain, example.answers))
    again = [
        (asked[key], example) for example in examples if (key := plain(_context(example))) in asked
    ]
    seen = Counter((_context(example), example.response) for example in examples)
    covered = [set(example.gold_passages) <= known_gold for example in with_gold]
    answered = [_gold_has_answer(example, kb) for example in with_gold]
    return SplitReport(
        rows=len(examples),
        dialogues=len({example.dialogue_id for example in examples}),
        gold_missing_share=_share(not example.gold_passages for example in examples),
        gold_per_row=_mean([len(example.gold_passages) for example in examples]),
        repeated_rows=len(examples) - len(seen),
        contexts_in_train=sum(_context(example) in known_contexts for example in examples),
        asked_in_train=len(again),
        answered_in_train=sum(
            any(plain(answer) in answers for answer in example.answers)
            for answers, example in again
        ),
        dialogues_in_train=sum(example.dialogue_id in known_dialogues for example in examples),
        gold_in_train_share=_share(covered),
        gold_answer_share=_share(answered),
        context_words=Lengths.of(_context(example) for example in examples),
        response_words=Lengths.of(example.response for example in examples),
        context_forms=TextForms.of(_context(example) for example in examples),
        answer_forms=TextForms.of(answer for example in examples for answer in example.answers),
    )


def _context(example: Example) -> str:
    if example.question is not None:
        return example.question.strip()
    return "\n".join(turn.text.strip() for turn in example.history)


def _gold_has_answer(example: Example, kb: KnowledgeBase | None) -> bool:
    if kb is None:
        return False
    texts = [kb[kb.row_of(gold)].text.casefold() for gold in example.gold_passages if gold in kb]
    return any(answer.casefold() in text for answer in example.answers for text in texts)


def _warnings(kb: KbReport | None, splits: Mapping[str, SplitReport]) -> Iterable[str]:
    if kb is not None and kb.repeated_texts:
        yield (
            f"{kb.repeated_texts} passages repeat another's title and text: retrieval cannot tell "
            "them apart, and a gold passage may lose to its twin"
        )
    if kb is not None and kb.near_duplicates:
        compared = f" of the first {kb.near_looked_at:,}" if kb.near_looked_at < kb.passages else ""
        yield (
            f"{kb.near_duplicates:,} passages{compared} say nearly what an earlier one says: where "
            "one of such a pair is gold, finding the other counts as a miss, so R@1 looks worse "
            "than it is. Remove copies, or name all of them in gold_passages"
        )
    if kb is not None:
        yield from kb.forms.warnings("passages")
    for split, report in splits.items():
        if report.rows == 0:
            yield f"{split}: holds no rows"
            continue
        if split != "train" and report.gold_missing_share == 1.0:
            yield f"{split}: no row has gold passages, so retrieval cannot be measured there"
        if report.repeated_rows:
            yield f"{split}: {report.repeated_rows} rows repeat another row's context and response"
        if report.asked_in_train:
            yield (
                f"{split}: {report.asked_in_train:,} rows have a context that is also in train "
                f"({report.contexts_in_train:,} of them word for word, "
                f"{report.answered_in_train:,} with an answer of it); scores on them measure memory"
            )
        elif report.dialogues_in_train:
            yield f"{split}: {report.dialogues_in_train} rows share a dialogue with train"
        yield from (
            f"{split}: {text}"
            for forms, kind in (
                (report.context_forms, "contexts"),
                (report.answer_forms, "answers"),
            )
            for text in forms.warnings(kind)
        )


def _share(values: Iterable[bool]) -> float:
    return _mean([float(value) for value in values])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
