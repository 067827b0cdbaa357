"""Rendering, truncation, pooling, padding and digests: the small rules everything rests on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from jsarag.errors import ConfigError
from jsarag.models.digests import tensors_digest, tokenizer_digest
from jsarag.models.padding import length_batches, pad, precision
from jsarag.models.pooling import declared_pooling, known_pooling, pool
from jsarag.models.prompts import (
    PromptTemplate,
    TruncationCounter,
    passage_text,
    posterior_text,
    render_context,
    render_posterior,
)
from jsarag.models.truncation import cut_texts, fit_text, token_ids
from jsarag.types import Example, Passage, Turn

from .conftest import bert_tokenizer, causal_tokenizer

DIALOGUE = Example(
    "d",
    (" fine ",),
    history=(Turn("user", "one "), Turn("system", "two"), Turn("", "three")),
)
QUESTION = Example("q", ("yes",), question=" why? ")


def test_contexts_keep_the_last_turns() -> None:
    assert render_context(DIALOGUE, 2) == "system: two\nthree"
    assert render_context(DIALOGUE, 9) == "user: one\nsystem: two\nthree"
    assert render_context(DIALOGUE, 0) == ""
    assert render_context(QUESTION, 0) == "why?"


def test_passages_and_posterior_inputs() -> None:
    assert passage_text(Passage("p", " text ", " title ")) == "title: text"
    assert passage_text(Passage("p", " text ")) == "text"
    template = "{context} {separator} {response}"
    assert render_posterior(DIALOGUE, 1, template, "[SEP]") == "three [SEP] fine"
    assert posterior_text("", "a", template, "[SEP]") == "[SEP] a"
    assert posterior_text("{x}", "{y}", "{response}|{context}", "") == "{y}|{x}"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{context}", "add {response}"),
        ("{context} {response} {gold}", "remove {gold}"),
        ("{context} {context} {response}", "bare"),
        ("{context!r} {response}", "bare"),
        ("{context} {response", "literal braces"),
    ],
)
def test_wrong_templates_are_refused(template: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=r"retriever.posterior_template") as caught:
        posterior_text("x", "y", template, "")
    assert fault in str(caught.value)


def test_prompts_repeat_the_passage_s_part() -> None:
    template = PromptTemplate("Read {{all}}:\n{title} - {passage}\nQ: {context}\nA:")
    one = template.render("why?", [("T", "text {braces}")])
    assert one == "Read {all}:\nT - text {braces}\nQ: why?\nA:"
    two = template.render("why?", [("T", "a"), ("", "b")])
    assert two == "Read {all}:\n[1] T - a\n[2] - b\nQ: why?\nA:"
    assert PromptTemplate("{context} {passage}").render("x", []) == "x "
    with pytest.raises(ConfigError, match="move it"):
        PromptTemplate("{title} {context} {passage}")
    with pytest.raises(ConfigError, match=r"add \{passage\}"):
        PromptTemplate("{context}")


def test_counter_reports_only_what_lost_something() -> None:
    counter = TruncationCounter()
    counter.add("passage", tokens=10, kept=4)
    counter.add("passage", tokens=3, kept=3)
    counter.add("context", tokens=3, kept=3)
    assert counter.summary() == "passage: 1 of 2 texts cut (6 of 13 tokens)"
    counter.reset()
    assert counter.summary() == ""


class Slow:
    """A tokeniser written in Python, as far as truncation can tell."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        assert not options.get("return_offsets_mapping")
        return self.inner(*arguments, **options)

    def decode(self, ids: Any) -> Any:
        return self.inner.decode(ids)


@pytest.mark.parametrize("make", [bert_tokenizer, causal_tokenizer, lambda: Slow(bert_tokenizer())])
def test_texts_are_cut_to_tokens_at_the_right_end(make: Any) -> None:
    tokenizer, counter = make(), TruncationCounter()
    texts = ["the otter sleeps in the river", "the", ""]
    (long, _, _) = token_ids(tokenizer, texts, special=False)
    start = cut_texts(tokenizer, texts, 3, keep="start", counter=counter, field="f")
    end = cut_texts(tokenizer, texts, 3, keep="end", counter=counter, field="f")
    assert start[1:] == end[1:] == ["the", ""]
    assert token_ids(tokenizer, start[:1], special=False)[0] == long[:3]
    assert token_ids(tokenizer, [end[0].strip()], special=False)[0][-2:] == long[-2:]
    assert texts[0].startswith(start[0])
    assert texts[0].endswith(end[0])
    assert counter.fields["f"].texts_cut == 2
    assert cut_texts(tokenizer, texts, 0, keep="end", counter=counter, field="f") == [""] * 3


