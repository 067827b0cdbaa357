"""Tiny models made on the spot: tokenisers trained here, networks with random weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from jsarag.models.digests import tokenizer_digest
from jsarag.models.encoder import EncoderSpec, TextEncoder
from jsarag.types import GeneratorInput, Passage

CORPUS = [
    "the otter sleeps in the river and eats fish every morning",
    "the lynx hunts hares in the snowy forest at night",
    "a heron stands still near the water and waits for frogs",
    "where does the otter sleep? it sleeps in the river.",
    "what does the lynx hunt? the lynx hunts hares, not fish!",
    "user: tell me about newts. system: newts live in ponds and like cold water.",
    "passage one two three four five six seven eight nine ten",
]
RESPONSES = [
    "it sleeps in the river.",
    "the lynx hunts hares at night",
    "newts live in ponds",
    "the heron waits for frogs",
]


def _word_pieces() -> Any:
    """Whole words of the corpus, and letters for all others; the same in every process."""
    import re

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = sorted(set(re.findall(r"[a-z]+|[^a-z\s]", " ".join(CORPUS))))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
        *dict.fromkeys([*words, *letters]),
        *(f"##{letter}" for letter in letters),
        "##happily",  # a piece that is no word: "unhappily" is "u ##n ##happily"
    ]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


@functools.cache
def bert_tokenizer() -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = _word_pieces()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


@functools.cache
def causal_tokenizer() -> Any:
    """Like GPT-2's: nothing is put around a text, and there is no padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>"
    )


@functools.cache
def seq2seq_tokenizer() -> Any:
    """Like T5's: every text ends with the end of sequence."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = _word_pieces()
    tokenizer.post_processor = TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]"
    )


def make_bert(tokenizer: Any, *, width: int = 32, positions: int = 64) -> Any:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=positions,
        ),
        add_pooling_layer=False,
    ).eval()


def make_encoder(**changes: Any) -> TextEncoder:
    tokenizer = bert_tokenizer()
    spec = {
        "model": "tiny",
        "pooling": "mean",
        "normalise": True,
        "query_prefix": "",
        "passage_prefix": "",
        "max_query_tokens": 24,
        "max_passage_tokens": 24,
        "tokenizer_digest": tokenizer_digest(tokenizer),
    } | changes
    return TextEncoder(make_bert(tokenizer), tokenizer, EncoderSpec(**spec))


def make_gpt2(tokenizer: Any, *, positions: int = 128, **changes: Any) -> Any:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=positions,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
        **changes,
    )
    return GPT2LMHeadModel(config).eval()


def make_llama(tokenizer: Any, **changes: Any) -> Any:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
        **changes,
    )
    return LlamaForCausalLM(config).eval()


def make_t5(tokenizer: Any, *, tied: bool = True) -> Any:
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
        tie_word_embeddings=tied,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def encoder() -> TextEncoder:
    return make_encoder()


@pytest.fixture
def inputs() -> list[GeneratorInput]:
    """Pairs of different lengths that share contexts, passages and responses."""
    otter = Passage("p0", CORPUS[0], "Otter")
    lynx = Passage("p1", CORPUS[1], "Lynx")
    heron = Passage("p2", CORPUS[2])
    where, what = "where does the otter sleep?", "user: hello\nsystem: hi\nuser: what does it hunt?"
    return [
        GeneratorInput(where, (otter,), RESPONSES[0]),
        GeneratorInput(where, (lynx,), RESPONSES[0]),
        GeneratorInput(what, (lynx,), RESPONSES[1]),
        GeneratorInput(what, (otter, heron), RESPONSES[1]),
        GeneratorInput(where, (heron,), "no"),
    ]
