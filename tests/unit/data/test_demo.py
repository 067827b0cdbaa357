"""The demo dataset keeps its promises: sizes, decoys, unseen gold, and the reply that tells."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from jsarag.data.demo import DEV_ROWS, DEV_ROWS_NEW, TRAIN_ROWS, DemoData, make_demo
from jsarag.data.registry import load_dataset
from jsarag.types import Example


@pytest.fixture(scope="module")
def demo() -> DemoData:
    return make_demo()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Bm25:
    """Word overlap, weighted; k1 1.2 and b 0.75 as usual."""

    def __init__(self, texts: list[str]) -> None:
        self.bags = [Counter(words(text)) for text in texts]
        self.mean = sum(bag.total() for bag in self.bags) / len(texts)
        found = Counter(word for bag in self.bags for word in bag)
        self.idf = {w: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for w, n in found.items()}

    def rank(self, query: str, row: int) -> int:
        known = [word for word in words(query) if word in self.idf]
        scores = [self._score(bag, known) for bag in self.bags]
        return sum(score > scores[row] for score in scores) + 1

    def _score(self, bag: Counter[str], query: list[str]) -> float:
        norm = 1.2 * (0.25 + 0.75 * bag.total() / self.mean)
        return sum(self.idf[w] * bag[w] * 2.2 / (bag[w] + norm) for w in query if w in bag)


def gold_rank_share(demo: DemoData, rows: list[Example], top: int, *, reply: bool) -> float:
    bm25 = Bm25([f"{p.title} {p.text}" for p in demo.passages])
    row_of = {passage.id: row for row, passage in enumerate(demo.passages)}
    ranks = [
        bm25.rank(
            f"{example.question} {example.response if reply else ''}",
            row_of[example.gold_passages[0]],
        )
        for example in rows
    ]
    return sum(rank <= top for rank in ranks) / len(ranks)


def test_sizes_and_distinctness(demo: DemoData) -> None:
    assert len(demo.passages) >= 1000
    assert (len(demo.train), len(demo.dev)) == (TRAIN_ROWS, DEV_ROWS)
    assert len({passage.id for passage in demo.passages}) == len(demo.passages)
    assert len({(passage.title, passage.text) for passage in demo.passages}) == len(demo.passages)
    rows = [*demo.train, *demo.dev]
    assert len({example.id for example in rows}) == len(rows)
    assert not {e.question for e in demo.train} & {e.question for e in demo.dev}


def test_no_slot_is_left_open(demo: DemoData) -> None:
    texts = [passage.text for passage in demo.passages]
    for example in (*demo.train, *demo.dev):
        texts += [example.question or "", *example.answers]
    assert not [text for text in texts if "{" in text or "}" in text or not text.strip()]


def test_most_dev_gold_is_gold_for_no_training_row(demo: DemoData) -> None:
    trained = {gold for example in demo.train for gold in example.gold_passages}
    new = [example for example in demo.dev if not set(example.gold_passages) & trained]
    assert len(new) == DEV_ROWS_NEW
    assert len(new) >= len(demo.dev) / 2
    # ... and no training row is about those machines at all.
    titles = {passage.id: passage.title for passage in demo.passages}
    machines = {titles[example.gold_passages[0]] for example in new}
    assert not machines & {titles[example.gold_passages[0]] for example in demo.train}


def test_each_gold_passage_is_about_the_machine_in_the_question(demo: DemoData) -> None:
    titles = {passage.id: passage.title for passage in demo.passages}
    for example in (*demo.train, *demo.dev):
        (gold,) = example.gold_passages
        assert titles[gold].split()[0] in (example.question or "")


def test_word_overlap_alone_misleads_and_the_reply_tells(demo: DemoData) -> None:
    rows = list(demo.dev[:60])
    assert gold_rank_share(demo, rows, 1, reply=False) < 0.1
    assert gold_rank_share(demo, rows, 1, reply=True) > 0.8


def test_part_codes_in_a_reply_stand_in_its_gold_passage_alone(demo: DemoData) -> None:
    texts = {passage.id: passage.text for passage in demo.passages}
    codes = 0
    for example in (*demo.train, *demo.dev):
        for code in re.findall(r"\b[A-Z]{2}-\d{3}\b", " ".join(example.answers)):
            assert [name for name, text in texts.items() if code in text] == list(
                example.gold_passages
            )
            codes += 1
    assert codes > 500


def test_ids_and_order_tell_nothing(demo: DemoData) -> None:
    gold = {e.gold_passages[0] for e in (*demo.train, *demo.dev)}
    places = [row for row, passage in enumerate(demo.passages) if passage.id in gold]
    middle = len(demo.passages) / 2
    assert abs(sum(places) / len(places) - middle) < 0.1 * len(demo.passages)
    assert [p.id for p in demo.passages] == sorted(p.id for p in demo.passages)


def test_it_is_the_same_every_time_and_quick() -> None:
    code = "from jsarag.data.registry import load_dataset; print(load_dataset('demo').digest)"
    start = time.perf_counter()
    here = load_dataset("demo").digest
    assert time.perf_counter() - start < 2.0
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert here == other


def test_gold_is_for_evaluation_only(demo: DemoData) -> None:
    # A row says nothing else about its passage: no exclusions, no ids in its texts.
    ids = {passage.id for passage in demo.passages}
    for example in demo.train:
        assert example.exclude_passages == ()
        assert not any(identity in (example.question or "") for identity in list(ids)[:50])
