"""Will a run fit? Index, gradients and optimizer state, said before anything is embedded.

Counts what is certain. Activations depend on the texts and come on top; the message says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from jsarag.errors import MemoryForecastError
from jsarag.index.memory import (
    IndexForecast,
    available_memory_bytes,
    forecast_index,
    require_memory,
)

# float32: 4 bytes of weights, then 4 of gradient and 8 of Adam's two moments where it trains.
WEIGHT_BYTES, TRAINING_BYTES = 4, 12


@dataclass(frozen=True, slots=True)
class RunForecast:
    """Bytes a run will hold besides activations.

    Attributes:
        index: one index; ``indexes`` of them are held, twice while they are ``rebuilt``.
        weights_bytes: all parts' weights, which are loaded already.
        training_bytes: gradients and Adam's moments by part; parts that do not train are absent.
    """

    index: IndexForecast
    indexes: int
    rebuilt: bool
    weights_bytes: int
    training_bytes: Mapping[str, int]

    @property
    def vectors_bytes(self) -> int:
        """All vectors held at once: old and new ones during a rebuild."""
        return self.index.vectors_bytes * self.indexes * (2 if self.rebuilt else 1)

    @property
    def device_bytes(self) -> int:
        """What is still to be taken where the models are."""
        return self.vectors_bytes + sum(self.training_bytes.values())

    @property
    def host_bytes(self) -> int:
        """The same where that is the main memory: building an index may need a second copy."""
        return self.device_bytes + self.index.build_bytes - self.index.vectors_bytes

    def describe(self) -> str:
        """One line for the log."""
        trained = ", ".join(self.training_bytes) or "nothing"
        copies = "" if self.indexes == 1 else f" x {self.indexes}"
        return (
            f"memory forecast: {_gib(self.vectors_bytes)} index ({self.index.count:,} passages x "
            f"{self.index.width} {self.index.dtype}{copies}{', rebuilt' if self.rebuilt else ''}), "
            f"{_gib(self.weights_bytes)} weights, {_gib(sum(self.training_bytes.values()))} "
            f"gradients and optimizer ({trained}); {_gib(self.index.disk_bytes * self.indexes)} on "
            "disk an index generation; activations come on top"
        )


def forecast_run(
    modules: Mapping[str, nn.Module],
    *,
    passages: int,
    width: int,
    dtype: str,
    indexes: int,
    rebuilt: bool,
) -> RunForecast:
    """Count a run's bytes.

    Args:
        modules: part by name, frozen as they will be.
        passages: K.
        width: D of a vector.
        dtype: of the index.
        indexes: 2 where both retrievers have passage encoders of their own, else 1.
        rebuilt: whether the index is made again during training.
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
    )


def require_fit(forecast: RunForecast, device: torch.device) -> None:
    """Refuse a run that cannot be held, naming the cheapest change that fits.

    Raises:
        MemoryForecastError: main memory or the device's is too small.
    """
    host = available_memory_bytes()
    require_memory(forecast.index, host)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        _require(forecast, forecast.device_bytes, free, f"of {device}'s memory")
    else:
        _require(forecast, forecast.host_bytes, host, "of memory")


def _require(forecast: RunForecast, needed: int, available: int, where: str) -> None:
    if needed <= available:
        return
    raise MemoryForecastError(
        f"training: expected at most {_gib(available)} {where} (that is free), found a need of "
        f"{_gib(needed)} besides activations. {_cheapest_change(forecast, needed - available)}. "
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
