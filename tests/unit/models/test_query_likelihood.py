"""The bag-of-words generator against its formula, word by word."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from jsarag.errors import CheckpointError, ConfigError
from jsarag.models.encoder import TextEncoder
from jsarag.models.prompts import passage_text
from jsarag.models.query_likelihood import QueryLikelihood, build_query_likelihood, load_saved
from jsarag.types import GeneratorInput, Passage

from .conftest import CORPUS, RESPONSES

PASSAGES = [Passage(f"p{row}", text) for row, text in enumerate(CORPUS[:3])]


@pytest.fixture
def generator(encoder: TextEncoder) -> QueryLikelihood:
    return build_query_likelihood(
        encoder, RESPONSES, PASSAGES, unigram_weight=0.3, max_response_tokens=12
    )


def test_token_logp_is_the_formula(
    generator: QueryLikelihood, inputs: list[GeneratorInput]
) -> None:
    scored = generator.token_logp(inputs)
    for place, item in enumerate(inputs):
        ids = generator.encode_response(item.response)
        bag = [
            token
            for passage in item.passages
            for token in generator.tokenizer(passage_text(passage), add_special_tokens=False)[
                "input_ids"
            ]
        ]
        expected = [
            math.log(
                0.7 * bag.count(token) / len(bag)
                + 0.3 * float(generator.get_buffer("unigram")[token])
            )
            for token in ids
        ]
        assert scored.mask[place].sum() == len(ids)
        assert scored.logp[place, : len(ids)].tolist() == pytest.approx(expected, rel=1e-5)
        assert not scored.logp[place, len(ids) :].any()


def test_background_counts_responses_and_passages(generator: QueryLikelihood) -> None:
    unigram = generator.get_buffer("unigram")
    texts = [*RESPONSES, *(passage.text for passage in PASSAGES)]
    rows = generator.tokenizer(texts, add_special_tokens=False)["input_ids"]
    total = sum(map(len, rows)) + len(RESPONSES) + 0.1 * len(unigram)
    lynx = generator.tokenizer.convert_tokens_to_ids("lynx")
    count = sum(row.count(lynx) for row in rows)
    assert count >= 2
    assert float(unigram[lynx]) == pytest.approx((count + 0.1) / total)
    assert float(unigram[generator.eos_id]) == pytest.approx((len(RESPONSES) + 0.1) / total)


def test_distribution_sums_to_one_and_agrees_with_token_logp(
    generator: QueryLikelihood, inputs: list[GeneratorInput]
) -> None:
    empty = GeneratorInput("", (), RESPONSES[0])
    everything = [*inputs, empty]
    table = generator.next_token_logp(everything, [[]] * len(everything))
    assert table.isfinite().all()
    assert table.double().exp().sum(dim=1).tolist() == pytest.approx([1.0] * len(everything))
    scored = generator.token_logp(everything)
    for place, item in enumerate(everything):
        ids = generator.encode_response(item.response)
        assert torch.allclose(scored.logp[place, : len(ids)], table[place, ids], atol=1e-5)


def test_the_passage_with_the_words_is_likelier_and_the_end_costs_the_same(
    generator: QueryLikelihood, inputs: list[GeneratorInput]
) -> None:
    right, wrong = generator.token_logp(inputs[:2]).logp
    assert right.sum() > wrong.sum() + 1
    assert right[-1] == wrong[-1]  # the end of sequence: no passage holds it


def test_responses_are_cut_and_counted(generator: QueryLikelihood) -> None:
    ids = generator.encode_response("the river " * 20)
    assert len(ids) == 12
    assert ids[-1] == generator.eos_id
    assert generator.decode(ids) == " ".join(["the river"] * 5 + ["the"])
    assert "generator response: 1 of 1 texts cut (29 of 40 tokens)" in (
        generator.truncation.summary()
    )


def test_unknown_words_are_possible_everywhere(generator: QueryLikelihood) -> None:
    item = GeneratorInput("", (PASSAGES[0],), "日本 zebra")
    assert generator.response_logp([item]).logp.isfinite().all()


def test_no_inputs(generator: QueryLikelihood) -> None:
    assert generator.response_logp([]).logp.shape == (0,)
    assert generator.token_logp([]).mask.shape == (0, 0)
    assert generator.generate([], max_new_tokens=3) == []


def test_it_has_nothing_to_train_and_its_digest_follows_its_counts(
    encoder: TextEncoder, generator: QueryLikelihood
) -> None:
    assert not generator.is_trainable
    other = build_query_likelihood(
        encoder, RESPONSES[:2], PASSAGES, unigram_weight=0.3, max_response_tokens=12
    )
    same = build_query_likelihood(
        encoder, RESPONSES, PASSAGES, unigram_weight=0.3, max_response_tokens=12
    )
    assert generator.digest() == same.digest() != other.digest()


def test_saved_and_loaded_scores_alike(
    generator: QueryLikelihood, inputs: list[GeneratorInput], tmp_path: Path
) -> None:
    generator.save(tmp_path)
    loaded = load_saved(tmp_path)
    assert torch.equal(loaded.response_logp(inputs).logp, generator.response_logp(inputs).logp)
    with pytest.raises(CheckpointError, match="saved 'query-likelihood' generator"):
        load_saved(tmp_path / "nothing")


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_that_forbids_words_is_refused(encoder: TextEncoder, weight: float) -> None:
    with pytest.raises(ConfigError, match="unigram_weight: expected a number between 0 and 1"):
        build_query_likelihood(encoder, [], [], unigram_weight=weight, max_response_tokens=8)


def test_greedy_repeats_the_likeliest_word(generator: QueryLikelihood) -> None:
    item = GeneratorInput("", (Passage("p", "lynx lynx lynx"),))
    assert generator.generate([item], max_new_tokens=3) == ["lynx lynx lynx"]
