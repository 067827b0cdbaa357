"""From retrieved passages to one response: the five decoding modes.

Greedy search everywhere, so that a response is a function of the weights. Which passages were
retrieved, and p(h|x) over them, comes from the caller; the language model is behind
:class:`~jsarag.models.generator.Generator`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jsarag.errors import ConfigError, ShapeError
from jsarag.models.generator import Generator
from jsarag.types import GeneratorInput, Passage


@dataclass(frozen=True, slots=True)
class Grounding:
    """What one response is generated from.

    Attributes:
        context: the rendered context x.
        passages: the P retrieved passages, best first.
        prior_logp: f32 or f64 [P], log p(h|x) normalised over ``passages``.
    """

    context: str
    passages: tuple[Passage, ...]
    prior_logp: Tensor


@dataclass(frozen=True, slots=True)
class Decoded:
    """A response; ``logp`` is its marginal log-probability in nats where the mode computes one."""

    text: str
    logp: float | None = None


def decode(
    generator: Generator, items: Sequence[Grounding], mode: str, *, max_new_tokens: int
) -> list[Decoded]:
    """Generate one response per item, in order.

    Modes: ``top1`` reads the best passage; ``concat`` reads all of them in one prompt;
    ``rag-sequence`` takes the greedy response of every passage and picks the one with the highest
    sum_h p(h|x) p(y|x,h) over *all* passages; ``rag-sequence-fast`` sums only over the passages
    that produced that response; ``rag-token`` takes, token by token, the argmax of
    sum_h p(h|x) p(y_t|x,h,y_<t).

    An item without passages (all of them excluded) gets the empty response. A response that
    ``max_new_tokens`` cut off is scored as if it ended there, and as far as the generator's own
    response limit reaches. Ties go to the earlier passage, and to the lower token id.

    Args:
        generator: in whatever state it is; no gradient is kept.
        items: any number.
        mode: a key of ``MODES``.
        max_new_tokens: at least 1.

    Raises:
        ConfigError: unknown mode, or max_new_tokens below 1.
        ShapeError: ``prior_logp`` does not match the passages.
    """
    if mode not in MODES:
        raise ConfigError(
            f"eval.decoding: expected one of {', '.join(MODES)}, found '{mode}'; name one of them"
        )
    if max_new_tokens < 1:
        raise ConfigError(
            f"eval.max_new_tokens: expected at least 1, found {max_new_tokens}; raise it"
        )
    for item in items:
        if item.prior_logp.shape != (len(item.passages),):
            raise ShapeError(
                f"decode: expected prior_logp [{len(item.passages)}], one per passage, found "
                f"{tuple(item.prior_logp.shape)}"
            )
    grounded = [index for index, item in enumerate(items) if item.passages]
    results = [Decoded("")] * len(items)
    with torch.no_grad():
        decoded = MODES[mode](generator, [items[index] for index in grounded], max_new_tokens)
    for index, result in zip(grounded, decoded, strict=True):
        results[index] = result
    return results


def _top1(generator: Generator, items: Sequence[Grounding], limit: int) -> list[Decoded]:
    inputs = [GeneratorInput(item.context, item.passages[:1]) for item in items]
    return [Decoded(text) for text in generator.generate(inputs, max_new_tokens=limit)]


def _concat(generator: Generator, items: Sequence[Grounding], limit: int) -> list[Decoded]:
    inputs = [GeneratorInput(item.context, item.passages) for item in items]
    return [Decoded(text) for text in generator.generate(inputs, max_new_tokens=limit)]


def _rag_sequence(generator: Generator, items: Sequence[Grounding], limit: int) -> list[Decoded]:
    return _best_hypotheses(generator, items, limit, thorough=True)


def _rag_sequence_fast(
    generator: Generator, items: Sequence[Grounding], limit: int
) -> list[Decoded]:
    return _best_hypotheses(generator, items, limit, thorough=False)


def _best_hypotheses(
    generator: Generator, items: Sequence[Grounding], limit: int, *, thorough: bool
) -> list[Decoded]:
    """One greedy hypothesis per passage, scored under all passages or under its own."""
    inputs = [GeneratorInput(item.context, (h,)) for item in items for h in item.passages]
    produced = iter(generator.generate(inputs, max_new_tokens=limit))
    # Per item: hypothesis -> the passages (slots) that produced it, in order of first mention.
    sources: list[dict[str, list[int]]] = []
    for item in items:
        found: dict[str, list[int]] = {}
        for slot in range(len(item.passages)):
            found.setdefault(next(produced), []).append(slot)
        sources.append(found)
    plan = [
        (index, text, slot)
        for index, found in enumerate(sources)
        for text, own in found.items()
        for slot in (range(len(items[index].passages)) if thorough else own)
    ]
    scored = generator.response_logp(
        [
            GeneratorInput(items[index].context, (items[index].passages[slot],), response=text)
            for index, text, slot in plan
        ]
    ).logp
    joint: list[dict[str, list[Tensor]]] = [{} for _ in items]
    for (index, text, slot), logp in zip(plan, scored.cpu(), strict=True):
        joint[index].setdefault(text, []).append(items[index].prior_logp[slot].cpu() + logp)
    return [_argmax(terms) for terms in joint]


def _argmax(terms: dict[str, list[Tensor]]) -> Decoded:
    marginal = {text: float(torch.stack(parts).logsumexp(0)) for text, parts in terms.items()}
    best = max(marginal, key=marginal.__getitem__)
    return Decoded(best, marginal[best])


def _rag_token(generator: Generator, items: Sequence[Grounding], limit: int) -> list[Decoded]:
    prefixes: list[list[int]] = [[] for _ in items]
    logp = [0.0] * len(items)
    active = list(range(len(items)))
    for _ in range(limit):
        if not active:
            break
        steps = _mixture(generator, [items[i] for i in active], [prefixes[i] for i in active])
        best = steps.max(dim=1)
        for index, token, value in zip(
            active, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            prefixes[index].append(token)
            logp[index] += value
        active = [index for index in active if prefixes[index][-1] != generator.eos_id]
    return [
        Decoded(generator.decode(ids), total) for ids, total in zip(prefixes, logp, strict=True)
    ]


def _mixture(
    generator: Generator, items: Sequence[Grounding], prefixes: Sequence[Sequence[int]]
) -> Tensor:
    """log sum_h p(h|x) p(. | x, h, prefix), [items, V]."""
    inputs = [GeneratorInput(item.context, (h,)) for item in items for h in item.passages]
    repeated = [prefix for item, prefix in zip(items, prefixes, strict=True) for _ in item.passages]
    rows = generator.next_token_logp(inputs, repeated)
    counts = [len(item.passages) for item in items]
    mixed = [
        (item.prior_logp.to(part.device).unsqueeze(1) + part).logsumexp(dim=0)
        for item, part in zip(items, torch.split(rows, counts), strict=True)
    ]
    return torch.stack(mixed)


_Mode = Callable[[Generator, Sequence[Grounding], int], list[Decoded]]
MODES: dict[str, _Mode] = {
    "top1": _top1,
    "concat": _concat,
    "rag-sequence": _rag_sequence,
    "rag-sequence-fast": _rag_sequence_fast,
    "rag-token": _rag_token,
}
