"""From a configuration to live objects: small ``make_*`` functions and nothing else.

The only module that reads ``Config`` and builds models, indexes and objectives from it; below it
everything takes plain values, above it everything takes :class:`Parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from jsarag.config.recipes import about_recipe
from jsarag.config.schema import Config, LoraConfig
from jsarag.data.registry import Dataset
from jsarag.data.selection import load_rows
from jsarag.em.chains import ChainStore
from jsarag.em.objectives import Objective, make_objective
from jsarag.em.problem import EMSettings
from jsarag.errors import BackendUnavailableError, ConfigError
from jsarag.index.flat import FlatIndex
from jsarag.index.interfaces import Progress
from jsarag.index.rebuild import build_index
from jsarag.io.checkpoint import Checkpoint
from jsarag.models.encoder import TextEncoder, load_encoder
from jsarag.models.generator import Generator
from jsarag.models.load_generator import load_generator
from jsarag.models.lora import LoraSettings
from jsarag.models.prompts import passage_text
from jsarag.models.retrievers import PartName, RetrieverParts, build_retrievers
from jsarag.randomness import seed_torch


@dataclass
class Parts:
    """Everything a run trains and searches; the indexes are replaced at every rebuild.

    ``posterior_index`` is ``prior_index`` itself where both retrievers share a passage encoder.
    """

    dataset: Dataset
    retrievers: RetrieverParts
    generator: Generator
    prior_index: FlatIndex
    posterior_index: FlatIndex
    device: torch.device


OpenIndex = Callable[[PartName, RetrieverParts, Dataset], FlatIndex | None]
"""Finds an index that fits a passage encoder and a data set, or None."""

BeforeIndex = Callable[[Dataset, RetrieverParts, Generator], None]
"""Told what was loaded before passages are embedded; may raise."""


def make_device(name: str) -> torch.device:
    """The torch device of ``train.device``; 'auto' takes CUDA where there is a device.

    Raises:
        ConfigError: no such device name.
        BackendUnavailableError: CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"train.device: expected auto, cpu, cuda or cuda:N, got '{name}'"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"train.device: '{name}' asked for, but torch {torch.__version__} sees no CUDA device; "
            "use --device cpu, or install a CUDA build of torch and a driver"
        )
    return device


def make_dataset(config: Config, splits: Iterable[str]) -> Dataset:
    """The data set with the splits that will be used, rows chosen as configured."""
    data = config.data
    return load_rows(
        data.dataset,
        data_dir=data.data_dir,
        field_map=data.map,
        splits=splits,
        dev_fraction=data.dev_fraction,
        max_train_examples=data.max_train_examples,
        about=about_recipe(data.dataset),
    )


def make_encoder(config: Config) -> TextEncoder:
    """The pretrained encoder every retriever part starts from."""
    retriever = config.retriever
    return load_encoder(
        retriever.model,
        pooling=retriever.pooling,
        normalise=retriever.normalise,
        query_prefix=retriever.query_prefix,
        passage_prefix=retriever.passage_prefix,
        max_query_tokens=retriever.max_context_tokens,
        max_passage_tokens=retriever.max_passage_tokens,
        bf16=bool(config.train.bf16),
    )


def make_retrievers(config: Config, encoder: TextEncoder) -> RetrieverParts:
    """Prior, posterior and passage encoders, frozen as configured."""
    return build_retrievers(
        encoder,
        temperature=config.retriever.temperature,
        share=config.retriever.passage_encoder,
        posterior_template=config.retriever.posterior_template,
        freeze=config.train.freeze,
    )


