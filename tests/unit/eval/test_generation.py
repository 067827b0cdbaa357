"""EM, F1, ROUGE and BLEU against the definitions and the field's reference packages."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from jsarag import randomness
from jsarag.eval import generation
from jsarag.eval.generation import (
    bleu_counts,
    bleu_reducer,
    bleu_signature,
    common_length,
    exact_match,
    generation_row,
    normalise_answer,
    score_generation,
    scores_from_rows,
    token_f1,
)

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "dog",
    "runs",
    "Fast",
    "blue",
    "sky",
    "don't",
    "3.5",
]


def sentence(stream: np.random.Generator, longest: int = 12) -> str:
    return " ".join(stream.choice(WORDS, size=int(stream.integers(0, longest))))


def test_normalisation_is_squads() -> None:
    assert normalise_answer("  The  Cat's, a HAT!\n") == "cats hat"
    assert normalise_answer("theatre a-b") == "theatre ab"
    assert normalise_answer("a an the") == ""


def test_exact_match_and_f1_take_the_best_answer() -> None:
    assert exact_match("The Beatles!", ["Queen", "beatles"]) == 1.0
    assert exact_match("Beatle", ["Beatles"]) == 0.0
    assert token_f1("red cat", ["blue dog", "cat"]) == pytest.approx(2 / 3)
    assert token_f1("cat cat", ["cat"]) == pytest.approx(2 / 3)  # bag, not set
    assert token_f1("dog", ["cat"]) == 0.0
    assert token_f1("the", ["a"]) == 1.0
    assert token_f1("", ["cat"]) == 0.0


@given(
    st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_common_length_is_the_textbook_one(first: list[str], second: list[str]) -> None:
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, left in enumerate(first):
        for j, right in enumerate(second):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if left == right else max(table[i, j + 1], table[i + 1, j])
            )
    assert common_length(first, second) == table[-1, -1]


def test_rouge_agrees_with_rouge_score() -> None:
    stream = randomness.generator(1, "rouge")
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    predictions = [sentence(stream) for _ in range(40)]
    answers = [[sentence(stream) for _ in range(1 + row % 3)] for row in range(40)]
    predictions[0], answers[0] = "Café-déjà vu: 12%", ["cafe deja-vu 12"]
    scores = score_generation(predictions, answers)
    for row, (prediction, accepted) in enumerate(zip(predictions, answers, strict=True)):
        expected = scorer.score_multi(accepted, prediction)
        for name, key in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
            assert scores.values[name][row] == pytest.approx(expected[key].fmeasure, abs=1e-12)
    assert 0.1 < scores.values["ROUGE-L"].mean() < 0.9


def test_bleu_agrees_with_sacrebleu() -> None:
    stream = randomness.generator(2, "bleu")
    predictions = [sentence(stream) for _ in range(50)]
    answers = [[sentence(stream), sentence(stream)] for _ in range(50)]
    scores = score_generation(predictions, answers).statistics()
    streams = [[row[0] for row in answers], [row[1] for row in answers]]
    assert scores["BLEU-4"].value == pytest.approx(
        sacrebleu.corpus_bleu(predictions, streams).score, rel=1e-12
    )
    one = sacrebleu.metrics.BLEU(max_ngram_order=1).corpus_score(predictions, streams).score
    assert scores["BLEU-1"].value == pytest.approx(one, rel=1e-12)
    assert one > scores["BLEU-4"].value > 1.0


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [("cat", "cat"), ("a b c d", "a c b d"), ("", "cat"), ("x y z w v", "q r s t"), ("a b", "a b")],
)
def test_bleu_edge_cases_agree_with_sacrebleu(prediction: str, answer: str) -> None:
    expected = sacrebleu.corpus_bleu([prediction], [[answer]]).score
    (found,) = bleu_reducer(4)(bleu_counts([prediction], [[answer]]))
    assert found == pytest.approx(expected, abs=1e-12)


def test_bleu_signature_is_sacrebleus() -> None:
    answers = [["a b"], ["c", "d e"]]
    found = bleu_signature(answers)
    scorer = sacrebleu.metrics.BLEU()
    scorer.corpus_score(["a b", "c"], [["a b", "c"], [None, "d e"]])
    assert found == str(scorer.get_signature())
    assert "tok:13a" in found
    assert f"version:{sacrebleu.__version__}" in found


def test_rows_carry_everything_back() -> None:
    scores = score_generation(["the cat sat on it", "dog"], [["a cat sat on it"], ["cat", "dogs"]])
    rows = [generation_row(scores, row) for row in range(2)]
    again = scores_from_rows(rows)
    assert {name: item.value for name, item in again.statistics().items()} == {
        name: item.value for name, item in scores.statistics().items()
    }
    assert tuple(again.statistics()) == generation.GENERATION_METRICS


def test_without_sacrebleu_everything_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "has_bleu", lambda: False)
    scores = score_generation(["cat"], [["cat"]])
    assert scores.bleu is None
    assert tuple(scores.statistics()) == ("EM", "F1", "ROUGE-L", "ROUGE-1", "ROUGE-2")
    assert bleu_signature([["cat"]]) == ""
