"""Near duplicates are found where they are, and nowhere else."""

from __future__ import annotations

import time

import pytest

from jsarag import randomness
from jsarag.data.near_duplicates import SIMILAR, NearDuplicates, near_duplicates

WORDS = [f"word{number}" for number in range(5000)]


def texts(count: int, words: int) -> list[str]:
    """Unrelated texts."""
    drawn = randomness.generator("texts", count, words).integers(len(WORDS), size=(count, words))
    return [" ".join(WORDS[place] for place in row) for row in drawn]


def changed(text: str, *places: int) -> str:
    words = text.split()
    for place in places:
        words[place] = "another"
    return " ".join(words)


def test_unrelated_texts_are_not_alike() -> None:
    assert near_duplicates(texts(2000, 30)) == NearDuplicates(0, 2000, ())
    assert near_duplicates([]) == NearDuplicates(0, 0, ())
    assert near_duplicates(["", "one", "two", "?!"]).count == 0


@pytest.mark.parametrize(
    ("places", "alike"), [((20,), True), ((5, 30), True), ((5, 15, 25, 35), False)]
)
def test_what_is_alike_is_found_up_to_the_threshold(places: tuple[int, ...], alike: bool) -> None:
    """Of 40 words, each one changed inside costs two of 39 pairs."""
    originals = texts(200, 40)
    copies = [changed(text, *places) for text in originals]
    similarity = (39 - 2 * len(places)) / (39 + 2 * len(places))
    assert (similarity >= SIMILAR) is alike
    found = near_duplicates([*originals, *copies])
    assert found.count == (200 if alike else 0)
    for pair in found.examples:
        assert pair.later == pair.earlier + 200
        assert pair.similarity == pytest.approx(similarity)
    assert len(found.examples) == (3 if alike else 0)


def test_repetitions_are_one_text() -> None:
    text, other = texts(2, 40)
    said = [text, text.upper() + ".", other, text, changed(text, 20), changed(text, 20)]
    found = near_duplicates(said)
    assert [(pair.later, pair.earlier) for pair in found.examples] == [(4, 0)]
    assert found.count == 1


def test_only_the_first_are_looked_at() -> None:
    (text,) = texts(1, 40)
    said = [text, *texts(8, 39), changed(text, 20)]
    assert near_duplicates(said).count == 1
    assert near_duplicates(said, most=9) == NearDuplicates(0, 9, ())


@pytest.mark.slow
def test_a_hundred_thousand_passages_take_seconds() -> None:
    made = texts(100_000, 100)
    began = time.perf_counter()
    assert near_duplicates(made).count == 0
    assert time.perf_counter() - began < 120
