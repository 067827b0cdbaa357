"""Prompts of Hugging Face models: nothing is lost in silence, and the response always fits."""

from __future__ import annotations

import pytest

from jsarag.errors import ConfigError
from jsarag.models.hf_prompts import PromptBuilder, PromptSettings
from jsarag.models.prompts import TruncationCounter
from jsarag.types import GeneratorInput, Passage

from .conftest import bert_tokenizer, causal_tokenizer, seq2seq_tokenizer

WORDS = ["otter", "lynx", "heron", "hares", "fish", "frogs", "newts", "ponds", "river", "snowy"]
LONG = " ".join(WORDS * 6)


def build(tokenizer: object, *, positions: int = 128, seq2seq: bool = False) -> PromptBuilder:
    return PromptBuilder(
        tokenizer,
        PromptSettings("{title} {passage}\n{context}\n", 8, 16, 6),
        positions=positions,
        is_encoder_decoder=seq2seq,
        counter=TruncationCounter(),
    )


def test_a_short_prompt_is_the_template_itself() -> None:
    tokenizer = causal_tokenizer()
    item = GeneratorInput("why?", (Passage("p", "the otter", "T"),))
    (row,) = build(tokenizer).prompts([item], reserve=6)
    assert tokenizer.decode(row) == "T the otter\nwhy?\n"
    seq2seq = seq2seq_tokenizer()
    (row,) = build(seq2seq, seq2seq=True).prompts([item], reserve=6)
    assert row == seq2seq("T the otter\nwhy?\n")["input_ids"]
    assert row[-1] == seq2seq.eos_token_id


def test_fields_are_cut_to_their_limits_and_counted() -> None:
    tokenizer = bert_tokenizer()
    builder = build(tokenizer)
    (text,) = builder.render([GeneratorInput(LONG, (Passage("p", LONG, LONG),))], reserve=6)
    head, context = text.strip().split("\n")
    assert len(tokenizer(context, add_special_tokens=False)["input_ids"]) == 8
    assert LONG.endswith(context)
    title, passage = LONG[: head.index(" otter")], head[head.index(" otter") + 1 :]
    assert len(tokenizer(title, add_special_tokens=False)["input_ids"]) == 4
    assert len(tokenizer(passage, add_special_tokens=False)["input_ids"]) == 16
    assert LONG.startswith(passage)
    cut = {name: count.texts_cut for name, count in builder.counter.fields.items()}
    assert cut == {"generator context": 1, "generator title": 1, "generator passage": 1}


def test_several_passages_share_the_room_and_the_context_survives() -> None:
    tokenizer = bert_tokenizer()
    builder = build(tokenizer, positions=96)
    passages = tuple(Passage(str(n), LONG) for n in range(4))
    assert builder.passage_limit(4, 6) < builder.passage_limit(1, 6) == 16
    (row,) = builder.prompts([GeneratorInput(LONG, passages)], reserve=6)
    assert len(row) + 6 <= 96
    (text,) = builder.render([GeneratorInput(LONG, passages)], reserve=6)
    parts = text.strip().split("\n")
    assert [part[:4] for part in parts[:4]] == ["[1] ", "[2] ", "[3] ", "[4] "]
    assert len({len(part) for part in parts[:4]}) == 1
    assert len(tokenizer(parts[4], add_special_tokens=False)["input_ids"]) == 8
    assert builder.counter.fields["generator prompt"].texts_cut == 0


def test_too_many_passages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"room for 20 passage"):
        build(bert_tokenizer(), positions=96).passage_limit(20, 6)
    with pytest.raises(ConfigError, match=r"lower generator\.max_context_tokens"):
        build(bert_tokenizer(), positions=32)


def test_causal_prompts_are_open_ended_and_never_empty() -> None:
    tokenizer = seq2seq_tokenizer()  # puts an end behind every text
    (row,) = build(tokenizer).prompts([GeneratorInput("why", (Passage("p", "fish"),))], reserve=6)
    assert row[-1] != tokenizer.eos_token_id
    empty = causal_tokenizer()
    builder = PromptBuilder(
        empty,
        PromptSettings("{passage}{context}", 8, 16, 6),
        positions=64,
        is_encoder_decoder=False,
        counter=TruncationCounter(),
    )
    assert builder.prompts([GeneratorInput("", ())], reserve=6) == [[empty.bos_token_id]]


def test_responses_end_once() -> None:
    builder = build(causal_tokenizer())
    (row,) = builder.responses(["the otter"])
    assert row[-1] == builder.eos_id
    assert builder.eos_id not in row[:-1]
    (long,) = builder.responses([LONG])
    assert len(long) == 6


def test_a_decoder_s_lead_is_what_the_tokeniser_puts_first() -> None:
    assert build(bert_tokenizer()).response_lead == [bert_tokenizer().cls_token_id]
    assert build(seq2seq_tokenizer(), seq2seq=True).response_lead == []
    assert build(causal_tokenizer()).response_lead == []
