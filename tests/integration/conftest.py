"""A toy world that trains in seconds: a tiny random encoder, two dozen notes, and who asks.

Every note is about one *thing* and holds one *code*. A question names the thing by an alias that
no note contains; the response repeats the code. So the prior must learn alias -> note, and only
the response tells which note was meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag.config.load import Setting, flag, resolve_run
from jsarag.train.run import TrainResult, run_training

NOTES = 24


def words(kind: str) -> list[str]:
    """NOTES distinct words of a kind."""
    return [f"{kind}{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(NOTES)]


def note(number: int) -> dict[str, str]:
    thing, code = words("thing")[number], words("code")[number]
    return {"id": f"n{number:02d}", "title": thing, "text": f"set the dial to {code} and wait"}


def question(number: int, form: int) -> dict[str, Any]:
    alias, code = words("alias")[number], words("code")[number]
    forms = (
        f"how do i use the {alias}",
        f"my {alias} does not work what now",
        f"help with {alias} please",
        f"the {alias} is broken again",
    )
    return {
        "id": f"q{number:02d}-{form}",
        "question": forms[form],
        "answers": [f"turn it to {code}"],
        "gold_passages": [f"n{number:02d}"],
    }


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kb.jsonl, train.jsonl, dev.jsonl."""
    folder = tmp_path_factory.mktemp("toy")
    rows = {
        "kb": [note(number) for number in range(NOTES)],
        "train": [question(number, form) for form in range(3) for number in range(NOTES)],
        "dev": [question(number, 3) for number in range(NOTES)],
    }
    for name, items in rows.items():
        text = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def toy_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer BERT of the toy world's words; it starts as little more than a bag of words.

    Random word vectors dominate, so texts that share words are close: the posterior, which reads
    the response, can guess; the prior, which reads an alias no note contains, cannot.
    """
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = (
        "set the dial to and wait how do i use my does not work what now help with please is "
        "broken again turn it :"
    )
    vocabulary = [*specials, *text.split(), *words("thing"), *words("code"), *words("alias")]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.02,
    )
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TOY = {
    "retriever.max_context_tokens": 24,
    "retriever.max_passage_tokens": 24,
    "retriever.temperature": 0.05,
    "generator.model": "query-likelihood",
    "train.batch_size": 16,
    "train.max_steps": 30,
    "train.learning_rate": 1e-2,
    "train.warmup_steps": 3,
    "train.log_steps": 1,
    "train.threads": 1,
    "guards.evidence_every": 0,
    "guards.evidence_examples": 16,
    "guards.evidence_passages": 4,
    "guards.collapse_window": 1000,
    "eval.bootstrap_samples": 200,
}


@pytest.fixture
def train_toy(toy_folder: Path, toy_encoder: Path, tmp_path: Path) -> Callable[..., TrainResult]:
    """train_toy(name, {"group.key": value, ...}, **run_training's) -> TrainResult."""

    def run(name: str, settings: dict[str, Any] | None = None, **options: Any) -> TrainResult:
        merged = {
            **TOY,
            "retriever.model": str(toy_encoder),
            "output.output_dir": str(tmp_path / name),
            **(settings or {}),
        }
        overrides: list[Setting] = [
            flag(key, value if isinstance(value, bool) else str(value), "test")
            for key, value in merged.items()
        ]
        resolved = resolve_run(dataset=str(toy_folder), overrides=overrides, environment={})
        return run_training(resolved, **options)

    return run
