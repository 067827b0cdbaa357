"""One call from a generator's name or folder to the generator, whichever kind it is.

The offline generators are imported only when asked for. Leaves checkpoints to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsarag.errors import CheckpointError, ConfigError
from jsarag.models.encoder import TextEncoder
from jsarag.models.generator import Generator
from jsarag.models.hf_prompts import PromptSettings
from jsarag.models.lora import LoraSettings
from jsarag.models.saved import read_settings
from jsarag.types import Passage

COPY = "copy"
QUERY_LIKELIHOOD = "query-likelihood"
# Made for training on little, without a pretrained language model.
OFFLINE = frozenset({COPY, QUERY_LIKELIHOOD})


def load_generator(
    model: str,
    *,
    template: str = "{title} {passage}\n{context}\n",
    lora: LoraSettings | None = None,
    max_context_tokens: int = 96,
    max_passage_tokens: int = 160,
    max_response_tokens: int = 48,
    attention: str = "auto",
    micro_batch: int = 32,
    bf16: bool = False,
    encoder: TextEncoder | None = None,
    responses: Sequence[str] = (),
    passages: Sequence[Passage] = (),
    layers: int = 2,
    vocabulary_size: int = 8000,
    unigram_weight: float = 0.5,
    seed: int = 1,
) -> Generator:
    """Make the generator the configuration names.

    Args:
        model: 'copy', 'query-likelihood', 'smollm2' (from a package), or a folder, a GGUF file or
            the hub id of any causal or seq2seq model.
        template: prompt of a Hugging Face model (``prompts.PromptTemplate``), or 'chat' for its own
            chat template.
        lora: train low-rank adapters of a Hugging Face model instead of its weights.
        max_context_tokens: context tokens read, the last ones.
        max_passage_tokens: passage tokens read, the first ones.
        max_response_tokens: response tokens scored, the first ones, end of sequence included.
        attention: transformers' attention implementation, or 'auto'.
        micro_batch: inputs per forward pass of decoding.
        bf16: run a Hugging Face model under bfloat16 autocast (weights stay float32).
        encoder: the retriever's text encoder before training; the offline generators use its
            tokeniser, and 'copy' a frozen copy of its network.
        responses: training responses, for the offline generators' vocabulary and counts.
        passages: the knowledge base, for query-likelihood's background counts.
        layers: decoder layers of 'copy'.
        vocabulary_size: generated vocabulary of 'copy'.
        unigram_weight: 1 - lambda of 'query-likelihood'.
        seed: initialisation of 'copy'.

    Raises:
        ConfigError: settings that contradict the chosen generator.
        BackendUnavailableError: the model is not on this machine, or peft is missing for LoRA.
    """
    if model in OFFLINE:
        if lora is not None:
            raise ConfigError(
                f"generator.lora: expected no LoRA with generator.model '{model}', which is small "
                "enough to train whole; remove generator.lora or name a Hugging Face model"
            )
        if encoder is None:
            raise ConfigError(
                f"generator.model '{model}' reads with the retriever's encoder; got none. "
                "Pass encoder=load_encoder(...)"
            )
    if model == COPY:
        assert encoder is not None
        from jsarag.models.copy_generator import build_copy_generator

        return build_copy_generator(
            encoder,
            responses,
            layers=layers,
            vocabulary_size=vocabulary_size,
            max_context_tokens=max_context_tokens,
            max_passage_tokens=max_passage_tokens,
            max_response_tokens=max_response_tokens,
            seed=seed,
        )
    if model == QUERY_LIKELIHOOD:
        assert encoder is not None
        from jsarag.models.query_likelihood import build_query_likelihood

        return build_query_likelihood(
            encoder,
            responses,
            passages,
            unigram_weight=unigram_weight,
            max_response_tokens=max_response_tokens,
        )
    from jsarag.models.hf_generator import load_hf_generator

    return load_hf_generator(
        model,
        settings=PromptSettings(
            template=template,
            max_context_tokens=max_context_tokens,
            max_passage_tokens=max_passage_tokens,
            max_response_tokens=max_response_tokens,
        ),
        lora=lora,
        attention=attention,
        micro_batch=micro_batch,
        bf16=bf16,
    )


def load_saved_generator(folder: Path) -> Generator:
    """Load what any generator's ``save`` wrote.

    Raises:
        CheckpointError: the folder holds no saved generator.
    """
    from jsarag.models import copy_generator, hf_generator, query_likelihood

    loaders = {
        COPY: copy_generator.load_saved,
        QUERY_LIKELIHOOD: query_likelihood.load_saved,
        hf_generator.KIND: hf_generator.load_saved,
    }
    kind = str(read_settings(folder)["kind"])
    if kind not in loaders:
        raise CheckpointError(
            f"{folder}: expected a generator of a kind of {sorted(loaders)}, found '{kind}'; it "
            "was saved by another version of this package"
        )
    return loaders[kind](folder)
