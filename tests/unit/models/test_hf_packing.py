"""Packed and shared sequences give what each sequence gives alone, and cost fewer tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from jsarag.models.hf_generator import HFGenerator
from jsarag.models.hf_packing import Line, lay_out, pack, packed_chunks
from jsarag.models.hf_prompts import PromptSettings
from jsarag.models.lora import LoraSettings, add_lora
from jsarag.types import GeneratorInput, Passage

from .conftest import CORPUS, RESPONSES, causal_tokenizer, make_gpt2, make_llama

SETTINGS = PromptSettings(
    template="{context}\n{title} {passage}\n",
    max_context_tokens=24,
    max_passage_tokens=24,
    max_response_tokens=10,
)
CONTEXTS = ("where does the otter sleep at night in the river?", "tell me what lynxes hunt here?")
PASSAGES = [Passage(f"p{number}", text, f"T{number}") for number, text in enumerate(CORPUS)]
INPUTS = [
    GeneratorInput(context, (passage,), RESPONSES[place])
    for place, context in enumerate(CONTEXTS)
    for passage in PASSAGES
] + [GeneratorInput("no", (PASSAGES[0],), RESPONSES[2])]


def generator(make: Callable[..., Any], *, lora: bool = False, **options: Any) -> HFGenerator:
    tokenizer = causal_tokenizer()
    network = make(tokenizer)
    if lora:
        network = add_lora(network, LoraSettings(rank=2), is_encoder_decoder=False)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(3))
    return HFGenerator(network, tokenizer, SETTINGS, name="tiny", lora=lora, **options)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tolerance(make: Callable[..., Any]) -> dict[str, float]:
    """In float64; Llama's norms and eager attention's softmax work in float32 whatever it is."""
    error = 1e-5 if make is make_llama else 1e-10
    return {"atol": error, "rtol": error}


def unpacked(found: HFGenerator) -> HFGenerator:
    found._packing_reason = "switched off"
    return found


def gradients(found: HFGenerator, inputs: list[GeneratorInput]) -> dict[str, Tensor]:
    found.zero_grad(set_to_none=True)
    weights = torch.linspace(-1, 1, len(inputs), dtype=torch.float64)
    (found.response_logp(inputs).logp * weights).sum().backward()
    return {n: p.grad.clone() for n, p in found.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("budget", [64, 200, 100_000])
def test_packed_scores_equal_plain_ones(
    make: Callable[..., Any], attention: str, budget: int
) -> None:
    found = generator(make)
    found.inner.set_attn_implementation(attention)
    plain = unpacked(generator(make))
    assert found.packing_reason == ""
    found.budget_tokens = budget
    torch.testing.assert_close(
        found.response_logp(INPUTS).logp, plain.response_logp(INPUTS).logp, atol=1e-5, rtol=1e-5
    )
    exact, other = found.double(), plain.double()
    one, two = exact.token_logp(INPUTS), other.token_logp(INPUTS)
    assert torch.equal(one.mask, two.mask)
    torch.testing.assert_close(one.logp, two.logp, **tolerance(make))


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
@pytest.mark.parametrize("lora", [False, True])
def test_packed_gradients_equal_plain_ones(make: Callable[..., Any], lora: bool) -> None:
    one = gradients(generator(make, lora=lora).double(), INPUTS)
    two = gradients(unpacked(generator(make, lora=lora).double()), INPUTS)
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, two[name], **tolerance(make))


def test_scores_depend_on_neither_order_nor_company() -> None:
    found = generator(make_gpt2).double()
    together = found.response_logp(INPUTS).logp
    order = torch.randperm(len(INPUTS), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = found.response_logp([INPUTS[place] for place in order]).logp
    torch.testing.assert_close(shuffled, together[order], atol=1e-11, rtol=0)
    alone = torch.cat([found.response_logp([item]).logp for item in INPUTS])
    torch.testing.assert_close(alone, together, atol=1e-11, rtol=0)


def test_shared_beginnings_cost_their_tokens_once() -> None:
    found, plain = generator(make_llama), unpacked(generator(make_llama))
    seen: list[int] = []
    for each in (found, plain):
        each.inner.get_input_embeddings().register_forward_hook(
            lambda module, args, out: seen.append(args[0].numel())
        )
    found.response_logp(INPUTS)
    assert sum(seen) == found.tokens(INPUTS)
    packed = sum(seen)
    seen.clear()
    plain.response_logp(INPUTS)
    assert packed < 0.85 * sum(seen)


def test_bf16_packed_is_close_to_plain() -> None:
    found, plain = generator(make_llama, bf16=True), unpacked(generator(make_llama, bf16=True))
    assert found.packing_reason == ""
    one, two = found.response_logp(INPUTS).logp, plain.response_logp(INPUTS).logp
    assert one.isfinite().all()
    torch.testing.assert_close(one, two, rtol=0.05, atol=1.0)


@pytest.mark.parametrize("budget", [64, 150, 400])
def test_chunks_are_single_passes_within_the_budget(budget: int) -> None:
    found = generator(make_llama)
    found.budget_tokens = budget
    groups = found.chunks(INPUTS, budget)
    assert sorted(place for group in groups for place in group) == list(range(len(INPUTS)))
    seen: list[int] = []
    found.inner.get_input_embeddings().register_forward_hook(
        lambda module, args, out: seen.append(args[0].numel())
    )
    for group in groups:
        seen.clear()
        found.response_logp([INPUTS[place] for place in group])
        assert len(seen) == 1
        assert seen[0] <= budget or len(group) == 1


def test_a_model_that_ignores_the_mask_is_found_out() -> None:
    tokenizer = causal_tokenizer()
    network = make_llama(tokenizer)
    forward = network.model.forward

    def deaf(*args: Any, attention_mask: Any = None, **options: Any) -> Any:
        if attention_mask is not None and attention_mask.dim() == 4:
            attention_mask = None
        return forward(*args, attention_mask=attention_mask, **options)

    network.model.forward = deaf
    found = HFGenerator(network, tokenizer, SETTINGS, name="deaf")
    assert "mask" in found.packing_reason
    plain = unpacked(generator(make_llama))
    torch.testing.assert_close(
        found.response_logp(INPUTS).logp, plain.response_logp(INPUTS).logp, atol=1e-5, rtol=1e-5
    )


def test_a_layout_is_exact_by_hand() -> None:
    common = list(range(10, 20))
    lines = [
        Line([*common, 1, 2], 10, "a"),
        Line([*common, 3], 10, "a"),
        Line([7, 8, 9], 1, "b"),
    ]
    layout = lay_out(lines, 64)
    assert layout.tokens == 10 + 2 + 1 + 3
    packed = pack(layout, lines, 0, torch.device("cpu"), torch.float32)
    sees = packed.mask[0, 0] == 0
    ids, positions = packed.ids[0].tolist(), packed.positions[0].tolist()
    for column, token in enumerate(ids):
        seen = sorted(ids[other] for other in sees[column].nonzero().flatten().tolist())
        if token in (1, 2):
            assert seen == sorted([*common, 1, *([2] if token == 2 else [])])
        if token == 3:
            assert seen == sorted([*common, 3])
        if token == 8:
            assert seen == [7, 8]
    assert [positions[ids.index(token)] for token in (10, 19, 1, 2, 3, 7, 9)] == [
        *(0, 9, 10, 11, 10, 0, 2)
    ]
    rows, columns = packed.places
    assert [ids[column] for column in columns.tolist()] == [1, 2, 3, 8, 9]
    assert rows.tolist() == [0] * 5


def test_groups_of_lines_cover_all_and_long_ones_stand_alone() -> None:
    lines = [Line(list(range(length)), 0, str(length)) for length in (5, 40, 3, 8, 8)]
    groups = packed_chunks(lines, 16, 16)
    assert sorted(place for group in groups for place in group) == [0, 1, 2, 3, 4]
    assert [1] in groups
    for group in groups:
        if group != [1]:
            assert lay_out([lines[place] for place in group], 16).tokens <= 16
    assert packed_chunks([], 16, 16) == []
