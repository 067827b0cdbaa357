"""How close generated responses come to the accepted answers: EM, F1, BLEU and ROUGE.

Every metric takes the best answer of a row (BLEU: all answers as references). EM, F1 and ROUGE lie
in [0, 1]; BLEU keeps sacrebleu's unit, 0 to 100, so that its signature stays true. BLEU needs
sacrebleu (extra ``eval``) and is left out, with a note, where it is missing.
"""

from __future__ import annotations

import importlib.util
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jsarag.eval.significance import FloatArray, Statistic, mean_statistic

GENERATION_METRICS = ("EM", "F1", "BLEU-4", "ROUGE-L", "BLEU-1", "ROUGE-1", "ROUGE-2")
_ROW_METRICS = ("EM", "F1", "ROUGE-L", "ROUGE-1", "ROUGE-2")
_BLEU_ORDERS = {"BLEU-4": 4, "BLEU-1": 1}
_ORDER = 4
BLEU_MISSING = (
    "BLEU was left out: it is sacrebleu's, which is not installed; pip install 'jsarag[eval]'"
)

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NOT_ROUGE = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class GenerationScores:
    """One number per metric and row, and BLEU's counts.

    Attributes:
        values: metric -> f64 [n] in [0, 1]; everything but BLEU.
        bleu: f64 [n, 10] or None: hypothesis length, closest reference length, n-gram matches
            (orders 1 to 4), n-grams (orders 1 to 4). Their sums give the corpus score.
    """

    values: Mapping[str, FloatArray]
    bleu: FloatArray | None

    def statistics(self) -> dict[str, Statistic]:
        """Every metric there is, in the order of ``GENERATION_METRICS``."""
        found = {name: mean_statistic(values) for name, values in self.values.items()}
        if self.bleu is not None:
            found |= {
                name: Statistic(self.bleu, bleu_reducer(order))
                for name, order in _BLEU_ORDERS.items()
            }
        return {name: found[name] for name in GENERATION_METRICS if name in found}


