"""Splits that leak nothing, the passages a source names, and what stands twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsarag.data.building.documents import Document
from jsarag.data.building.gold import Sources, find_gold
from jsarag.data.building.markup import Block, Section
from jsarag.data.building.questions import Question
from jsarag.data.building.repeats import PassageSet, boilerplate, without_copies
from jsarag.data.building.splits import split_rows
from jsarag.errors import DataError
from jsarag.types import Example, Passage


def question(
    number: int, *, sources: tuple[str, ...] = (), conversation: str = "", answer: str = "no"
) -> Question:
    example = Example(id=f"q{number}", answers=(answer,), question=f"question {number}?")
    return Question(example, sources, number, conversation)


rows_strategy = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 8), st.integers(0, 20)), min_size=2, max_size=40
)


@given(rows_strategy, st.floats(0.05, 0.95), st.integers(0, 5))
def test_rows_that_share_anything_stay_together(
    made: list[tuple[int, int, int]], fraction: float, seed: int
) -> None:
    rows = [
        question(
            place,
            sources=(f"page{source}",),
            conversation=f"c{conversation}" if conversation else "",
        )
        for place, (source, conversation, _) in enumerate(made)
    ]
    gold: list[tuple[str, ...]] = [(f"passage{shared}",) for _, _, shared in made]
    try:
        split = split_rows(rows, gold, dev_fraction=fraction, by="source", seed=seed)
    except DataError:
        return  # one group
    assert sorted((*split.train, *split.dev)) == list(range(len(rows)))
    assert split.train
    assert split.dev
    for of in (
        lambda place: rows[place].sources,
        lambda place: gold[place],
        lambda place: rows[place].example.question,
    ):
        assert not {of(place) for place in split.train} & {of(place) for place in split.dev}


def test_the_split_stays_when_rows_are_added() -> None:
    rows = [question(number) for number in range(100)]
    small = split_rows(rows[:80], [()] * 80, dev_fraction=0.2)
    large = split_rows(rows, [()] * 100, dev_fraction=0.2)
    assert len(large.dev) == 20
    moved = {place for place in range(80) if (place in small.dev) != (place in large.dev)}
    assert len(moved) < 12
    other = split_rows(rows, [()] * 100, dev_fraction=0.2, seed=1)
    assert other.dev != large.dev


def test_what_holds_nearly_all_together_is_let_go_and_said() -> None:
    rows = [question(number, sources=("one.md",)) for number in range(20)]
    split = split_rows(rows, [()] * 20, dev_fraction=0.2)
    assert split.kept_together == ("question",)
    assert "--split-by source" in split.notes[-1]
    with pytest.raises(DataError, match="cut finer: --split-by question"):
        split_rows(rows, [()] * 20, dev_fraction=0.2, by="source")
    with pytest.raises(DataError, match="--map conversation=COLUMN"):
        split_rows(rows, [()] * 20, dev_fraction=0.2, by="conversation")


def test_a_source_is_a_file_a_title_or_a_place_in_a_file() -> None:
    passages = [
        Passage("1", "a", "Guide > Returns", {}),
        Passage("2", "b", "Guide > Socks", {}),
        Passage("3", "c", "Other > Returns", {}),
    ]
    sources = Sources(passages, {"docs/guide.md": ["1", "2"], "docs/other.md": ["3"]})
    expected = {
        "docs/guide.md": ("1", "2"),
        "Guide": ("1", "2"),
        "guide.md#Returns": ("1",),
        "guide.md#returns": ("1",),
        "https://shop.example/docs/other.md": ("3",),
        "Guide > Socks": ("2",),
        "Returns": ("1", "3"),
        "nowhere": (),
    }
    assert {name: sources.passages(name) for name in expected} == expected
    gold, report = find_gold([["guide.md", "nowhere"], [], ["nowhere"]], sources)
    assert gold == [("1", "2"), (), ()]
    assert (report.rows, report.found, report.unknown) == (2, 1, ("nowhere",))


def test_copies_repeats_and_boilerplate_are_found() -> None:
    def page(path: str, *texts: str) -> Document:
        return Document(path, "Page", [Section((), [Block(text) for text in texts])])

    footer = "Copyright by the shop, all rights reserved."
    pages = [page("a", "One.", footer), page("b", "Two.", footer), page("c", "Three.", footer)]
    kept, copies = without_copies([*pages, page("d", "One.", footer)])
    assert [document.path for document in kept] == ["a", "b", "c"]
    assert copies == {"d": "a"}
    assert boilerplate(kept) == [(footer, 3)]
    assert boilerplate(kept[:2]) == []
    made = PassageSet()
    made.add("a", [Passage("1", "Text.", "T"), Passage("2", "Text.", "Other")])
    made.add("b", [Passage("3", "Text. ", "T")])
    assert [passage.id for passage in made.passages] == ["1", "2"]
    assert made.by_source == {"a": ["1", "2"], "b": ["1"]}
    assert (made.repeated, made.same_text) == (1, 1)
