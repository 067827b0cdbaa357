"""A toy world that trains in seconds: a tiny random encoder, two dozen notes, and who asks.

    python -m jsarag_bench.end_to_end.toy_world --output-dir FOLDER [--device cpu]

Every note is about one *thing* and holds one *code*. A question names the thing by an alias that
no note contains; the response repeats the code. So the prior must learn alias -> note, and only
the response tells which note was meant. Run as a program it trains, prints one JSON object with
the prior retriever's R@1 before and after, and ends with 1 where it learnt nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jsarag.config.load import Setting, flag, resolve_run
from jsarag.train.run import TrainResult, run_training

NOTES = 24
STEPS = 80
# What STEPS gain at least, of the prior retriever's R@1; without learning it is 1 / NOTES.
LEAST_GAIN = 0.3

SETTINGS: Mapping[str, Any] = {
    "retriever.max_context_tokens": 24,
    "retriever.max_passage_tokens": 24,
    "retriever.temperature": 0.05,
    "generator.model": "query-likelihood",
    "train.batch_size": 16,
    "train.max_steps": 30,
    "train.learning_rate": 1e-2,
    "train.warmup_steps": 3,
    "train.log_steps": 1,
    "train.held_back": 0,
    "train.threads": 1,
    "guards.evidence_every": 0,
    "guards.evidence_examples": 16,
    "guards.evidence_passages": 4,
    "guards.collapse_window": 1000,
    "eval.bootstrap_samples": 200,
}


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


def write_data(folder: Path) -> None:
    """kb.jsonl, train.jsonl and dev.jsonl into an existing folder."""
    rows = {
        "kb": [note(number) for number in range(NOTES)],
        "train": [question(number, form) for form in range(3) for number in range(NOTES)],
        "dev": [question(number, 3) for number in range(NOTES)],
    }
    for name, items in rows.items():
        text = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def write_encoder(folder: Path) -> None:
    """A one-layer BERT of the toy world's words; it starts as little more than a bag of words.

    Random word vectors dominate, so texts that share words are close: the posterior, which reads
    the response, can guess; the prior, which reads an alias no note contains, cannot.
    """
    from transformers import BertConfig, BertModel, BertTokenizerFast

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


def write_language_model(folder: Path, encoder: Path, kind: str = "llama") -> None:
    """A tiny language model of the toy world's words, random: 'llama' or 't5'.

    Args:
        folder: existing; gets model and tokeniser.
        encoder: what :func:`write_encoder` wrote; lends its words.
        kind: a decoder, or an encoder and a decoder.
    """
    from transformers import (
        BertTokenizerFast,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    tokenizer = BertTokenizerFast.from_pretrained(encoder, eos_token="[SEP]")
    ends = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(5)
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        model: Any = T5ForConditionalGeneration(
            T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes, **ends)
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.3,
                bos_token_id=tokenizer.cls_token_id,
                **ends,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(
    data: Path, encoder: Path, output: Path, settings: Mapping[str, Any], **options: Any
) -> TrainResult:
    """Train on the toy world with :data:`SETTINGS`, changed by ``settings``."""
    merged = {
        **SETTINGS,
        "retriever.model": str(encoder),
        "output.output_dir": str(output),
        **settings,
    }
    overrides: list[Setting] = [
        flag(key, value if isinstance(value, bool) else str(value), "toy world")
        for key, value in merged.items()
    ]
    resolved = resolve_run(dataset=str(data), overrides=overrides, environment={})
    return run_training(resolved, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(description="Train on the toy world.")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--generator", default=SETTINGS["generator.model"])
    parser.add_argument("--least-gain", type=float, default=LEAST_GAIN, help="of R@1")
    chosen = parser.parse_args(arguments)
    data, encoder = chosen.output_dir / "data", chosen.output_dir / "encoder"
    for folder in (data, encoder):
        folder.mkdir(parents=True)
    write_data(data)
    write_encoder(encoder)
    began = time.monotonic()
    settings = {
        "train.max_steps": chosen.steps,
        "train.device": chosen.device,
        "generator.model": chosen.generator,
    }
    result = train(data, encoder, chosen.output_dir / "run", settings)
    before, after = (
        float(found["retrieval"]["prior"]["R@1"]) for found in (result.before, result.after)
    )
    learnt = after >= before + chosen.least_gain
    report = {
        "device": chosen.device,
        "generator": chosen.generator,
        "steps": chosen.steps,
        "seconds": round(time.monotonic() - began, 2),
        "prior_r1_before": before,
        "prior_r1_after": after,
        "learnt": learnt,
    }
    print(json.dumps(report))
    return 0 if learnt else 1


if __name__ == "__main__":
    sys.exit(main())
