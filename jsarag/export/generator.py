"""A run's generator as a plain transformers folder, or as a PEFT adapter folder."""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsarag.errors import ConfigError
from jsarag.models import hub
from jsarag.models.generator import Generator
from jsarag.models.hf_generator import KIND, HFGenerator
from jsarag.models.saved import write_settings

# Where the base of an adapter lies that other tools could not find by its name.
BASE_FOLDER = "base"


def language_model(generator: Generator) -> HFGenerator:
    """The generator, which must be a Hugging Face model.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(generator, HFGenerator):
        raise ConfigError(
            f"--to hf: expected a language model, found the generator '{generator.name}', which "
            "loads nowhere else; export the retrievers with --to sentence-transformers"
        )
    return generator


def write_generator(generator: HFGenerator, folder: Path, *, adapter: bool) -> None:
    """Write weights, tokeniser and the prompt's settings.

    Args:
        generator: as trained; it stays as it is.
        folder: an existing folder.
        adapter: LoRA's adapters alone, with the base beside them where it came from a GGUF file
            (PEFT cannot load one); else whole weights, LoRA merged into a copy.
    """
    network: Any = generator.network
    if generator.has_lora and not adapter:
        # Merging changes the base in place, and the run's generator is still in use.
        network = copy.deepcopy(network).merge_and_unload()
    with hub.quiet_transformers():
        network.save_pretrained(folder)
        generator.tokenizer.save_pretrained(folder)
    write_settings(folder, KIND, asdict(generator.prompts.settings))
    # PEFT's own card; ours is written after all parts.
    (folder / "README.md").unlink(missing_ok=True)
    base = converted_base(generator) if adapter else None
    if base is not None:
        shutil.copytree(base, folder / BASE_FOLDER)


def converted_base(generator: HFGenerator) -> Path | None:
    """The plain folder of a base model that came as a GGUF file; None for other models."""
    name = str(generator.inner.name_or_path)
    if not name.endswith(".gguf"):
        return None
    return Path(hub.resolve_model(name))
