"""The copy generator: a proper distribution, one number on every path, and it learns to copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jsarag.errors import CheckpointError, ConfigError
from jsarag.models.copy_generator import CopyGenerator, build_copy_generator, load_saved
from jsarag.models.encoder import TextEncoder
from jsarag.types import GeneratorInput, Passage

from .conftest import CORPUS, RESPONSES

EMPTY = GeneratorInput("", (), "newts live in ponds")


def build(encoder: TextEncoder, *, layers: int = 2, seed: int = 1, size: int = 12) -> CopyGenerator:
    return build_copy_generator(
        encoder,
        RESPONSES,
        layers=layers,
        vocabulary_size=size,
        max_context_tokens=16,
        max_passage_tokens=20,
        max_response_tokens=14,
        seed=seed,
    )


def shaken(generator: CopyGenerator) -> CopyGenerator:
    """With weights as after training: every part of the network has a say."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return generator


@pytest.fixture
def generator(encoder: TextEncoder) -> CopyGenerator:
    return shaken(build(encoder))


@pytest.mark.parametrize("layers", [1, 2])
def test_next_token_logp_is_a_distribution_and_agrees_with_token_logp(
    encoder: TextEncoder, inputs: list[GeneratorInput], layers: int
) -> None:
    generator = shaken(build(encoder, layers=layers))
    everything = [*inputs, EMPTY, GeneratorInput("where?", (), "in the river")]
    logp = generator.token_logp(everything).logp.detach()
    for step in range(4):
        prefixes = [generator.encode_response(item.response)[:step] for item in everything]
        table = generator.next_token_logp(everything, prefixes)
        assert table.shape == (len(everything), len(encoder.tokenizer))
        assert table.double().exp().sum(dim=1).tolist() == pytest.approx(
            [1.0] * len(everything), abs=1e-5
        )
        for place, item in enumerate(everything):
            ids = generator.encode_response(item.response)
            if step < len(ids):
                assert float(logp[place, step]) == pytest.approx(
                    float(table[place, ids[step]]), abs=1e-4
                )


def test_scores_do_not_depend_on_the_company(
    generator: CopyGenerator, inputs: list[GeneratorInput]
) -> None:
    everything = [*inputs, EMPTY]
    together = generator.response_logp(everything)
    generator.budget_tokens = 60
    groups = generator.chunks(everything, 60)
    assert sorted(place for group in groups for place in group) == list(range(len(everything)))
    assert len(groups) > 1
    for group in groups:
        chosen = [everything[place] for place in group]
        assert len(group) == 1 or generator.tokens(chosen) <= 60
        assert len(generator.chunks(chosen, 60)) == 1
    halves = generator.response_logp(everything)
    alone = torch.cat([generator.response_logp([item]).logp for item in everything])
    assert torch.allclose(together.logp, alone, atol=1e-4)
    assert torch.allclose(halves.logp, alone, atol=1e-4)
    assert together.tokens.tolist() == [
        len(generator.encode_response(item.response)) for item in everything
    ]


def test_gradients_do_not_depend_on_the_company(
    generator: CopyGenerator, inputs: list[GeneratorInput]
) -> None:
    def gradient(groups: list[list[GeneratorInput]]) -> list[torch.Tensor]:
        generator.zero_grad()
        for group in groups:
            generator.response_logp(group).logp.sum().backward()
        return [p.grad.clone() for p in generator.parameters() if p.grad is not None]

    together, alone = gradient([inputs]), gradient([[item] for item in inputs])
    assert len(together) == len(alone) == len(list(generator.parameters()))
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)
        assert one.isfinite().all()


def test_untrained_it_ranks_as_the_query_likelihood_does(
    encoder: TextEncoder, inputs: list[GeneratorInput]
) -> None:
    right, wrong = build(encoder).response_logp(inputs[:2]).logp.detach()
    assert right > wrong + 3