def make_generator(config: Config, encoder: TextEncoder, dataset: Dataset) -> Generator:
    """The generator, frozen as configured; the offline ones read the training responses."""
    settings = config.generator
    generator = load_generator(
        settings.model,
        template=settings.template,
        lora=_lora(settings.lora),
        max_context_tokens=settings.max_context_tokens,
        max_passage_tokens=settings.max_passage_tokens,
        max_response_tokens=settings.max_response_tokens,
        attention=settings.attention,
        bf16=bool(config.train.bf16),
        encoder=encoder,
        responses=[example.response for example in dataset.splits["train"]],
        passages=[dataset.kb[row] for row in range(len(dataset.kb))],
        layers=settings.layers,
        vocabulary_size=settings.copy_vocabulary,
        unigram_weight=settings.unigram_weight,
        seed=config.train.seed,
    )
    generator.micro_batch = config.eval.batch_size
    if "generator" in config.train.freeze:
        generator.requires_grad_(False)
    return generator


def make_models(
    config: Config, dataset: Dataset, device: torch.device
) -> tuple[RetrieverParts, Generator]:
    """Encoders and generator as they start, on their device."""
    encoder = make_encoder(config)
    seed_torch(config.train.seed, "initialise")
    generator = make_generator(config, encoder, dataset).to(device)
    return make_retrievers(config, encoder).to(device), generator


def make_index(
    config: Config,
    retrievers: RetrieverParts,
    dataset: Dataset,
    part: PartName = "passages",
    *,
    generation: int = 0,
    progress: Progress | None = None,
) -> FlatIndex:
    """Embed the knowledge base with a passage encoder and index it."""
    encoder = retrievers.parts()[part]
    index = build_index(
        encoder,
        dataset.kb,
        passage_text=passage_text,
        dtype=config.index.dtype,
        generation=generation,
        batch_size=config.index.batch_size,
        progress=progress,
        # Only generation 0 is made by weights that will be seen again.
        cache_dir=config.index.cache_dir if generation == 0 else None,
    )
    return index.to(encoder.device)


def make_em_settings(config: Config) -> EMSettings:
    """What the objective needs to know, as plain values."""
    objective = config.objective
    return EMSettings(
        support=objective.support,
        estimator=objective.estimator,
        likelihood=objective.likelihood,
        k=objective.k,
        mis_steps=objective.mis_steps,
        temperature=config.retriever.temperature,
        evidence_weight=objective.evidence_weight,
        detach_posterior_from_passages=objective.detach_posterior_from_passages,
        seed=config.train.seed,
    )


def make_run_objective(config: Config, chains: ChainStore) -> Objective:
    """The objective the configuration names."""
    return make_objective(config.objective.name, make_em_settings(config), chains)


def make_parts(
    config: Config,
    *,
    splits: Iterable[str],
    checkpoint: Checkpoint | None = None,
    open_index: OpenIndex | None = None,
    generation: int = 0,
    before_index: BeforeIndex | None = None,
    progress: Progress | None = None,
    device: str | None = None,
    dataset: Dataset | None = None,
) -> Parts:
    """Data, models and indexes of a run.

    Args:
        config: the run.
        splits: read besides 'train'.
        checkpoint: weights to load; None leaves every part as it starts.
        open_index: finds an existing index for a passage encoder, or returns None to build one.
        generation: number of an index that is built.
        before_index: called once data and models are there.
        progress, device: told about passages embedded; overrides ``train.device``.
        dataset: the data, where they have been read already.
    """
    where = make_device(device or config.train.device)
    dataset = dataset or make_dataset(config, ("train", *splits))
    retrievers, generator = make_models(config, dataset, where)
    if checkpoint is not None:
        retrievers.load_checkpoint_states(checkpoint.modules)
        generator.load_checkpoint_state(checkpoint.modules["generator"])
    if before_index is not None:
        before_index(dataset, retrievers, generator)

    def index_of(part: PartName) -> FlatIndex:
        found = None if open_index is None else open_index(part, retrievers, dataset)
        if found is None:
            return make_index(
                config, retrievers, dataset, part, generation=generation, progress=progress
            )
        return found.to(where)

    prior = index_of("passages")
    posterior = index_of("posterior_passages") if retrievers.has_separate_passages else prior
    return Parts(dataset, retrievers, generator, prior, posterior, where)


def _lora(lora: LoraConfig | None) -> LoraSettings | None:
    return None if lora is None else LoraSettings(**lora.model_dump())
