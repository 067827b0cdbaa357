"""Hugging Face generators against the plain way: full logits, log-softmax, one input at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jsarag.errors import CheckpointError, ConfigError
from jsarag.models.hf_generator import HFGenerator, load_hf_generator, load_saved
from jsarag.models.hf_prompts import PromptSettings
from jsarag.models.load_generator import load_saved_generator
from jsarag.models.lora import LoraSettings, add_lora
from jsarag.types import GeneratorInput, Passage

from .conftest import (
    CORPUS,
    causal_tokenizer,
    make_gpt2,
    make_llama,
    make_t5,
    seq2seq_tokenizer,
)

SETTINGS = PromptSettings(
    template="{title} {passage}\n{context}\n",
    max_context_tokens=16,
    max_passage_tokens=24,
    max_response_tokens=10,
)


def gpt2(**options: Any) -> HFGenerator:
    tokenizer = causal_tokenizer()
    return HFGenerator(make_gpt2(tokenizer), tokenizer, SETTINGS, name="tiny", **options)


def llama(**options: Any) -> HFGenerator:
    tokenizer = causal_tokenizer()
    return HFGenerator(make_llama(tokenizer), tokenizer, SETTINGS, name="tiny", **options)


def t5(tied: bool = True, **options: Any) -> HFGenerator:
    tokenizer = seq2seq_tokenizer()
    return HFGenerator(make_t5(tokenizer, tied=tied), tokenizer, SETTINGS, name="tiny", **options)


def untied_t5(**options: Any) -> HFGenerator:
    return t5(tied=False, **options)


FAMILIES = [gpt2, llama, t5, untied_t5]
Make = Callable[..., HFGenerator]


def plain_logp(generator: HFGenerator, item: GeneratorInput) -> Tensor:
    """Log-probabilities of the response's tokens the textbook way."""
    (prompt,) = generator.prompts.prompts([item], reserve=10)
    response = generator.encode_response(item.response)
    if generator.is_encoder_decoder:
        logits = generator.inner(
            input_ids=torch.tensor([prompt]),
            decoder_input_ids=torch.tensor([[0, *response[:-1]]]),
        ).logits[0]
    else:
        logits = generator.inner(torch.tensor([prompt + response])).logits[0]
        logits = logits[len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


@pytest.mark.parametrize("make", FAMILIES)
def test_scores_are_the_model_s_own(make: Make, inputs: list[GeneratorInput]) -> None:
    generator = make(budget_tokens=64)
    assert len(generator.chunks(inputs, 64)) > 1
    assert generator.head_reason == ""
    tokens, whole = generator.token_logp(inputs), generator.response_logp(inputs)
    for place, item in enumerate(inputs):
        expected = plain_logp(generator, item)
        count = len(expected)
        assert tokens.mask[place].sum() == whole.tokens[place] == count
        assert torch.allclose(tokens.logp[place, :count], expected, atol=1e-4)
        assert not tokens.logp[place, count:].any()
        assert torch.allclose(whole.logp[place], expected.sum(), atol=1e-3)
    assert not generator.fallbacks


@pytest.mark.parametrize("make", FAMILIES)
def test_gradients_are_the_model_s_own(make: Make, inputs: list[GeneratorInput]) -> None:
    generator = make()
    names = [name for name, _ in generator.named_parameters()]
    weight = torch.tensor([1.0, -0.5, 2.0, 0.3, 1.0])

    def gradients(loss: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True))

    ours = gradients((weight * generator.response_logp(inputs).logp).sum())
    plain = torch.stack([plain_logp(generator, item).sum() for item in inputs])
    expected = gradients((weight * plain).sum())
    for name, one, other in zip(names, ours, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            assert torch.allclose(one, other, atol=2e-3, rtol=2e-3), name


@pytest.mark.parametrize("make", FAMILIES)
def test_next_token_logp_agrees_with_token_logp(make: Make, inputs: list[GeneratorInput]) -> None:
    generator = make(micro_batch=3)
    scored = generator.token_logp(inputs).logp.detach()
    for step in (0, 1):
        prefixes = [generator.encode_response(item.response)[:step] for item in inputs]
        table = generator.next_token_logp(inputs, prefixes)
        assert table.exp().sum(dim=1).tolist() == pytest.approx([1.0] * len(inputs), abs=1e-4)
        for place, item in enumerate(inputs):
            token = generator.encode_response(item.response)[step]
            assert float(table[place, token]) == pytest.approx(float(scored[place, step]), abs=1e-4)


@pytest.mark.parametrize("make", [gpt2, llama, t5])
def test_decoding_is_greedy_whatever_the_batch(make: Make, inputs: list[GeneratorInput]) -> None:
    generator = make(micro_batch=3)
    produced = generator.generate(inputs, max_new_tokens=5)
    for item, text in zip(inputs, produced, strict=True):
        prefix: list[int] = []
        while len(prefix) < 5:
            prefix.append(int(generator.next_token_logp([item], [prefix]).argmax()))
            if prefix[-1] == generator.eos_id:
                break
        assert text == generator.decode(prefix)


def test_shipped_decoding_settings_are_ignored(inputs: list[GeneratorInput]) -> None:
    tokenizer = causal_tokenizer()
    model = make_gpt2(tokenizer)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0)
    generator = HFGenerator(model, tokenizer, SETTINGS, name="tiny")
    plain = gpt2().generate(inputs, max_new_tokens=6)
    assert generator.generate(inputs, max_new_tokens=6) == plain