def test_the_passage_matters_only_through_what_is_copied_from_it(
    generator: CopyGenerator,
) -> None:
    response = "it sleeps in the river."
    with torch.no_grad():  # uniform attention, so that one word is enough to see
        generator.network.query.weight.zero_()
        generator.network.query.bias.zero_()
    first, second = (
        GeneratorInput("where?", (Passage("p", text),), response)
        for text in ("lynx hares", "frogs! heron waits, stands still")
    )
    one, other = generator.token_logp([first, second]).logp.detach()
    # Neither holds a word of it ('.' apart): shares and everything else are the context's.
    assert torch.allclose(one[:-2], other[:-2], atol=1e-5)
    holding = GeneratorInput("where?", (Passage("p", "hares sleeps lynx"),), response)
    changed = generator.token_logp([holding]).logp.detach()[0]
    sleeps = generator.encode_response("it sleeps").index(encoder_id(generator, "sleeps"))
    assert changed[sleeps] > one[sleeps] + 0.1


def encoder_id(generator: CopyGenerator, word: str) -> int:
    return int(generator.tokenizer.convert_tokens_to_ids(word))


def test_order_of_passages_does_not_matter_and_each_is_read(encoder: TextEncoder) -> None:
    generator = build(encoder)
    otter, lynx = Passage("a", CORPUS[0]), Passage("b", CORPUS[1])
    items = [
        GeneratorInput("what?", pair, "the lynx hunts fish")
        for pair in ((otter, lynx), (lynx, otter), (otter, otter))
    ]
    forward, backward, only = generator.response_logp(items).logp.detach()
    assert torch.allclose(forward, backward, atol=1e-4)
    assert forward > only


def test_vocabulary_is_the_most_frequent_tokens(encoder: TextEncoder) -> None:
    generator = build(encoder, size=3)
    tokens = generator.tokenizer.convert_ids_to_tokens(generator.get_buffer("vocabulary").tolist())
    assert sorted(tokens) == ["[SEP]", "in", "the"]
    everything = build(encoder, size=1000)
    used = {
        token
        for row in encoder.tokenizer(RESPONSES, add_special_tokens=False)["input_ids"]
        for token in row
    }
    assert set(everything.get_buffer("vocabulary").tolist()) == used | {generator.eos_id}


def test_greedy_decoding_follows_next_token_logp(
    generator: CopyGenerator, inputs: list[GeneratorInput]
) -> None:
    generator.micro_batch = 3
    everything = [*inputs, EMPTY]
    produced = generator.generate(everything, max_new_tokens=6)
    for item, text in zip(everything, produced, strict=True):
        prefix: list[int] = []
        while len(prefix) < 6:
            best = int(generator.next_token_logp([item], [prefix]).argmax())
            prefix.append(best)
            if best == generator.eos_id:
                break
        assert text == generator.decode(prefix)
    assert any(produced)


def test_it_decodes_beyond_the_scored_length(generator: CopyGenerator) -> None:
    with torch.no_grad():
        generator.network.class_bias[:] -= 100.0
        generator.network.mix.weight.zero_()
    item = GeneratorInput("", (Passage("p", CORPUS[0]),))
    (text,) = generator.generate([item], max_new_tokens=30)
    assert len(generator.tokenizer(text, add_special_tokens=False)["input_ids"]) >= 20


def test_training_teaches_copying(encoder: TextEncoder) -> None:
    """Unseen passages: the word to copy follows 'number' and was never generated in training."""
    generator = build(encoder, size=4)
    words = ["otter", "lynx", "heron", "hares", "fish", "frogs", "newts", "ponds", "river", "snowy"]
    fillers = ["water", "cold", "forest", "night"]

    def item(word: str, other: str, filler: str) -> GeneratorInput:
        text = f"{filler} one {other} two {word} three {filler}"
        return GeneratorInput("which?", (Passage("p", text),), f"the {word}")

    training = [
        item(word, other, fillers[(row + column) % 4])
        for row, word in enumerate(words[:7])
        for column, other in enumerate(words[:7])
        if word != other
    ]
    held_out = [item(w, o, f) for w in words[7:] for o in words[7:] if w != o for f in fillers]
    swapped = [
        GeneratorInput(i.context, j.passages, i.response)
        for i, j in zip(held_out, held_out[4:] + held_out[:4], strict=True)
    ]
    optimizer = torch.optim.AdamW(generator.parameters(), lr=3e-3)
    with torch.no_grad():
        before = generator.response_logp(held_out).logp.mean()
    for _ in range(60):
        optimizer.zero_grad()
        (-generator.response_logp(training).logp.mean()).backward()
        optimizer.step()
    with torch.no_grad():
        after = generator.response_logp(held_out).logp.mean()
        wrong = generator.response_logp(swapped).logp.mean()
    assert after > before + 1.0
    assert after > wrong + 1.0
    assert generator.generate([item("river", "ponds", "cold")], max_new_tokens=2) == ["the river"]


