"""Which weights are shared, copied or frozen, and what the posterior reads."""

from __future__ import annotations

import pytest
import torch

from jsarag.errors import CheckpointError, ConfigError
from jsarag.models.encoder import TextEncoder
from jsarag.models.retrievers import RetrieverParts, build_retrievers
from jsarag.types import Example, Passage, Turn

from .conftest import bert_tokenizer, make_encoder

EXAMPLES = [
    Example("a", ("it sleeps in the river.",), question="where does the otter sleep?"),
    Example("b", ("hares",), history=(Turn("user", "hello"), Turn("user", "what does it hunt?"))),
]
PASSAGES = [Passage("p", "the otter sleeps", "Otter"), Passage("q", "newts live in ponds")]


def build(**options: object) -> RetrieverParts:
    return build_retrievers(make_encoder(), temperature=0.1, **options)  # type: ignore[arg-type]


def test_parts_start_as_copies_of_one_encoder(encoder: TextEncoder) -> None:
    parts = build_retrievers(encoder, temperature=0.1)
    assert list(parts.parts()) == ["prior", "posterior", "passages"]
    assert parts.prior is encoder
    digests = {part.weights_digest() for part in parts.parts().values()}
    assert len(digests) == 1
    with torch.no_grad():
        next(parts.prior.parameters()).add_(1.0)
    assert parts.passages.weights_digest() in digests
    assert parts.prior.weights_digest() not in digests
    assert not parts.has_separate_passages


def test_separate_passage_encoders() -> None:
    parts = build(share="separate")
    assert parts.has_separate_passages
    assert parts.posterior_passages is not parts.passages
    with torch.no_grad():
        next(parts.posterior_passages.parameters()).add_(1.0)
    shared = parts.encode_passages(PASSAGES)
    own = parts.encode_passages(PASSAGES, part="posterior_passages")
    assert not torch.allclose(shared, own)
    assert not build(share="separate", posterior=False).has_separate_passages


def test_what_each_part_reads() -> None:
    parts = build()
    encoder = parts.prior
    assert torch.allclose(
        parts.encode_contexts(EXAMPLES, 1),
        encoder(["where does the otter sleep?", "user: what does it hunt?"], "query"),
    )
    assert parts.posterior is not None
    assert torch.allclose(
        parts.encode_posterior(EXAMPLES, 1),
        parts.posterior(
            [
                "where does the otter sleep? [SEP] it sleeps in the river.",
                "user: what does it hunt? [SEP] hares",
            ],
            "query",
        ),
    )
    assert torch.allclose(
        parts.encode_passages(PASSAGES),
        encoder(["Otter: the otter sleeps", "newts live in ponds"], "passage"),
    )


def test_gradients_reach_only_the_part_that_read() -> None:
    parts = build()
    parts.encode_posterior(EXAMPLES, 1).sum().backward()
    touched = {
        name
        for name, part in parts.parts().items()
        if any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    }
    assert touched == {"posterior"}


def test_without_a_posterior() -> None:
    parts = build(posterior=False)
    assert list(parts.parts()) == ["prior", "passages"]
    with pytest.raises(ConfigError, match="no posterior retriever"):
        parts.encode_posterior(EXAMPLES, 1)


def test_freezing() -> None:
    parts = build(share="separate", freeze=["passages"])
    trainable = {name for name, part in parts.parts().items() if part.is_trainable}
    assert trainable == {"prior", "posterior"}
    parts.freeze(["prior"])
    assert not parts.prior.is_trainable
    assert not parts.encode_contexts(EXAMPLES, 1).requires_grad


def test_long_contexts_leave_room_for_the_response() -> None:
    parts = build()
    assert parts.posterior is not None
    words = ["otter", "lynx", "heron", "hares", "fish", "frogs", "newts", "ponds", "river", "snowy"]
    long_context, long_response = " ".join(words * 4), " ".join(reversed(words * 4))
    cases = [
        Example("a", ("the river",), question=long_context),
        Example("b", (long_response,), question="why?"),
        Example("c", (long_response,), question=long_context),
    ]
    texts = parts.posterior_texts(cases, 1)
    lengths = [len(bert_tokenizer()(text)["input_ids"]) for text in texts]
    assert max(lengths) <= 24
    contexts, responses = zip(*(text.split(" [SEP] ") for text in texts), strict=True)
    assert responses[0] == "the river"
    assert long_context.endswith(contexts[0])
    assert contexts[1] == "why?"
    assert long_response.startswith(responses[1])
    assert lengths[1] == 24
    assert abs(len(contexts[2].split()) - len(responses[2].split())) <= 2
    assert long_context.endswith(contexts[2])
    assert long_response.startswith(responses[2])
    summary = parts.truncation_summary()
    assert "posterior posterior response: 2 of 3 texts cut" in summary
    assert "posterior posterior context: 2 of 3 texts cut" in summary


def test_a_wrong_template_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"retriever.posterior_template"):
        build(posterior_template="{context}")


def test_checkpoint_states_restore_and_refuse_others() -> None:
    parts, other = build(), build()
    with torch.no_grad():
        for part in parts.parts().values():
            next(part.parameters()).add_(torch.rand(()))
    states = parts.checkpoint_states()
    assert sorted(states) == ["passages", "posterior", "prior"]
    other.load_checkpoint_states(states)
    for name, part in other.parts().items():
        assert part.weights_digest() == parts.parts()[name].weights_digest()
    with pytest.raises(CheckpointError, match=r"retriever.passage_encoder"):
        build(share="separate").load_checkpoint_states(states)
    broken = {**states, "prior": {"x": torch.zeros(1)}}
    with pytest.raises(CheckpointError, match="its 'prior' does not fit"):
        other.load_checkpoint_states(broken)