def score_generation(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> GenerationScores:
    """Score one prediction per row against its accepted answers (at least one each)."""
    pairs = list(zip(predictions, answers, strict=True))
    columns: dict[str, Callable[[str, Sequence[str]], float]] = {
        "EM": exact_match,
        "F1": token_f1,
        "ROUGE-L": rouge_l,
        "ROUGE-1": lambda prediction, accepted: rouge_n(prediction, accepted, 1),
        "ROUGE-2": lambda prediction, accepted: rouge_n(prediction, accepted, 2),
    }
    values = {
        name: np.array([score(*pair) for pair in pairs], dtype=np.float64)
        for name, score in columns.items()
    }
    return GenerationScores(values, bleu_counts(predictions, answers) if has_bleu() else None)


def normalise_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    kept = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1.0 if the normalised prediction equals a normalised answer, else 0.0."""
    found = normalise_answer(prediction)
    return max(float(found == normalise_answer(answer)) for answer in answers)


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """Bag-of-words F1 after SQuAD's normalisation, best answer.

    Where either side has no words left, 1.0 if both have none, else 0.0 (SQuAD 2.0's rule).
    """
    found = normalise_answer(prediction).split()
    return max(_f1_or_equal(found, normalise_answer(answer).split()) for answer in answers)


def rouge_n(prediction: str, answers: Iterable[str], n: int) -> float:
    """ROUGE-n F-measure, best answer; rouge-score's tokens (ASCII words, no stemming)."""
    found = _ngrams(rouge_tokens(prediction), n)
    return max(_overlap_f(found, _ngrams(rouge_tokens(answer), n)) for answer in answers)


def rouge_l(prediction: str, answers: Iterable[str]) -> float:
    """ROUGE-L F-measure (longest common subsequence of the whole text), best answer."""
    found = rouge_tokens(prediction)
    best = 0.0
    for answer in answers:
        wanted = rouge_tokens(answer)
        best = max(best, _f_measure(common_length(found, wanted), len(found), len(wanted)))
    return best


def rouge_tokens(text: str) -> list[str]:
    """rouge-score's tokens; text without Latin letters or digits has none and scores 0."""
    return [token for token in _NOT_ROUGE.sub(" ", text.lower()).split() if token]


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by Hyyrö's bit-parallel recurrence (2004).

    One integer of len(first) bits holds a whole row of the dynamic programme, so the cost is
    len(second) big-integer additions.
    """
    places: dict[str, int] = {}
    for position, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << position
    full = (1 << len(first)) - 1
    state = full
    for token in second:
        matched = state & places.get(token, 0)
        state = ((state + matched) | (state - matched)) & full
    return len(first) - state.bit_count()


def has_bleu() -> bool:
    """Whether sacrebleu is installed."""
    return importlib.util.find_spec("sacrebleu") is not None


def bleu_counts(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> FloatArray:
    """sacrebleu's counts of each row, f64 [n, 10]; see :class:`GenerationScores`."""
    scorer = _scorer(effective_order=True)  # the counts are the same; without it sacrebleu warns
    rows = np.zeros((len(predictions), 2 + 2 * _ORDER))
    for row, (prediction, accepted) in enumerate(zip(predictions, answers, strict=True)):
        score = scorer.sentence_score(prediction, list(accepted))
        rows[row] = [score.sys_len, score.ref_len, *score.counts, *score.totals]
    return rows


def bleu_signature(answers: Sequence[Sequence[str]]) -> str:
    """sacrebleu's signature of the corpus score of these references; '' without sacrebleu."""
    if not has_bleu() or not answers:
        return ""
    scorer = _scorer(effective_order=False)
    most = max(len(accepted) for accepted in answers)
    streams = [
        [accepted[place] if place < len(accepted) else None for accepted in answers]
        for place in range(most)
    ]
    scorer.corpus_score([""] * len(answers), streams)
    return str(scorer.get_signature())


def bleu_reducer(order: int) -> Callable[[FloatArray], FloatArray]:
    """Corpus BLEU of summed counts: f64 [S, 10] -> f64 [S] in 0..100.

    sacrebleu's formula (brevity penalty, exponential smoothing of orders without a match, 0 where
    nothing matches or an order has no n-grams), over many resamples at once.
    """

    def reduce(sums: FloatArray) -> FloatArray:
        length, reference = sums[:, 0], sums[:, 1]
        matches = sums[:, 2 : 2 + order]
        ngrams = sums[:, 2 + _ORDER : 2 + _ORDER + order]
        # The j-th order without a match counts as 2**-j of one match.
        missed = np.cumsum(matches == 0, axis=1)
        smoothed = np.where(matches > 0, matches, 0.5**missed)
        possible = matches.any(axis=1) & (ngrams > 0).all(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.exp(np.log(smoothed / ngrams).mean(axis=1))
            penalty = np.minimum(1.0, np.exp(1.0 - reference / length))
            return np.where(possible, 100.0 * penalty * precision, 0.0)

    return reduce


def generation_row(scores: GenerationScores, row: int) -> dict[str, Any]:
    """One row's metrics and BLEU counts as JSON types; :func:`scores_from_rows` reads them."""
    result: dict[str, Any] = {name: float(values[row]) for name, values in scores.values.items()}
    if scores.bleu is not None:
        result["bleu_counts"] = [int(count) for count in scores.bleu[row]]
    return result


def scores_from_rows(rows: Sequence[Mapping[str, Any]]) -> GenerationScores:
    """The scores :func:`generation_row` wrote; BLEU is dropped unless every row has its counts."""
    names = [name for name in _ROW_METRICS if rows and all(name in row for row in rows)]
    values = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}
    counted = bool(rows) and all("bleu_counts" in row for row in rows)
    bleu = np.array([row["bleu_counts"] for row in rows], dtype=np.float64) if counted else None
    return GenerationScores(values, bleu)


def _scorer(*, effective_order: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=effective_order, max_ngram_order=_ORDER)


def _f1_or_equal(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(not found and not wanted)
    return _overlap_f(Counter(found), Counter(wanted))


def _ngrams(tokens: Sequence[str], n: int) -> Counter[Any]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _overlap_f(found: Counter[Any], wanted: Counter[Any]) -> float:
    return _f_measure((found & wanted).total(), found.total(), wanted.total())


def _f_measure(common: int, found: int, wanted: int) -> float:
    return 2.0 * common / (found + wanted) if common else 0.0
