"""From a generator's name, or a saved folder, to the generator."""

from __future__ import annotations

from pathlib import Path

import pytest

from jsarag.errors import CheckpointError, ConfigError
from jsarag.io.atomic import write_json
from jsarag.models.copy_generator import CopyGenerator
from jsarag.models.encoder import TextEncoder
from jsarag.models.hf_generator import HFGenerator
from jsarag.models.load_generator import load_generator, load_saved_generator
from jsarag.models.lora import LoraSettings
from jsarag.models.query_likelihood import QueryLikelihood
from jsarag.models.saved import read_settings, write_settings
from jsarag.types import GeneratorInput, Passage

from .conftest import CORPUS, RESPONSES, causal_tokenizer, make_gpt2

PASSAGES = [Passage(str(row), text) for row, text in enumerate(CORPUS)]


@pytest.mark.parametrize("model", ["copy", "query-likelihood"])
def test_offline_generators_by_name_and_from_their_folder(
    encoder: TextEncoder, model: str, tmp_path: Path
) -> None:
    generator = load_generator(
        model, encoder=encoder, responses=RESPONSES, passages=PASSAGES, layers=1, seed=3
    )
    assert generator.name == model
    assert isinstance(generator, CopyGenerator if model == "copy" else QueryLikelihood)
    assert generator.is_trainable == (model == "copy")
    generator.save(tmp_path)
    loaded = load_saved_generator(tmp_path)
    assert type(loaded) is type(generator)
    assert loaded.digest() == generator.digest()
    assert read_settings(tmp_path, model)["max_response_tokens"] == 48


@pytest.mark.parametrize("model", ["copy", "query-likelihood"])
def test_contradictions_are_refused(encoder: TextEncoder, model: str) -> None:
    with pytest.raises(ConfigError, match="expected no LoRA"):
        load_generator(model, encoder=encoder, responses=RESPONSES, lora=LoraSettings())
    with pytest.raises(ConfigError, match="got none"):
        load_generator(model, responses=RESPONSES)


def test_folders_are_hugging_face_models(tmp_path: Path) -> None:
    make_gpt2(causal_tokenizer()).save_pretrained(tmp_path)
    causal_tokenizer().save_pretrained(tmp_path)
    generator = load_generator(
        str(tmp_path),
        template="{passage}|{context}",
        max_context_tokens=8,
        max_passage_tokens=16,
        max_response_tokens=6,
        micro_batch=2,
    )
    assert isinstance(generator, HFGenerator)
    assert (generator.name, generator.micro_batch) == (tmp_path.name, 2)
    (text,) = generator.prompts.render([GeneratorInput("why", PASSAGES[:1])], reserve=6)  # type: ignore[arg-type]
    assert text.endswith("|why")
    assert len(generator.encode_response(CORPUS[0])) == 6


def test_folders_without_a_generator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a saved generator"):
        load_saved_generator(tmp_path)
    write_settings(tmp_path, "oracle", {})
    with pytest.raises(CheckpointError, match="found 'oracle'"):
        load_saved_generator(tmp_path)
    with pytest.raises(CheckpointError, match="expected a saved 'copy' generator, found the kind"):
        read_settings(tmp_path, "copy")
    write_json(tmp_path / "jsarag_generator.json", [1])
    with pytest.raises(CheckpointError, match="found the kind 'None'"):
        load_saved_generator(tmp_path)
