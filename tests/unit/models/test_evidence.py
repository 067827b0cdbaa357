"""The evidence check on planted problems whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jsarag import randomness
from jsarag.errors import NumericalError, ShapeError
from jsarag.models.encoder import TextEncoder
from jsarag.models.evidence import Evidence, evidence_check, generator_scorer
from jsarag.models.query_likelihood import build_query_likelihood
from jsarag.types import Passage

from .conftest import CORPUS

N = 40
RESPONSES = [f"answer {place}" for place in range(N)]
# Example i: its own passage is row i; the prior's list holds it second, among passages 100 + ...
POSTERIOR = torch.arange(N)[:, None] + torch.tensor([[0, 1000, 2000]])
PRIOR = torch.cat(
    [
        100 + torch.arange(N)[:, None],
        torch.arange(N)[:, None],
        200 + torch.arange(3 * N).view(N, 3),
    ],
    dim=1,
)


class Scorer:
    """log-likelihood = ``strength`` where response and passage belong together, plus noise."""

    def __init__(self, strength: float, length_bias: float = 0.0) -> None:
        self.strength, self.length_bias = strength, length_bias
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, example: Tensor, row: Tensor, response_of: Tensor) -> Tensor:
        self.calls.append((example, row, response_of))
        noise = [
            randomness.generator(int(i), int(r), int(j)).standard_normal()
            for i, r, j in zip(example, row, response_of, strict=True)
        ]
        first = (row < N).float()  # a first choice, whoever's
        return (
            torch.tensor(noise).float()
            + self.strength * (row == response_of)
            + self.length_bias * first
        )


def check(scorer: Callable[[Tensor, Tensor, Tensor], Tensor], **options: int) -> Evidence:
    return evidence_check(POSTERIOR, PRIOR, RESPONSES, scorer, **options)


def test_a_likelihood_that_knows_the_passage_is_evidence() -> None:
    found = check(Scorer(5.0))
    assert found.verdict == "evidence"
    assert found.auc > 0.95
    assert found.auc_shuffled == pytest.approx(0.5, abs=0.12)
    assert found.margin == pytest.approx(found.auc - found.auc_shuffled)
    assert found.interval[0] < found.margin < found.interval[1]
    assert found.n == N
    assert found.as_dict()["verdict"] == "evidence"
    assert f"{found.margin:.2f}" in found.advice


def test_noise_is_chance() -> None:
    found = check(Scorer(0.0))
    assert found.verdict == "chance"
    assert found.auc == pytest.approx(0.5, abs=0.12)
    assert found.low <= 0 <= found.high
    assert "generator_warmup_steps" in found.advice


def test_a_preference_that_every_response_shares_is_chance() -> None:
    """First choices that are likely under any response (long, common) say nothing."""
    found = check(Scorer(0.0, length_bias=1.5))
    assert found.auc > 0.6
    assert found.verdict == "chance"


def test_weak_evidence_is_reported_as_unsure() -> None:
    found = check(Scorer(1.3))
    assert found.low < 0.27 <= found.high
    assert "check more examples" in found.advice
    assert "check more examples" not in check(Scorer(5.0)).advice


def test_what_is_scored() -> None:
    scorer = Scorer(5.0)
    check(scorer, passages=8, others=2)
    (asked,) = scorer.calls
    own, *others = zip(*(part.chunk(3) for part in asked), strict=True)
    assert torch.equal(own[0], own[2])
    for call in others:
        assert torch.equal(call[0], own[0])
        assert torch.equal(call[1], own[1])
        assert not (call[2] == call[0]).any()
    assert not torch.equal(others[0][2], others[1][2])
    for place in range(N):
        rows = own[1][own[0] == place].tolist()
        assert len(rows) == len(set(rows)) == 8
        assert rows[0] == place
        topical = [int(row) for row in PRIOR[place] if int(row) != place]
        assert rows[1:4] == topical[:3]
        # Others' first choices, none of which is in a list of its own.
        assert all(row < N or 100 <= row < 100 + N for row in rows[4:])
        assert not set(rows[4:]) & {place, *topical}


def test_it_is_deterministic_and_the_seed_matters() -> None:
    assert check(Scorer(1.0)) == check(Scorer(1.0))
    assert check(Scorer(1.0), seed=2).auc_shuffled != check(Scorer(1.0)).auc_shuffled


def test_shared_responses_are_left_out() -> None:
    scorer = Scorer(5.0)
    responses = ["no idea", " no idea", *RESPONSES[2:]]
    found = evidence_check(POSTERIOR, PRIOR, responses, scorer)
    assert found.n == N - 2
    assert int(scorer.calls[0][0].min()) == 2
    assert all(int(call[2].min()) >= 2 for call in scorer.calls)


def test_nothing_to_compare_is_chance_with_advice() -> None:
    scorer = Scorer(5.0)
    found = evidence_check(POSTERIOR, PRIOR, ["yes"] * N, scorer)
    assert (found.n, found.verdict, scorer.calls) == (0, "chance", [])
    assert "more examples" in found.advice
    nothing = torch.full((N, 2), -1)
    assert evidence_check(nothing, PRIOR, RESPONSES, scorer).n == 0
    assert evidence_check(POSTERIOR[:2], PRIOR[:2], RESPONSES[:2], scorer).n == 0


def test_ties_count_half() -> None:
    found = check(lambda example, row, response_of: torch.zeros(len(row)))
    assert (found.auc, found.auc_shuffled, found.margin) == (0.5, 0.5, 0.0)


def test_small_knowledge_bases_and_padding() -> None:
    """Two passages in all: each example is compared with what there is."""
    posterior = torch.tensor([[0, -1], [1, -1], [0, -1], [1, -1]])
    prior = torch.tensor([[1], [0], [1], [0]])
    found = evidence_check(posterior, prior, ["a", "b", "c", "d"], _agrees)
    assert found.n == 4
    assert found.auc == 1.0


def _agrees(example: Tensor, row: Tensor, response_of: Tensor) -> Tensor:
    return (row == response_of % 2).float()


def test_nan_is_an_error_and_shapes_are_checked() -> None:
    with pytest.raises(NumericalError, match="NaN"):
        check(lambda example, row, response_of: torch.full((len(row),), float("nan")))
    with pytest.raises(ShapeError, match="n responses"):
        evidence_check(POSTERIOR, PRIOR[:-1], RESPONSES, Scorer(1.0))
    with pytest.raises(ShapeError, match="at least 3"):
        check(Scorer(1.0), passages=2)


def test_generator_scorer_asks_for_the_right_triples(encoder: TextEncoder) -> None:
    passages = [Passage(str(row), text) for row, text in enumerate(CORPUS[:3])]
    responses = ["the otter sleeps", "hares in the forest"]
    generator = build_query_likelihood(
        encoder, responses, passages, unigram_weight=0.5, max_response_tokens=8
    )
    score = generator_scorer(generator, ["", ""], responses, passages.__getitem__)
    example = torch.tensor([0, 0, 1, 1])
    logp = score(example, torch.tensor([0, 1, 0, 1]), example)
    assert logp[0] > logp[1]
    assert logp[3] > logp[2]
    crossed = score(example, torch.tensor([0, 1, 0, 1]), 1 - example)
    assert crossed.tolist() == [logp[2], logp[3], logp[0], logp[1]]
    assert not logp.requires_grad
