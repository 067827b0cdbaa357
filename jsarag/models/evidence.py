"""Does the likelihood p(y | x, h) carry evidence about passages? A check without labels.

Training weighs passages by how likely they make the response. Where passages do not hold the
response's words, that likelihood is noise with a large scale, and it drags good retrievers down (on
OpenBookQA exact E-steps took R@1 from .30 to .20) while the loss looks fine.

The check asks whether the true response picks out the passage that a reader of the response would
pick: it is the AUC with which the likelihood ranks the *untrained* posterior's first choice above
passages of the same topic (the prior's list, outside the posterior's) and above first choices of
other examples; minus the same AUC under other examples' responses, which passages that are merely
long, short or common would score as well.

One objection: the posterior read the response, so its first choice may only echo a word. That
happens on OpenBookQA too, but there most responses share no word with any passage, the likelihoods
tie, and the AUC stays nearer a half; where passages hold the response, most examples agree. Only
the first choice is used because lower ranks dilute exactly that agreement.

Measured margins: 64 examples, 8 passages, three draws each of train and of dev examples; query
likelihood untrained, copy generator after 100 steps of warm-up (OpenBookQA 300). Beside them, with
labels, the AUC of gold passages among those retrieved.

| data set     | query likelihood | copy generator | AUC of gold |
|--------------|------------------|----------------|-------------|
| SK-TOD       | .36 to .43       | .33 to .40     | .80 to .87  |
| Doc2Dial     | .32 to .44       | .35 to .44     | .95 to .97  |
| DoQA cooking | .33 to .57       | .36 to .58     | .84 to .89  |
| OpenBookQA   | .13 to .21       | .13 to .21     | .53 to .58  |

The standard error of one margin is about .04; the threshold .27 lies between. With the posterior's
first four or only its own list compared, the sets overlapped (.10 to .22 against .12 to .35).
Lists are the caller's, as tensors; retrievers and indices are not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from jsarag import randomness
from jsarag.errors import NumericalError, ShapeError
from jsarag.models.generator import Generator
from jsarag.types import GeneratorInput, Passage

THRESHOLD = 0.27
_BOOTSTRAPS = 2000


class EvidenceScorer(Protocol):
    """log p(y_j | x_i, h), f32 [P], for example i, passage row and the example j of the response.

    Arguments are int64 [P]; the result may be on any device.
    """

    def __call__(self, example: Tensor, row: Tensor, response_of: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the check found.

    auc, auc_shuffled: how well the true and another example's response single out the first
    choice, 0.5 is chance. margin: their difference; low, high: its 95 % bootstrap interval over
    examples. n: examples that could be compared. advice: one sentence for the log.
    """

    auc: float
    auc_shuffled: float
    margin: float
    low: float
    high: float
    n: int
    verdict: Literal["evidence", "chance"]
    advice: str

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the margin."""
        return self.low, self.high

    def as_dict(self) -> dict[str, Any]:
        """Every field, for a log."""
        return asdict(self)


def evidence_check(
    posterior_rows: Tensor,
    prior_rows: Tensor,
    responses: Sequence[str],
    scorer: EvidenceScorer,
    *,
    passages: int = 8,
    others: int = 2,
    threshold: float = THRESHOLD,
    seed: int = 1,
) -> Evidence:
    """Ask whether the likelihood of the true response singles out passages; see the module's text.

    Args:
        posterior_rows: int64 [n, m], the posterior's best rows per example, best first, -1 pads;
            the first ``passages`` are looked at.
            Take them before training: a posterior trained on this likelihood agrees with it by
            construction.
        prior_rows: int64 [n, m'], the prior's best rows per example; twice ``passages`` are ample.
        responses: the n responses. Those that several examples share ('yes', 'CANNOTANSWER') are
            left out: they cannot single out a passage.
        scorer: log-likelihoods; called once, with about ``(1 + others) * n * passages`` triples.
        passages: passages scored per example, at least 3: the posterior's first choice, and in
            about equal parts passages of the prior and other examples' first choices.
        others: how many other examples' responses are tried; their AUC is a mean.
        threshold: the margin from which on the verdict is 'evidence'.
        seed: pairs examples up and resamples them.

    Returns:
        The finding, deterministic; 'chance' where no more than ``others`` examples could be
        compared.

    Raises:
        ShapeError: the lists and responses do not belong together.
        NumericalError: the scorer returned NaN.
    """
    n = len(responses)
    if (
        posterior_rows.dim() != 2
        or prior_rows.dim() != 2
        or {len(posterior_rows), len(prior_rows)} != {n}
        or passages < 3
        or others < 1
    ):
        raise ShapeError(
            "evidence_check: expected rows [n, m] of both retrievers, n responses, at least 3 "
            f"passages and 1 other response, found {tuple(posterior_rows.shape)}, "
            f"{tuple(prior_rows.shape)}, {n}, {passages} and {others}"
        )
    sets = _passage_sets(posterior_rows.tolist(), prior_rows.tolist(), passages, seed)
    often = Counter(response.strip() for response in responses)
    compared = [i for i in range(n) if len(sets[i]) > 1 and often[responses[i].strip()] == 1]
    if len(compared) <= others:
        return _finding(np.zeros((0, 1 + others)), threshold, seed)
    example = torch.tensor([index for index in compared for _ in sets[index]])
    row = torch.tensor([row for index in compared for row in sets[index]])
    response_of = torch.zeros(1 + others, n, dtype=torch.int64)
    for shift in range(1 + others):
        response_of[shift, compared] = torch.tensor(_partners(compared, shift, seed))
    # Asked at once: a generator may read what the responses' prompts share a single time.
    logp = scorer(
        example.repeat(1 + others), row.repeat(1 + others), response_of[:, example].flatten()
    )
    lengths = [len(sets[index]) for index in compared]
    aucs = [
        [_first_auc(part) for part in torch.split(of_response, lengths)]
        for of_response in logp.detach().double().cpu().view(1 + others, -1)
    ]
    values = np.array(aucs).T
    if np.isnan(values).any():
        raise NumericalError(
            "evidence_check: expected log-likelihoods from the generator, got NaN; lower the "
            "generator's learning rate or check its weights"
        )
    return _finding(values, threshold, seed)


def generator_scorer(
    generator: Generator,
    contexts: Sequence[str],
    responses: Sequence[str],
    passage_of: Callable[[int], Passage],
) -> EvidenceScorer:
    """A scorer that asks a generator, without gradient.

    Args:
        generator: any.
        contexts: rendered contexts of the n examples.
        responses: their responses.
        passage_of: the passage of a row.
    """

    @torch.no_grad()
    def score(example: Tensor, row: Tensor, response_of: Tensor) -> Tensor:
        triples = zip(example.tolist(), row.tolist(), response_of.tolist(), strict=True)
        inputs = [
            GeneratorInput(contexts[i], (passage_of(passage),), responses[j])
            for i, passage, j in triples
        ]
        return generator.response_logp(inputs).logp

    return score


def _partners(compared: Sequence[int], shift: int, seed: int) -> list[int]:
    """For each compared example the one whose response stands in for its own; 0 shifts: itself."""
    ring = randomness.permutation(seed, "evidence partners", 0, len(compared)).tolist()
    follower = {place: ring[(step + shift) % len(ring)] for step, place in enumerate(ring)}
    return [compared[follower[place]] for place in range(len(compared))]


def _passage_sets(
    posterior: Sequence[Sequence[int]],
    prior: Sequence[Sequence[int]],
    passages: int,
    seed: int,
) -> list[list[int]]:
    """Per example the rows to score, the posterior's first choice in front."""
    n = len(posterior)
    order = randomness.permutation(seed, "evidence others", 0, n).tolist()
    place = {index: position for position, index in enumerate(order)}
    topical = (passages - 1) // 2
    sets: list[list[int]] = []
    for index in range(n):
        own = [row for row in posterior[index][:passages] if row >= 0]
        if not own:
            sets.append([])
            continue
        near = list(dict.fromkeys(row for row in prior[index] if row >= 0 and row not in own))
        taken = {*own, *near}
        ring = (order[(place[index] + step) % n] for step in range(1, n))
        far: dict[int, None] = {}
        hard = near[:topical]
        while len(far) < passages - 1 - len(hard) and (other := next(ring, None)) is not None:
            firsts = [*posterior[other][:1], *prior[other][:1]]
            far |= {row: None for row in firsts if row >= 0 and row not in taken}
        sets.append([own[0], *hard, *list(far)[: passages - 1 - len(hard)]])
    return sets


def _first_auc(logp: Tensor) -> float:
    """How often the first beats another, ties half; NaN in, NaN out."""
    if bool(logp.isnan().any()):
        return float("nan")
    first, others = logp[0], logp[1:]
    return float(((first > others).double() + 0.5 * (first == others).double()).mean())


def _finding(values: np.ndarray, threshold: float, seed: int) -> Evidence:
    """values f64 [n, 1 + others]: AUC under the true response and under others."""
    n = len(values)
    if not n:
        return Evidence(0.5, 0.5, 0.0, 0.0, 0.0, n, "chance", _NOTHING_TO_COMPARE)
    shuffled = values[:, 1:].mean(axis=1)
    margins = values[:, 0] - shuffled
    picks = randomness.generator(seed, "evidence bootstrap").integers(0, n, size=(_BOOTSTRAPS, n))
    low, high = np.quantile(margins[picks].mean(axis=1), [0.025, 0.975])
    margin = float(margins.mean())
    found = margin >= threshold
    numbers = (
        f"the true response prefers the posterior's first choice with AUC {values[:, 0].mean():.2f}"
        f", another response with {shuffled.mean():.2f}: margin {margin:.2f} "
        f"[{low:.2f}, {high:.2f}] on {n} examples, threshold {threshold:.2f}"
    )
    unsure = " The interval holds the threshold: check more examples to be sure."
    return Evidence(
        auc=float(values[:, 0].mean()),
        auc_shuffled=float(shuffled.mean()),
        margin=margin,
        low=float(low),
        high=float(high),
        n=n,
        verdict="evidence" if found else "chance",
        advice=(f"Evidence: {numbers}." if found else f"{_NO_EVIDENCE} ({numbers}).")
        + (unsure if low < threshold <= high else ""),
    )


_NO_EVIDENCE = (
    "The likelihood hardly tells passages apart, so training on it may harm the retrievers. Warm "
    "the generator up longer (train.generator_warmup_steps), use a stronger generator, or use an "
    "objective that leans on the prior (objective.evidence_weight below 1, or 'rag')"
)
_NOTHING_TO_COMPARE = (
    "The likelihood's evidence could not be checked: too few examples had a response of their own "
    "and passages to compare. Give more examples, or a larger knowledge base"
)