def test_frozen_words_take_no_gradient_and_stay_out_of_checkpoints(
    encoder: TextEncoder, inputs: list[GeneratorInput]
) -> None:
    generator = build(encoder)
    before = encoder.weights_digest()
    generator.response_logp(inputs).logp.sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert encoder.weights_digest() == before
    state = generator.checkpoint_state()
    assert "vocabulary" in state
    assert not any("words" in name for name in state)
    assert (
        sum(t.numel() for t in state.values()) < sum(p.numel() for p in generator.parameters()) + 50
    )


def test_seeds_decide_the_start(encoder: TextEncoder) -> None:
    torch.manual_seed(1)
    first = build(encoder, seed=1).digest()
    torch.manual_seed(2)
    assert build(encoder, seed=1).digest() == first != build(encoder, seed=2).digest()


def test_checkpoint_state_restores(
    encoder: TextEncoder, generator: CopyGenerator, inputs: list[GeneratorInput]
) -> None:
    other = build(encoder)
    assert other.digest() != generator.digest()
    other.load_checkpoint_state(generator.checkpoint_state())
    assert other.digest() == generator.digest()
    assert torch.equal(other.response_logp(inputs).logp, generator.response_logp(inputs).logp)


def test_foreign_checkpoints_are_refused(encoder: TextEncoder, generator: CopyGenerator) -> None:
    with pytest.raises(CheckpointError, match=r"generator\.copy_vocabulary"):
        build(encoder, size=5).load_checkpoint_state(generator.checkpoint_state())
    with pytest.raises(CheckpointError, match=r"generator\.layers"):
        build(encoder, layers=1).load_checkpoint_state(generator.checkpoint_state())


def test_saved_and_loaded_scores_alike(
    generator: CopyGenerator, inputs: list[GeneratorInput], tmp_path: Path
) -> None:
    generator.save(tmp_path)
    loaded = load_saved(tmp_path)
    assert torch.equal(loaded.response_logp(inputs).logp, generator.response_logp(inputs).logp)
    assert loaded.digest() == generator.digest()
    prefixes = [[]] * len(inputs)
    assert torch.equal(
        loaded.next_token_logp(inputs, prefixes), generator.next_token_logp(inputs, prefixes)
    )
    with pytest.raises(CheckpointError, match="saved 'copy' generator"):
        load_saved(tmp_path / "nothing")


def test_limits_keep_the_context_s_end_and_the_passage_s_beginning(
    generator: CopyGenerator,
) -> None:
    late, early = "lynx " * 30 + "otter", "otter " + "lynx " * 30
    otter = encoder_id(generator, "otter")

    def mass(context: str, passage: str) -> float:
        item = GeneratorInput(context, (Passage("p", passage),))
        return float(generator.next_token_logp([item], [[]])[0, otter].exp())

    assert mass(late, "hares") > 2 * mass(early, "hares")
    assert mass("what?", early) > 2 * mass("what?", late)
    summary = generator.truncation.summary()
    assert "generator context: 2 of 4 texts cut" in summary
    assert "generator passage: 2 of 4 texts cut" in summary


def test_no_inputs(generator: CopyGenerator) -> None:
    assert generator.response_logp([]).logp.shape == (0,)
    assert generator.generate([], max_new_tokens=3) == []
    assert generator.next_token_logp([], []).shape == (0, len(generator.tokenizer))
    assert generator.generate([EMPTY], max_new_tokens=0) == [""]


def test_it_needs_responses(encoder: TextEncoder) -> None:
    with pytest.raises(ConfigError, match="training responses"):
        build_copy_generator(
            encoder,
            [],
            layers=2,
            vocabulary_size=10,
            max_context_tokens=8,
            max_passage_tokens=8,
            max_response_tokens=8,
            seed=1,
        )


def test_moves_with_its_dtype(encoder: TextEncoder, inputs: list[GeneratorInput]) -> None:
    """Truth in float64: the float32 scores are those, up to rounding."""
    generator = shaken(build(encoder))
    single = generator.response_logp(inputs).logp
    exact = generator.double().response_logp(inputs).logp
    assert exact.dtype == torch.float64
    assert torch.allclose(single.double(), exact, atol=1e-3)
