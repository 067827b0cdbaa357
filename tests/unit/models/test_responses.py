"""Responses to token ids and back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jsarag.errors import ConfigError
from jsarag.models.prompts import TruncationCounter
from jsarag.models.responses import ResponseCodec, end_of_sequence

from .conftest import bert_tokenizer, causal_tokenizer


def codec(limit: int = 6) -> ResponseCodec:
    return ResponseCodec(bert_tokenizer(), limit, TruncationCounter())


def test_end_is_the_tokeniser_s_own_or_its_separator() -> None:
    assert end_of_sequence(causal_tokenizer()) == causal_tokenizer().eos_token_id
    assert end_of_sequence(bert_tokenizer()) == bert_tokenizer().sep_token_id
    with pytest.raises(ConfigError, match="end-of-sequence"):
        end_of_sequence(SimpleNamespace(eos_token_id=None, sep_token_id=None))


def test_round_trip_and_truncation() -> None:
    made = codec()
    (short, long, again) = made.encode(
        ["the river", "the river in the forest at night", "the river"]
    )
    assert short == again
    assert short[-1] == long[-1] == made.eos_id
    assert len(long) == 6
    assert made.decode(short) == "the river"
    assert made.decode(long) == "the river in the forest"
    assert made.decode([*short, *long]) == "the river"
    count = made.counter.fields["generator response"]
    assert (count.texts, count.texts_cut, count.tokens_cut) == (2, 1, 2)


def test_a_response_ends_once() -> None:
    made = codec()
    assert made.encode(["the [SEP] river"]) == made.encode(["the river"])
    assert made.encode([""]) == [[made.eos_id]]


def test_a_limit_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        codec(1)