def test_fitting_keeps_what_stands_around_the_text() -> None:
    tokenizer = bert_tokenizer()
    text = "the otter sleeps in the river and eats fish"
    for limit in range(6, 14):
        ids, rest = fit_text(tokenizer, text, limit, keep="end", before="user: ", after=" lynx")
        assert len(ids) <= limit
        tokens = tokenizer.convert_ids_to_tokens(ids)
        assert tokens[:3] == ["[CLS]", "user", ":"]
        assert tokens[-2:] == ["lynx", "[SEP]"]
        assert text.endswith(rest)
    ids, rest = fit_text(tokenizer, text, 100, keep="start")
    assert rest == text


def test_a_cut_inside_a_word_that_makes_more_pieces_of_it_is_cut_again() -> None:
    """The last piece of 'unhappily', standing alone, is seven letters."""
    tokenizer = bert_tokenizer()
    assert len(token_ids(tokenizer, ["unhappily"], special=False)[0]) == 3
    assert len(token_ids(tokenizer, ["happily"], special=False)[0]) == 7
    ids, rest = fit_text(tokenizer, "the otter unhappily fish", 4, keep="end")
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "fish", "[SEP]"]
    assert rest.strip() == "fish"


def test_pooling() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert pool(hidden, mask, "cls").tolist() == [[0.0, 1.0], [6.0, 7.0]]
    assert pool(hidden, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    with pytest.raises(ConfigError, match="got 'max'"):
        known_pooling("max")


def test_declared_pooling_reads_both_forms() -> None:
    flags = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": False}
    assert declared_pooling("m", None) == "mean"
    assert declared_pooling("m", flags | {"pooling_mode_cls_token": True}) == "cls"
    assert declared_pooling("m", {"pooling_mode": "lasttoken"}) == "last"
    for wrong in ({"pooling_mode_max_tokens": True}, flags, {"pooling_mode": "max"}):
        with pytest.raises(ConfigError, match=r"set retriever.pooling"):
            declared_pooling("m", wrong)
    with pytest.raises(ConfigError, match="pooling_mode_cls_token"):
        declared_pooling("m", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True})


def test_batches_hold_every_item_once_longest_first() -> None:
    lengths = [3, 9, 1, 9, 4]
    assert length_batches(lengths, 2) == [[1, 3], [4, 0], [2]]
    assert length_batches([], 2) == []


def test_padding_sides() -> None:
    device = torch.device("cpu")
    ids, mask = pad([[1, 2], [3]], 9, device)
    assert ids.tolist() == [[1, 2], [3, 9]]
    assert mask.tolist() == [[1, 1], [1, 0]]
    ids, mask = pad([[1, 2], [3]], 9, device, side="left")
    assert ids.tolist() == [[1, 2], [9, 3]]
    assert mask.tolist() == [[1, 1], [0, 1]]
    assert pad([], 0, device)[0].shape == (0, 0)


def test_precision_is_autocast_or_nothing() -> None:
    device, one = torch.device("cpu"), torch.ones(2, 2)
    with precision(device, True):
        assert (one @ one).dtype == torch.bfloat16
    with precision(device, False):
        assert (one @ one).dtype == torch.float32


def test_tensor_digests_follow_content_only() -> None:
    base = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}
    digest = tensors_digest(base)
    assert len(digest) == 32
    assert tensors_digest({"b": base["b"], "a": base["a"].t().contiguous().t()}) == digest
    for changed in (
        {**base, "a": base["a"] + 1},
        {**base, "a": base["a"].view(3, 2)},
        {**base, "a": base["a"].double()},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"]},
    ):
        assert tensors_digest(changed) != digest


def test_tokeniser_digests_ignore_use() -> None:
    tokenizer = copy.deepcopy(bert_tokenizer())
    digest = tokenizer_digest(tokenizer)
    tokenizer(["the otter", "the"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(tokenizer) == digest
    assert tokenizer_digest(causal_tokenizer()) != digest
    tokenizer.add_tokens(["zebra"])
    assert tokenizer_digest(tokenizer) != digest
