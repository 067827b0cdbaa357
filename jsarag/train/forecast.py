"""Will a run fit, and what is its peak? Said before anything is embedded.

Index, gradients and optimizer state are counted; activations are one chunk's, which was tried
(``probe.py``); what the program and the weights hold already is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from jsarag.config.schema import Config
from jsarag.data.registry import Dataset
from jsarag.errors import MemoryForecastError
from jsarag.index.memory import (
    IndexForecast,
    available_memory_bytes,
    forecast_index,
    require_memory,
)
from jsarag.io.peak import held_bytes
from jsarag.models.generator import Generator
from jsarag.models.prompts import render_context
from jsarag.models.retrievers import RetrieverParts
from jsarag.train.back import Vectors
from jsarag.train.probe import Probe, find_budgets

# float32: 4 bytes of weights, then 4 of gradient and 8 of Adam's two moments where it trains.
WEIGHT_BYTES, TRAINING_BYTES = 4, 12
# Training rows that are looked through for long texts.
_LOOKED_AT = 2000


@dataclass(frozen=True, slots=True)
class RunForecast:
    """Bytes a run will hold.

    Attributes:
        index: one index; ``indexes`` of them are held, twice while they are ``rebuilt``.
        weights_bytes: all parts' weights, which are loaded already.
        training_bytes: gradients and Adam's moments by part; parts that do not train are absent.
        held_bytes: taken already where the models are: weights and, in main memory, the program.
        chunk_bytes: activations: of the generator's largest chunk, forward and backward, and of the
            encoders' texts.
        chunk_tokens: tokens of the generator's chunk.
    """

    index: IndexForecast
    indexes: int
    rebuilt: bool
    weights_bytes: int
    training_bytes: Mapping[str, int]
    held_bytes: int = 0
    chunk_bytes: int = 0
    chunk_tokens: int = 0

    @property
    def peak_bytes(self) -> int:
        """The run's memory at its height, where the models are."""
        return self.held_bytes + self.device_bytes

    @property
    def vectors_bytes(self) -> int:
        """All vectors held at once: old and new ones during a rebuild."""
        return self.index.vectors_bytes * self.indexes * (2 if self.rebuilt else 1)

    @property
    def device_bytes(self) -> int:
        """What is still to be taken where the models are."""
        return self.vectors_bytes + sum(self.training_bytes.values()) + self.chunk_bytes

    @property
    def host_bytes(self) -> int:
        """The same where that is the main memory: building an index may need a second copy.

        That copy is gone, or not yet there, while a chunk goes through the networks.
        """
        copy = self.index.build_bytes - self.index.vectors_bytes
        return self.device_bytes + max(copy - self.chunk_bytes, 0)

    def describe(self) -> str:
        """One line for the log."""
        trained = ", ".join(self.training_bytes) or "nothing"
        copies = "" if self.indexes == 1 else f" x {self.indexes}"
        return (
            f"memory forecast: peak {_gib(self.peak_bytes)}: {_gib(self.held_bytes)} held already "
            f"({_gib(self.weights_bytes)} of it weights), {_gib(self.vectors_bytes)} index "
            f"({self.index.count:,} passages x {self.index.width} {self.index.dtype}{copies}"
            f"{', rebuilt' if self.rebuilt else ''}), "
            f"{_gib(sum(self.training_bytes.values()))} gradients and optimizer ({trained}), "
            f"{_gib(self.chunk_bytes)} activations (chunks of {self.chunk_tokens:,} tokens); "
            f"{_gib(self.index.disk_bytes * self.indexes)} on disk an index generation"
        )


def forecast_run(
    modules: Mapping[str, nn.Module],
    *,
    passages: int,
    width: int,
    dtype: str,
    indexes: int,
    rebuilt: bool,
    held_bytes: int = 0,
    chunk_bytes: int = 0,
    chunk_tokens: int = 0,
) -> RunForecast:
    """Count a run's bytes.

    Args:
        modules: part by name, frozen as they will be.
        passages: K.
        width: D of a vector.
        dtype: of the index.
        indexes: 2 where both retrievers have passage encoders of their own, else 1.
        rebuilt: whether the index is made again during training.
        held_bytes, chunk_bytes, chunk_tokens: see :class:`RunForecast`.
    """
    trainable = {
        name: sum(p.numel() for p in module.parameters() if p.requires_grad)
        for name, module in modules.items()
    }
    return RunForecast(
        index=forecast_index(passages, width, dtype),
        indexes=indexes,
        rebuilt=rebuilt,
        weights_bytes=WEIGHT_BYTES
        * sum(p.numel() for module in modules.values() for p in module.parameters()),
        training_bytes={name: TRAINING_BYTES * count for name, count in trainable.items() if count},
        held_bytes=held_bytes,
        chunk_bytes=chunk_bytes,
        chunk_tokens=chunk_tokens,
    )