def test_dropout_is_off_in_training(inputs: list[GeneratorInput]) -> None:
    generator = gpt2().train()
    assert generator.training
    first, second = (generator.response_logp(inputs).logp.detach() for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, generator.eval().response_logp(inputs).logp.detach())


def test_bf16_is_close_and_weights_stay_f32(inputs: list[GeneratorInput]) -> None:
    exact, rounded = gpt2(), gpt2(bf16=True)
    assert rounded.head_reason == rounded.packing_reason == ""
    one = exact.response_logp(inputs).logp.detach()
    other = rounded.response_logp(inputs).logp.detach()
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert torch.allclose(one, other, rtol=0.05, atol=1.0)
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.float32}
    assert rounded.generate(inputs[:1], max_new_tokens=2)


def test_a_head_that_is_not_the_model_s_is_found_out(inputs: list[GeneratorInput]) -> None:
    """A model that changes its logits after the output layer scores through its own logits."""

    class Twisted(type(make_gpt2(causal_tokenizer()))):  # type: ignore[misc]
        def forward(self, *arguments: Any, **options: Any) -> Any:
            output = super().forward(*arguments, **options)
            output.logits = output.logits * 0.5
            return output

    tokenizer = causal_tokenizer()
    model = make_gpt2(tokenizer)
    model.__class__ = Twisted
    generator = HFGenerator(model, tokenizer, SETTINGS, name="tiny")
    assert "its logits are not its output layer's" in generator.head_reason
    scored = generator.response_logp(inputs)
    for place, item in enumerate(inputs):
        assert torch.allclose(scored.logp[place], plain_logp(generator, item).sum(), atol=1e-3)
    assert sum(generator.fallbacks.values()) > 0
    tokens = generator.token_logp(inputs)
    assert torch.allclose(tokens.logp.sum(dim=1), scored.logp, atol=1e-3)
    assert generator.next_token_logp(inputs[:1], [[]]).exp().sum() == pytest.approx(1.0, abs=1e-4)


def test_an_output_layer_that_is_no_linear_is_left_to_the_model() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    tokenizer = causal_tokenizer()
    model = make_llama(tokenizer)
    model.lm_head = Scaled(32, len(tokenizer), bias=False)
    generator = HFGenerator(model, tokenizer, SETTINGS, name="tiny")
    assert "not a plain Linear" in generator.head_reason


