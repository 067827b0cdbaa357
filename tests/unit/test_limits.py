"""What token limits cut, counted as the parts read it, and the one sentence about it."""

from __future__ import annotations

from typing import Any

import pytest

from jsarag.assemble import make_encoder, make_generator
from jsarag.config.load import parse_set, resolve
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.registry import Dataset
from jsarag.limits import Cut, measure_examples, measure_passages, passages_warning
from jsarag.models.prompts import passage_text
from jsarag.types import Example, GeneratorInput, Passage

LONG = "the otter sleeps in the river and eats fish every morning " * 4
PASSAGES = [Passage("a", LONG, "Otter"), Passage("b", "herons stand", "Heron")]
ROW = Example(id="1", answers=(LONG,), question=LONG)


def config(**limits: int) -> Any:
    return resolve(
        environment={},
        overrides=[parse_set(f"{key.replace('__', '.')}={value}") for key, value in limits.items()],
    ).config


def test_the_counts_are_those_of_the_parts_that_read() -> None:
    settings = config(
        retriever__max_passage_tokens=20,
        generator__max_passage_tokens=15,
        generator__max_context_tokens=12,
        generator__max_response_tokens=9,
    )
    cuts = [*measure_passages(settings, PASSAGES), *measure_examples(settings, [ROW])]
    encoder = make_encoder(settings)
    data = Dataset("x", KnowledgeBase(PASSAGES), {"train": [ROW]})
    generator = make_generator(settings, encoder, data)
    encoder.tokenise([passage_text(passage) for passage in PASSAGES], "passage")
    generator.response_logp([GeneratorInput(LONG, (passage,), LONG) for passage in PASSAGES])
    found = {(cut.kind, cut.setting.partition(".")[0]): cut for cut in cuts}
    read = {
        ("passages", "retriever"): encoder.truncation.fields["passage"],
        ("passages", "generator"): generator.truncation.fields["generator passage"],
    }
    for key, count in read.items():
        cut = found[key]
        assert (cut.texts, cut.texts_cut) == (count.texts, count.texts_cut)
        assert (cut.tokens, cut.tokens_cut) == (count.tokens, count.tokens_cut)
    answers = found["answers", "generator"]
    counted = generator.truncation.fields["generator response"]
    assert answers.tokens_cut == counted.tokens_cut // counted.texts_cut
    assert answers.fix == f"--set generator.max_response_tokens={answers.longest}"
    assert found["questions with answers", "retriever"].longest > answers.longest


def test_a_limit_that_is_raised_as_advised_cuts_nothing() -> None:
    settings = config(retriever__max_passage_tokens=20, generator__max_passage_tokens=20)
    advised = {
        cut.setting.replace(".", "__"): int(cut.fix.rpartition("=")[2])
        for cut in measure_passages(settings, PASSAGES)
    }
    again = measure_passages(config(**advised), PASSAGES)
    assert [cut.texts_cut for cut in again] == [0, 0]
    assert passages_warning(again) is None


def test_the_warning_names_shares_and_settings() -> None:
    settings = config(retriever__max_passage_tokens=20, generator__max_passage_tokens=100)
    warning = passages_warning(measure_passages(settings, PASSAGES))
    assert warning is not None
    assert "by retriever.max_passage_tokens=20" in warning
    assert "--set retriever.max_passage_tokens=" in warning
    assert "generator." not in warning


def test_a_percent_is_no_warning_and_a_sample_says_so() -> None:
    made = [Passage(str(number), f"words {number}") for number in range(50)]
    cuts = measure_passages(config(), made, sample=10)
    assert [(cut.texts, cut.there) for cut in cuts] == [(10, 50), (10, 50)]
    assert passages_warning(cuts) is None


@pytest.mark.parametrize(
    ("limit", "readable", "says"),
    [
        (160, 512, "--set retriever.max_passage_tokens=300"),
        (160, 256, "--set retriever.max_passage_tokens=256 (all that the model reads, 256)"),
        (256, 256, "the model reads no more than 256"),
    ],
)
def test_the_advice_is_one_that_the_model_can_follow(limit: int, readable: int, says: str) -> None:
    cut = Cut("passages", "retriever.max_passage_tokens", limit, readable, 9, 2, 900, 90, 300, 9)
    assert says in cut.describe()
    assert "cuts 2 of 9 passages, 10.0% of their tokens" in cut.describe()