def probe_run(
    config: Config, dataset: Dataset, retrievers: RetrieverParts, generator: Generator
) -> Probe:
    """Find the networks' token budgets by trying chunks, as ``train.chunk_tokens`` says, and the
    language model's precision, as ``train.bf16`` says.

    Raises:
        MemoryForecastError: the index alone, or a single pair, does not fit.
    """
    index = forecast_index(len(dataset.kb), retrievers.passages.width, config.index.dtype)
    require_memory(index, available_memory_bytes())
    return find_budgets(
        retrievers,
        generator,
        dataset,
        turns=config.data.generator_turns,
        available_bytes=free_bytes(retrievers.passages.device),
        wanted_tokens=config.train.chunk_tokens,
        wanted_bf16=config.train.bf16,
    )


def look_ahead(
    config: Config,
    dataset: Dataset,
    retrievers: RetrieverParts,
    generator: Generator,
    probe: Probe,
) -> RunForecast:
    """What a run of these models, with nothing embedded yet, will hold in memory."""
    return forecast_run(
        modules_of(retrievers, generator),
        passages=len(dataset.kb),
        width=retrievers.passages.width,
        dtype=config.index.dtype,
        indexes=2 if retrievers.has_separate_passages else 1,
        rebuilt=retrievers.passages.is_trainable,
        held_bytes=held_bytes(retrievers.passages.device),
        chunk_bytes=probe.activation_bytes(
            _query_tokens(config, dataset, retrievers),
            passages_trained=retrievers.passages.is_trainable,
        ),
        chunk_tokens=probe.generator.tokens,
    )


def _query_tokens(config: Config, dataset: Dataset, retrievers: RetrieverParts) -> list[int]:
    """Tokens of a batch of the longest queries, by retriever, padding included."""
    data = config.data
    rows = sorted(
        dataset.splits["train"][:_LOOKED_AT],
        key=lambda row: -len(render_context(row, data.context_turns)) - len(row.response),
    )[: config.train.batch_size]
    texts = {retrievers.prior: [render_context(row, data.context_turns) for row in rows]}
    if retrievers.posterior is not None:
        texts[retrievers.posterior] = retrievers.posterior_texts(rows, data.posterior_turns)
    queries = [Vectors(encoder, batch, "query") for encoder, batch in texts.items()]
    return [vectors.tokens(range(len(vectors))) for vectors in queries]


def modules_of(retrievers: RetrieverParts, generator: Generator) -> dict[str, nn.Module]:
    """Everything that may train, by part name."""
    modules: dict[str, nn.Module] = dict(retrievers.parts().items())
    return {**modules, "generator": generator}


def require_fit(forecast: RunForecast, device: torch.device) -> None:
    """Refuse a run that cannot be held, naming the cheapest change that fits.

    Raises:
        MemoryForecastError: main memory or the device's is too small.
    """
    require_memory(forecast.index, available_memory_bytes())
    if device.type == "cuda":
        _require(forecast, forecast.device_bytes, free_bytes(device), f"of {device}'s memory")
    else:
        _require(forecast, forecast.host_bytes, free_bytes(device), "of memory")


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken where the models are."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes()


def _require(forecast: RunForecast, needed: int, available: int, where: str) -> None:
    if needed <= available:
        return
    raise MemoryForecastError(
        f"training: expected at most {_gib(available)} {where} (that is free), found a need of "
        f"{_gib(needed)} more than is held. {_cheapest_change(forecast, needed - available)}. "
        f"In detail, {forecast.describe()}"
    )


def _cheapest_change(forecast: RunForecast, excess: int) -> str:
    """The smallest sacrifice that saves ``excess`` bytes: rebuilding, then the smallest part."""
    held_twice = forecast.vectors_bytes // 2 if forecast.rebuilt else 0
    passages = sum(
        count for name, count in forecast.training_bytes.items() if name.endswith("passages")
    )
    if held_twice + passages >= excess and passages:
        return f"Use --freeze passages: it saves {_gib(held_twice + passages)}"
    for name, count in sorted(forecast.training_bytes.items(), key=lambda item: item[1]):
        if count >= excess and not name.endswith("passages"):
            lora = ", or train a part of it with generator.lora" if name == "generator" else ""
            return f"Use --freeze {name}: it saves {_gib(count)}{lora}"
    return "Use smaller models, a smaller knowledge base, or a machine with more memory"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