def test_logit_soft_cap_is_part_of_the_score(inputs: list[GeneratorInput]) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(4)
    tokenizer = causal_tokenizer()
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        final_logit_softcapping=3.0,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    generator = HFGenerator(Gemma2ForCausalLM(config).eval(), tokenizer, SETTINGS, name="tiny")
    assert generator.head_reason == ""
    scored = generator.response_logp(inputs).logp
    expected = torch.stack([plain_logp(generator, item).sum() for item in inputs])
    assert torch.allclose(scored, expected, atol=1e-3)


@pytest.mark.parametrize("make", [gpt2, t5])
def test_checkpoint_state_restores_and_refuses_others(
    make: Make, inputs: list[GeneratorInput]
) -> None:
    generator, other = make(), make()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.05)
    assert other.digest() != generator.digest()
    other.load_checkpoint_state(generator.checkpoint_state())
    assert other.digest() == generator.digest()
    assert torch.equal(other.response_logp(inputs).logp, generator.response_logp(inputs).logp)
    with pytest.raises(CheckpointError, match="expected the weights of generator 'tiny'"):
        llama().load_checkpoint_state(generator.checkpoint_state())


@pytest.mark.parametrize("make", [gpt2, llama, t5])
def test_saved_and_loaded_scores_alike(
    make: Make, inputs: list[GeneratorInput], tmp_path: Path
) -> None:
    generator = make()
    generator.save(tmp_path)
    loaded = load_saved(tmp_path)
    assert loaded.prompts.settings == SETTINGS
    assert torch.allclose(
        loaded.response_logp(inputs).logp, generator.response_logp(inputs).logp, atol=1e-5
    )
    assert loaded.digest() == generator.digest()
    assert isinstance(load_saved_generator(tmp_path), HFGenerator)
    with pytest.raises(CheckpointError, match="saved 'huggingface' generator"):
        load_saved(tmp_path / "nothing")


