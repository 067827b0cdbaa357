"""Passages: within the limit, nothing lost, titles and positions kept, ids that stay."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsarag.data.building.documents import Document
from jsarag.data.building.markup import Block, Section, parse_markdown
from jsarag.data.building.splitting import PassageSplitter
from jsarag.errors import DataError
from jsarag.types import Passage

SENTENCES = ["The valve opens at noon.", "Nobody waters cacti!", "Is the ring blue?", "It is."]


def split(document: Document, tokenizer: Any, limit: int = 64, overlap: int = 0) -> list[Passage]:
    splitter = PassageSplitter(tokenizer, max_tokens=limit, overlap_tokens=overlap)
    return list(splitter.split(document))


def document(text: str, path: str = "guide.md", title: str = "Guide") -> Document:
    return Document(path, title, parse_markdown(text).sections)


def test_titles_positions_and_ids(tokenizer: Any) -> None:
    text = "Welcome.\n\n# Returns\n\nThirty days.\n\n## Socks\n\nNever.\n"
    found = split(document(text), tokenizer, limit=160)
    assert [passage.title for passage in found] == [
        "Guide",
        "Guide > Returns",
        "Guide > Returns > Socks",
    ]
    assert [dict(passage.meta) for passage in found] == [
        {"source": "guide.md", "part": 1, "line": 1},
        {"source": "guide.md", "part": 2, "line": 5},
        {"source": "guide.md", "part": 3, "line": 9},
    ]
    assert all(passage.id.startswith("guide.md#") for passage in found)


def test_ids_stay_when_other_parts_change(tokenizer: Any) -> None:
    before = split(document("# A\n\nOne.\n\n# B\n\nTwo.\n"), tokenizer)
    after = split(document("# New\n\nZero.\n\n# A\n\nOne.\n\n# B\n\nTwo!\n"), tokenizer)
    assert before[0].id == after[1].id
    assert before[1].id != after[2].id
    other = split(document("# A\n\nOne.\n", path="other.md"), tokenizer)
    assert other[0].id != before[0].id


def test_cuts_fall_between_sentences(tokenizer: Any) -> None:
    text = " ".join(SENTENCES * 5)
    found = split(document(text), tokenizer, limit=72)
    assert len(found) > 3
    assert all(passage.text[-1] in ".!?" for passage in found)


def test_overlap_repeats_the_end(tokenizer: Any) -> None:
    text = " ".join(f"Sentence number {word}." for word in ("one", "two", "six", "ten", "none"))
    found = split(document(text), tokenizer, limit=72, overlap=30)
    assert len(found) > 1
    for first, second in pairwise(found):
        assert second.text.startswith(first.text.split(". ")[-1])


def test_a_long_title_path_gives_way_and_stays_in_meta(tokenizer: Any) -> None:
    text = "# A chapter with a name\n\n## A section with a longer name\n\nText.\n"
    (passage,) = split(document(text), tokenizer, limit=48)
    assert passage.title == "A section with a"
    assert passage.meta["headings"] == [
        "Guide",
        "A chapter with a name",
        "A section with a longer name",
    ]


def test_limits_that_make_no_sense_are_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="at least 24"):
        PassageSplitter(tokenizer, max_tokens=8, overlap_tokens=0)
    with pytest.raises(DataError, match="half the limit"):
        PassageSplitter(tokenizer, max_tokens=24, overlap_tokens=13)


def letters(text: str) -> str:
    return "".join(text.split())


words = st.text(alphabet="abcdefgh.,;!é ", min_size=1, max_size=60)
blocks = st.lists(words.filter(lambda text: text.strip()), min_size=1, max_size=6)
sections = st.lists(st.tuples(st.sampled_from(["", "Short", "A longer heading"]), blocks))


@settings(max_examples=120, deadline=None)
@given(made=sections, limit=st.integers(24, 80), share=st.integers(2, 8))
def test_no_character_is_lost_and_no_passage_is_too_long(
    tokenizer: Any, made: list[tuple[str, list[str]]], limit: int, share: int
) -> None:
    """Every character but white space stands in a passage, whatever the text and the limits."""
    parts = [
        Section((heading,) if heading else (), [Block(text.strip()) for text in texts])
        for heading, texts in made
    ]
    splitter = PassageSplitter(tokenizer, max_tokens=limit, overlap_tokens=limit // share)
    for part in parts:
        passages = list(splitter.split(Document("x.md", "X", [part])))
        source = letters("".join(block.text for block in part.blocks))
        covered = 0
        for passage in passages:
            assert splitter.count(passage.title, passage.text) <= limit
            piece = letters(passage.text)
            # The furthest place where the piece goes on without a gap.
            starts = [
                start
                for start in range(covered + 1)
                if source.startswith(piece, start) and start + len(piece) >= covered
            ]
            assert starts, (piece, source[covered:])
            covered = max(starts) + len(piece)
        assert covered == len(source)


paragraphs = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon"]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), paragraphs), min_size=1, max_size=8))
def test_every_word_of_a_page_is_in_a_passage(
    tokenizer: Any, page: list[tuple[int, list[str]]]
) -> None:
    """From Markdown to passages: headings of any depth, with or without text below them."""
    text, wanted = "", []
    for place, (level, body) in enumerate(page):
        numbered = [f"{word}{place}" for word in body]
        text += f"{'#' * level} {' '.join(numbered)}\n\n" if level else f"{' '.join(numbered)}\n\n"
        wanted += numbered
    found = split(document(text), tokenizer, limit=256)
    kept = " ".join(
        f"{' '.join(passage.meta.get('headings', ()))} {passage.title} {passage.text}"
        for passage in found
    )
    assert set(wanted) <= set(kept.split())
