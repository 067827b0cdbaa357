"""Prompts through a chat template: the template's special tokens, once, and its end of a turn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tokenizers import AddedToken

from jsarag.errors import ConfigError
from jsarag.models.chat import ChatTemplate
from jsarag.models.hf_generator import HFGenerator
from jsarag.models.hf_prompts import PromptBuilder, PromptSettings
from jsarag.models.prompts import TruncationCounter
from jsarag.types import GeneratorInput, Passage

from .conftest import causal_tokenizer, make_gpt2

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|over|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LONG = " ".join(["otter", "lynx", "heron", "hares", "fish", "frogs"] * 12)


def chat_tokenizer(template: str | None = TEMPLATE) -> Any:
    """The causal tokeniser with turns; like Llama's, it puts its own beginning before a text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(causal_tokenizer())
    turns = [f"<|{name}|>" for name in ("user", "assistant", "over")]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(turn, special=True) for turn in turns]}
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = template
    return tokenizer


def build(tokenizer: Any, *, positions: int = 160) -> PromptBuilder:
    return PromptBuilder(
        tokenizer,
        PromptSettings("chat", 8, 16, 6),
        positions=positions,
        is_encoder_decoder=False,
        counter=TruncationCounter(),
    )


def test_a_prompt_is_one_user_turn_with_the_context_first() -> None:
    tokenizer = chat_tokenizer()
    builder = build(tokenizer)
    one = GeneratorInput("why?", (Passage("p", "the otter", "T"),))
    two = GeneratorInput("why?", (Passage("p", "the otter", "T"), Passage("q", "a lynx")))
    (row, other) = builder.prompts([one, two], reserve=6)
    assert tokenizer.decode(row) == "<|end|><|user|>why?\n\nT the otter<|assistant|>"
    assert "why?\n\n[1] T the otter\n[2] a lynx<|assistant|>" in tokenizer.decode(other)


def test_special_tokens_come_from_the_template_alone() -> None:
    tokenizer = chat_tokenizer()
    assert tokenizer("why?")["input_ids"][0] == tokenizer.bos_token_id
    (row,) = build(tokenizer).prompts([GeneratorInput("why?", (Passage("p", "x"),))], reserve=6)
    assert row.count(tokenizer.bos_token_id) == 1
    assert row[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")


def test_a_response_ends_as_the_template_ends_a_turn() -> None:
    tokenizer = chat_tokenizer()
    over = tokenizer.convert_tokens_to_ids("<|over|>")
    builder = build(tokenizer)
    assert builder.eos_id == over != tokenizer.eos_token_id
    (row,) = builder.responses(["the otter"])
    assert row[-1] == over
    assert tokenizer.bos_token_id not in row
    assert builder.codec.decode([*row, 5]) == "the otter"
    # Where the template ends no turn, the end of sequence does.
    plain = chat_tokenizer(TEMPLATE.replace("<|over|>", ""))
    assert build(plain).eos_id == plain.eos_token_id


def test_fields_are_cut_before_they_are_rendered() -> None:
    tokenizer = chat_tokenizer()
    builder = build(tokenizer)
    (row,) = builder.prompts([GeneratorInput(LONG, (Passage("p", LONG, LONG),))], reserve=6)
    text = tokenizer.decode(row)
    context, passage = text.removeprefix("<|end|><|user|>").split("\n\n")
    assert LONG.endswith(context)
    assert len(tokenizer(context, add_special_tokens=False)["input_ids"]) == 8
    assert passage.endswith("<|assistant|>")
    assert builder.counter.fields["generator prompt"].texts_cut == 0
    passages = tuple(Passage(str(n), LONG) for n in range(3))
    (row,) = builder.prompts([GeneratorInput(LONG, passages)], reserve=6)
    assert len(row) + 6 <= 160
    assert row[0] == tokenizer.bos_token_id
    assert builder.counter.fields["generator prompt"].texts_cut == 0


def test_a_model_scores_and_answers_through_its_template() -> None:
    tokenizer = chat_tokenizer()
    settings = PromptSettings("chat", 8, 16, 6)
    generator = HFGenerator(make_gpt2(tokenizer), tokenizer, settings, name="tiny")
    items = [GeneratorInput("why?", (Passage("p", "the otter"),), "fish")]
    logp = generator.response_logp(items)
    assert logp.tokens.tolist() == [len(generator.encode_response("fish"))]
    assert generator.eos_id == tokenizer.convert_tokens_to_ids("<|over|>")
    assert len(generator.generate(items, max_new_tokens=3)) == 1


def test_templates_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'chat' needs a tokeniser with a chat template.*none;"):
        build(causal_tokenizer())
    with pytest.raises(ConfigError, match="ended with 'no system, no chat'; give a text"):
        ChatTemplate(chat_tokenizer("{{ raise_exception('no system, no chat') }}"))