def test_lora_trains_adapters_only(inputs: list[GeneratorInput], tmp_path: Path) -> None:
    base = tmp_path / "base"
    gpt2().save(base)
    generator = load_hf_generator(
        str(base), settings=SETTINGS, lora=LoraSettings(rank=2, alpha=4.0)
    )
    plain = gpt2().response_logp(inputs).logp
    assert torch.allclose(generator.response_logp(inputs).logp, plain, atol=1e-4)
    trained = [name for name, p in generator.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert set(generator.checkpoint_state()) == {name.removeprefix("network.") for name in trained}
    generator.response_logp(inputs).logp.sum().backward()
    optimizer = torch.optim.SGD([p for p in generator.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    generator.zero_grad()
    generator.response_logp(inputs).logp.sum().backward()
    optimizer.step()
    changed = generator.response_logp(inputs).logp.detach()
    assert not torch.allclose(changed, plain, atol=1e-2)

    state = {name: tensor.clone() for name, tensor in generator.checkpoint_state().items()}
    fresh = load_hf_generator(str(base), settings=SETTINGS, lora=LoraSettings(rank=2, alpha=4.0))
    fresh.load_checkpoint_state(state)
    assert torch.allclose(fresh.response_logp(inputs).logp, changed, atol=1e-4)
    generator.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = load_saved_generator(tmp_path / "adapter")
    assert torch.allclose(loaded.response_logp(inputs).logp, changed, atol=1e-4)
    assert loaded.is_trainable


def test_lora_dropout_runs_only_where_gradients_are_trained(inputs: list[GeneratorInput]) -> None:
    tokenizer = causal_tokenizer()
    model = add_lora(
        make_llama(tokenizer), LoraSettings(rank=4, dropout=0.5), is_encoder_decoder=False
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    generator = HFGenerator(model, tokenizer, SETTINGS, name="tiny", lora=True).train()
    with torch.no_grad():
        one, two = (generator.response_logp(inputs).logp for _ in range(2))
    assert torch.equal(one, two)
    noisy = generator.response_logp(inputs).logp.detach()
    assert not torch.allclose(noisy, one)
    generator.eval()
    assert torch.equal(generator.response_logp(inputs).logp.detach(), one)


def test_lora_on_seq2seq_and_unknown_layers(inputs: list[GeneratorInput]) -> None:
    tokenizer = seq2seq_tokenizer()
    model = add_lora(
        make_t5(tokenizer), LoraSettings(target_modules=("q", "v")), is_encoder_decoder=True
    )
    generator = HFGenerator(model, tokenizer, SETTINGS, name="tiny", lora=True)
    assert torch.allclose(
        generator.response_logp(inputs).logp, t5().response_logp(inputs).logp, atol=1e-4
    )
    with pytest.raises(ConfigError, match=r"target_modules: expected names .* got \['quer'\]"):
        add_lora(
            make_t5(tokenizer), LoraSettings(target_modules=("quer",)), is_encoder_decoder=True
        )


def opt(**options: Any) -> HFGenerator:
    """A model whose layers drop out by their own training flag."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(5)
    tokenizer = causal_tokenizer()
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2}
    config = OPTConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=2,
        max_position_embeddings=128,
        dropout=0.5,
        init_std=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **sizes,
    )
    return HFGenerator(OPTForCausalLM(config).eval(), tokenizer, SETTINGS, name="opt", **options)


@pytest.mark.parametrize("make", [llama, gpt2, opt])
def test_checkpointing_stays_on_and_changes_nothing(
    make: Make, inputs: list[GeneratorInput]
) -> None:
    plain, checkpointed = make(), make()
    assert checkpointed.checkpoint_activations()
    checkpointed.train()
    flagged = [m for m in checkpointed.inner.modules() if getattr(m, "gradient_checkpointing", 0)]
    assert flagged
    assert all(module.training for module in flagged)
    for generator in (plain, checkpointed):
        generator.response_logp(inputs).logp.sum().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("budget", [40, 90, 10_000])
def test_encoder_decoder_chunks_are_padded_passes_within_the_budget(
    inputs: list[GeneratorInput], budget: int
) -> None:
    generator = t5(budget_tokens=budget).double()
    assert generator.packing_reason == "it is an encoder-decoder model"
    together = generator.response_logp(inputs).logp
    alone = torch.cat([generator.response_logp([item]).logp for item in inputs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    seen: list[int] = []
    for stack in (generator.inner.get_encoder(), generator.inner.get_decoder()):
        stack.embed_tokens.register_forward_hook(
            lambda module, arguments, output: seen.append(arguments[0].numel())
        )
    groups = generator.chunks(inputs, budget)
    assert sorted(place for group in groups for place in group) == list(range(len(inputs)))
    for group in groups:
        chosen = [inputs[place] for place in group]
        seen.clear()
        generator.response_logp(chosen)
        assert len(seen) == 2  # the encoder's tokens and the decoder's
        assert sum(seen) == generator.tokens(chosen)
        assert sum(seen) <= budget or len(group) == 1


def test_no_inputs() -> None:
    generator = gpt2()
    assert generator.tokens([]) == 0
    assert generator.chunks([], 100) == []
    assert generator.response_logp([]).logp.shape == (0,)
    assert generator.token_logp([]).mask.shape == (0, 0)
    assert generator.generate([], max_new_tokens=2) == []
    assert generator.next_token_logp([], []).shape[0] == 0


def test_the_passage_is_read(inputs: list[GeneratorInput]) -> None:
    generator = gpt2()
    one, other = generator.response_logp(inputs[:2]).logp.detach()
    assert one != other
    joined = GeneratorInput("what?", (Passage("a", CORPUS[0]), Passage("b", CORPUS[1])), "fish")
    swapped = GeneratorInput("what?", joined.passages[::-1], "fish")
    first, second = generator.response_logp([joined, swapped]).logp.detach()
    assert first != second
