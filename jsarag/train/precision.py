"""Whether a language model runs in bfloat16 here: tried once, for time and for harm to its scores.

Half as many bytes and, on processors with the instructions, twice the products a second; on others
slower than float32. What counts as harm is measured where it would do harm: the posterior's weights
see log p(y|x,h) only relative to the other passages of the same response.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from jsarag.data.registry import Dataset
from jsarag.models.generator import Generator
from jsarag.models.prompts import render_context
from jsarag.types import GeneratorInput

# Worth the rounding from here on, and rounding is noise below a tenth of what tells passages apart.
LEAST_SPEEDUP = 1.15
MOST_ERROR = 0.1
# A small network gains nothing, and its timings would be the noise of the machine.
LEAST_PARAMETERS = 10_000_000
_RESPONSES, _PASSAGES, _TURNS = 3, 4, 2


@dataclass(frozen=True, slots=True)
class Precision:
    """What was chosen for the generator, and why.

    bf16: run under bfloat16 autocast. speedup: of scoring, against float32. error_nats: root mean
    square difference of log p(y|x,h) between passages of one response. spread_nats: the standard
    deviation of log p(y|x,h) between them. Zeros where nothing was tried.
    """

    bf16: bool = False
    speedup: float = 0.0
    error_nats: float = 0.0
    spread_nats: float = 0.0

    def describe(self) -> str:
        """One line for the log; empty where nothing was tried."""
        if not self.speedup:
            return ""
        return (
            f"precision: the generator runs in {'bfloat16' if self.bf16 else 'float32'}; bfloat16 "
            f"scores {self.speedup:.2f} times as fast and moves a passage's log-likelihood by "
            f"{self.error_nats:.2f} nats against the others', which differ by "
            f"{self.spread_nats:.1f} (train.bf16 decides otherwise)"
        )


def find_precision(
    generator: Generator, dataset: Dataset, *, turns: int, wanted: bool | None
) -> Precision:
    """Score a few training responses on a few passages both ways, unless the user has decided.

    Args:
        generator: is left as it was.
        dataset: the pairs tried are of its training rows and of passages spread over it.
        turns: of a context, as the generator reads it.
        wanted: the user's decision; None tries.
    """
    if wanted is not None:
        return Precision(wanted and generator.supports_bf16)
    size = sum(parameter.numel() for parameter in generator.parameters())
    if not generator.supports_bf16 or size < LEAST_PARAMETERS:
        return Precision()
    inputs = _pairs(dataset, turns)
    before = generator.bf16
    seconds = {False: float("inf"), True: float("inf")}
    logp: dict[bool, Tensor] = {}
    try:
        for _ in range(_TURNS):
            for bf16 in (False, True):
                generator.bf16 = bf16
                started = perf_counter()
                logp[bf16] = _score(generator, inputs)
                seconds[bf16] = min(seconds[bf16], perf_counter() - started)
    finally:
        generator.bf16 = before
    speedup = seconds[False] / seconds[True]
    error = _within(logp[True] - logp[False])
    spread = _within(logp[False])
    chosen = speedup >= LEAST_SPEEDUP and error <= MOST_ERROR * spread
    return Precision(chosen, speedup, error, spread)


@torch.no_grad()
def _score(generator: Generator, inputs: list[GeneratorInput]) -> Tensor:
    """f64 [responses, passages]; on the host, so that the time is the whole pass's."""
    scored = generator.response_logp(inputs).logp.double().cpu()  # sync: twice four times, once
    return scored.reshape(-1, _PASSAGES)


def _within(values: Tensor) -> float:
    """Root mean square of what is left of each row [responses, passages] without its mean."""
    centred = values - values.mean(dim=1, keepdim=True)
    return float(centred.square().mean().sqrt())


def _pairs(dataset: Dataset, turns: int) -> list[GeneratorInput]:
    rows, kb = dataset.splits["train"], dataset.kb
    chosen = [rows[place * len(rows) // _RESPONSES] for place in range(_RESPONSES)]
    passages = [kb[place * len(kb) // _PASSAGES] for place in range(_PASSAGES)]
    return [
        GeneratorInput(render_context(example, turns), (passage,), example.response)
        for example in chosen
        for passage in passages
    ]
