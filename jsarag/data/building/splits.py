"""Train and dev such that what a dev row asks for was not seen in training.

Rows that share a conversation, a source, a question or a long answer are one group, and a group is
never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jsarag import randomness
from jsarag.data.building.questions import Question
from jsarag.data.building.texts import squeezed
from jsarag.data.registry import Dataset
from jsarag.errors import DataError

SplitBy = Literal["auto", "source", "conversation", "answer", "question"]
SPLIT_BY: tuple[SplitBy, ...] = ("auto", "source", "conversation", "answer", "question")
# Answers of fewer words ("Yes.", "30 days") are shared by questions that have nothing in common.
_LONG_ANSWER = 4
# A group with more of the rows than this leaves nothing to choose from.
_LARGEST_SHARE = 0.6

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows by split name, and how they were cut.

    Attributes:
        train, dev: positions of the rows, in order.
        kept_together: what rows of one group share, in words.
        groups: how many groups there are.
        notes: what could not be kept apart.
    """

    train: tuple[int, ...]
    dev: tuple[int, ...]
    kept_together: tuple[str, ...]
    groups: int
    notes: tuple[str, ...] = ()


def split_rows(
    rows: Sequence[Question],
    gold: Sequence[Sequence[str]],
    *,
    dev_fraction: float,
    by: SplitBy = "auto",
    seed: int = 0,
) -> Split:
    """Choose whole groups for dev until it has its share; the same for the same rows and seed.

    ``auto`` keeps rows together that share a conversation, a source, or an answer of four words or
    more; where nearly all rows would be one group, it lets go of the answer first, then of the
    source, and says so. The same question is never on both sides.

    Args:
        rows: at least two.
        gold: each row's gold passages; rows that share one share a source, whatever they call it.
        dev_fraction: dev's share of the rows, above 0 and below 1.
        by: what rows of one group share besides their question.
        seed: chooses the groups.

    Raises:
        DataError: there is only one group, or the fraction is no share.
    """
    if not 0 < dev_fraction < 1:
        raise DataError(f"expected a dev fraction above 0 and below 1, got {dev_fraction}")
    notes: list[str] = []
    shared = _shared(rows, by)
    while True:
        groups = _groups([_keys(row, ids, shared) for row, ids in zip(rows, gold, strict=True)])
        largest = max(map(len, groups), default=0)
        if by != "auto" or len(shared) < 2 or largest <= _LARGEST_SHARE * len(rows):
            break
        dropped = shared.pop()
        notes.append(
            f"{largest:,} of {len(rows):,} rows hang together by their {dropped}, so rows that "
            f"share one may be in both splits (--split-by {dropped} insists)"
        )
    if len(groups) < 2:
        raise DataError(
            f"expected rows that can be cut in two, found that all {len(rows):,} share one "
            f"{' or '.join(shared)}; add rows, or cut finer: --split-by question"
        )
    dev = _choose(groups, rows, dev_fraction, seed)
    train = tuple(place for place in range(len(rows)) if place not in dev)
    return Split(train, tuple(sorted(dev)), tuple(shared), len(groups), tuple(notes))


def cut_dev(dataset: Dataset, fraction: float, *, seed: int = 0) -> Dataset:
    """The data set with a dev split cut off its training rows, as :func:`split_rows` cuts.

    Raises:
        DataError: it has a dev split, has no rows to cut, or they cannot be cut.
    """
    if "dev" in dataset.splits:
        raise DataError(f"'{dataset.name}' has a dev split; leave out --dev-fraction")
    examples = dataset.splits.get("train", [])
    if len(examples) < 2:
        raise DataError(f"'{dataset.name}': expected at least two training rows to cut a dev split")
    # Gold is what rows share: it does for a source's name.
    rows = [
        Question(example, example.gold_passages, place, example.dialogue_id)
        for place, example in enumerate(examples)
    ]
    split = split_rows(rows, [row.sources for row in rows], dev_fraction=fraction, seed=seed)
    cut = {
        "train": [examples[place] for place in split.train],
        "dev": [examples[place] for place in split.dev],
    }
    return replace(dataset, splits={**dataset.splits, **cut}, notes=(*dataset.notes, *split.notes))


def _shared(rows: Sequence[Question], by: SplitBy) -> list[str]:
    """What makes rows one group, the first to be kept longest."""
    has = {
        "question": True,
        "conversation": any(row.conversation for row in rows),
        "source": any(row.sources for row in rows),
        "answer": True,
    }
    if by == "auto":
        return [kind for kind, there in has.items() if there]
    if not has[by]:
        raise DataError(
            f"--split-by {by}: no row names a {by}; name its column with --map {by}=COLUMN"
        )
    return list(dict.fromkeys(("question", by)))


def _keys(row: Question, gold: Iterable[str], shared: Iterable[str]) -> list[_Key]:
    example = row.example
    # The last turn of a dialogue ("and for socks?") says nothing without those before it.
    context = example.question or "\n".join(turn.text for turn in example.history)
    found: Mapping[str, list[str]] = {
        "question": [squeezed(context).casefold()],
        "conversation": [row.conversation] if row.conversation else [],
        "source": [*(squeezed(name).casefold() for name in row.sources), *gold],
        "answer": [
            squeezed(answer).casefold()
            for answer in example.answers
            if len(answer.split()) >= _LONG_ANSWER
        ],
    }
    return [(kind, value) for kind in shared for value in found[kind]]


def _groups(keys: Sequence[Sequence[_Key]]) -> list[list[int]]:
    """Rows that share a key, directly or through others, in the order of their first rows."""
    parent = list(range(len(keys)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[_Key, int] = {}
    for place, own in enumerate(keys):
        for key in own:
            one, other = root(place), root(first.setdefault(key, place))
            parent[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for place in range(len(keys)):
        groups.setdefault(root(place), []).append(place)
    return list(groups.values())


def _choose(
    groups: Sequence[Sequence[int]], rows: Sequence[Question], fraction: float, seed: int
) -> set[int]:
    """Whole groups whose sizes add up to about the fraction; at least one stays on either side."""
    wanted = max(1, round(fraction * len(rows)))

    def draw(group: Sequence[int]) -> int:
        # Keyed by content, not by place: other rows do not change where a group falls in the order.
        return randomness.digest(seed, "split", min(rows[place].example.id for place in group))

    dev: set[int] = set()
    order = sorted(groups, key=draw)
    for group in order:
        # A large group may overshoot, but only while that is nearer than stopping short.
        over = len(dev) + len(group) - wanted
        if over <= (wanted - len(dev)) // 2 and len(dev) + len(group) < len(rows):
            dev.update(group)
        if len(dev) >= wanted:
            break
    smallest: Sequence[int] = min(order, key=len)
    return dev or set(smallest)
