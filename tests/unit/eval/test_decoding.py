"""Every decoding mode against brute force over a tiny table, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from jsarag.errors import ConfigError, ShapeError
from jsarag.eval.decoding import MODES, Grounding, decode
from jsarag.types import GeneratorInput

from .conftest import EOS, LETTERS, TableGenerator, make_passages

LIMIT = 3


def grounding(context: str, count: int, first: int = 0) -> Grounding:
    logits = torch.linspace(1.0, -1.0, count, dtype=torch.float64)
    passages = make_passages(first + count)[first:]
    return Grounding(context, passages, logits.log_softmax(0))


def probability(generator: TableGenerator, item: Grounding, slot: int, text: str) -> float:
    """p(y|x,h) as a plain product over the table."""
    source = GeneratorInput(item.context, (item.passages[slot],))
    ids = generator.encode_response(text)
    return math.prod(
        float(generator.logp_of(source, ids[:t])[token].exp()) for t, token in enumerate(ids)
    )


def marginal(generator: TableGenerator, item: Grounding, text: str, slots: list[int]) -> float:
    return sum(
        float(item.prior_logp[slot].exp()) * probability(generator, item, slot, text)
        for slot in slots
    )


def greedy(generator: TableGenerator, item: Grounding) -> list[str]:
    inputs = [GeneratorInput(item.context, (passage,)) for passage in item.passages]
    return generator.generate(inputs, max_new_tokens=LIMIT)


CONTEXTS = [f"context {number}" for number in range(12)]


def test_top1_and_concat_read_what_they_say() -> None:
    generator = TableGenerator()
    items = [grounding(context, 3) for context in CONTEXTS]
    top1 = decode(generator, items, "top1", max_new_tokens=LIMIT)
    assert [item.text for item in top1] == [greedy(generator, item)[0] for item in items]
    joined = [GeneratorInput(item.context, item.passages) for item in items]
    concat = decode(generator, items, "concat", max_new_tokens=LIMIT)
    assert [item.text for item in concat] == generator.generate(joined, max_new_tokens=LIMIT)
    assert [item.text for item in concat] != [item.text for item in top1]


def test_rag_sequence_is_the_best_of_the_union_under_every_passage() -> None:
    generator = TableGenerator()
    items = [grounding(context, 4) for context in CONTEXTS]
    found = decode(generator, items, "rag-sequence", max_new_tokens=LIMIT)
    for item, result in zip(items, found, strict=True):
        union = set(greedy(generator, item))
        scores = {text: marginal(generator, item, text, [0, 1, 2, 3]) for text in union}
        assert result.text == max(scores, key=scores.__getitem__)
        assert result.logp == pytest.approx(math.log(scores[result.text]), abs=1e-12)
    assert any(len(set(greedy(generator, item))) > 2 for item in items)


def test_rag_sequence_fast_counts_only_passages_that_said_it() -> None:
    generator = TableGenerator()
    items = [grounding(context, 4) for context in CONTEXTS]
    found = decode(generator, items, "rag-sequence-fast", max_new_tokens=LIMIT)
    for item, result in zip(items, found, strict=True):
        said = greedy(generator, item)
        scores = {
            text: marginal(
                generator, item, text, [slot for slot, other in enumerate(said) if other == text]
            )
            for text in said
        }
        assert result.text == max(scores, key=scores.__getitem__)
        assert result.logp == pytest.approx(math.log(scores[result.text]), abs=1e-12)
    # One scoring per passage; the thorough form scores hypotheses times passages.
    assert len(generator.scored) == 4 * len(items)
    decode(generator, items, "rag-sequence", max_new_tokens=LIMIT)
    union = sum(len(set(greedy(generator, item))) for item in items)
    assert len(generator.scored) == 4 * len(items) + 4 * union


def test_rag_token_follows_the_mixture_step_by_step() -> None:
    generator = TableGenerator()
    items = [grounding(context, 3) for context in CONTEXTS]
    found = decode(generator, items, "rag-token", max_new_tokens=LIMIT)
    for item, result in zip(items, found, strict=True):
        prefix: list[int] = []
        total = 1.0
        while len(prefix) < LIMIT and EOS not in prefix:
            mixed = [
                sum(
                    float(weight) * float(table(generator, item, slot, prefix)[token])
                    for slot, weight in enumerate(item.prior_logp.exp())
                )
                for token in range(EOS + 1)
            ]
            prefix.append(max(range(EOS + 1), key=mixed.__getitem__))
            total *= mixed[prefix[-1]]
        assert result.text == generator.decode(prefix)
        assert result.logp == pytest.approx(math.log(total), abs=1e-12)


def table(generator: TableGenerator, item: Grounding, slot: int, prefix: list[int]) -> Tensor:
    return generator.logp_of(GeneratorInput(item.context, (item.passages[slot],)), prefix).exp()


def one_letter(context: str, passage: str, prefix: tuple[int, ...]) -> Tensor:
    """Responses of exactly one letter: p0 prefers a, p1 prefers b, both rather like c."""
    if prefix:
        return torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    first = {"p0": [0.50, 0.05, 0.45, 0.0], "p1": [0.02, 0.50, 0.48, 0.0]}[passage]
    return torch.tensor(first, dtype=torch.float64)


def test_rag_token_finds_what_no_single_passage_would_say() -> None:
    generator = TableGenerator(one_letter)
    item = Grounding("x", make_passages(2), torch.tensor([0.55, 0.45]).double().log())
    every = {letter: marginal(generator, item, letter, [0, 1]) for letter in LETTERS}
    assert max(every, key=every.__getitem__) == "c"  # the true argmax over all responses
    (token,) = decode(generator, [item], "rag-token", max_new_tokens=2)
    assert token.text == "c"
    assert token.logp == pytest.approx(math.log(every["c"]), abs=1e-12)
    (sequence,) = decode(generator, [item], "rag-sequence", max_new_tokens=2)
    assert sequence.text == "a"  # c is nobody's greedy response
    (top,) = decode(generator, [item], "top1", max_new_tokens=2)
    assert top.text == "a"


def agreeing(context: str, passage: str, prefix: tuple[int, ...]) -> Tensor:
    """p0 alone is sure of a; p1 and p2 say b, and p0 does not rule b out."""
    if prefix:
        return torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    first = {"p0": [0.6, 0.4, 0.0, 0.0], "p1": [0.0, 0.51, 0.49, 0.0], "p2": [0.0, 0.51, 0.49, 0.0]}
    return torch.tensor(first[passage], dtype=torch.float64)


def test_thorough_scoring_changes_the_winner() -> None:
    generator = TableGenerator(agreeing)
    item = Grounding("x", make_passages(3), torch.tensor([0.5, 0.25, 0.25]).double().log())
    # a: .5*.6 = .30 either way. b: .5*.51 = .255 from its own passages, .455 from all.
    (fast,) = decode(generator, [item], "rag-sequence-fast", max_new_tokens=2)
    (thorough,) = decode(generator, [item], "rag-sequence", max_new_tokens=2)
    assert (fast.text, thorough.text) == ("a", "b")
    assert fast.logp == pytest.approx(math.log(0.3))
    assert thorough.logp == pytest.approx(math.log(0.455))


@pytest.mark.parametrize("mode", MODES)
def test_one_passage_makes_all_modes_equal(mode: str) -> None:
    generator = TableGenerator()
    items = [grounding(context, 1) for context in CONTEXTS]
    found = decode(generator, items, mode, max_new_tokens=LIMIT)
    assert [item.text for item in found] == [greedy(generator, item)[0] for item in items]


@pytest.mark.parametrize("mode", MODES)
def test_items_do_not_influence_each_other(mode: str) -> None:
    generator = TableGenerator()
    items = [grounding(context, 1 + place % 4) for place, context in enumerate(CONTEXTS)]
    items.insert(5, Grounding("nothing to read", (), torch.zeros(0)))
    together = decode(generator, items, mode, max_new_tokens=LIMIT)
    single = [decode(generator, [item], mode, max_new_tokens=LIMIT)[0] for item in items]
    assert together == single
    assert together[5].text == ""
    assert decode(generator, [], mode, max_new_tokens=LIMIT) == []


def test_refusals() -> None:
    generator = TableGenerator()
    item = grounding("x", 2)
    with pytest.raises(ConfigError, match=r"eval\.decoding.*rag-token.*'beam'"):
        decode(generator, [item], "beam", max_new_tokens=3)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        decode(generator, [item], "top1", max_new_tokens=0)
    with pytest.raises(ShapeError, match=r"\[2\]"):
        decode(generator, [Grounding("x", item.passages, torch.zeros(3))], "top1", max_new_tokens=3)


def test_brute_force_marginals_are_probabilities() -> None:
    # Guards the tests' own arithmetic: responses of up to six letters hold most of the mass.
    generator = TableGenerator()
    item = grounding("context 0", 3)
    total = sum(
        marginal(generator, item, "".join(letters), [0, 1, 2])
        for length in range(7)
        for letters in itertools.product(LETTERS, repeat=length)
    )
    assert 0.8 < total <= 1.0
