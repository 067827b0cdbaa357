"""The whole evaluation on a knowledge base small enough to know every answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jsarag._version import __version__
from jsarag.errors import ConfigError, DataError, NumericalError
from jsarag.eval.compare import compare_predictions, read_predictions
from jsarag.eval.evaluate import EvalInputs, EvalSettings, Evaluation, evaluate, write
from jsarag.eval.generation import token_f1
from jsarag.index.flat import FlatIndex
from jsarag.io.records import read_record
from jsarag.types import Example

from .conftest import Kb, MatrixIndex, TableGenerator, make_examples, make_passages

ROWS, PASSAGES = 12, 16
SETTINGS = EvalSettings(k=10, decoding_passages=2, bootstrap_samples=200, batch_size=5)


def number(example: Example) -> int:
    return int(example.id[1:])


def perfect(examples: Sequence[Example]) -> Tensor:
    return torch.eye(PASSAGES, dtype=torch.float64)[[number(item) for item in examples]]


def late(examples: Sequence[Example]) -> Tensor:
    """Row i scores its gold passage third: two others first."""
    base = perfect(examples) * 0.5
    for row, example in enumerate(examples):
        base[row, (number(example) + 1) % PASSAGES] = 0.9
        base[row, (number(example) + 2) % PASSAGES] = 0.8
    return base


def make_inputs(**changes: object) -> EvalInputs:
    index = MatrixIndex(torch.eye(PASSAGES, dtype=torch.float64))
    inputs = EvalInputs(
        examples=make_examples(ROWS),
        kb=Kb(make_passages(PASSAGES)),
        prior_index=index,
        posterior_index=index,
        encode_contexts=late,
        encode_posterior=perfect,
        generator=TableGenerator(),
        render_context=lambda example: f"user: {example.question}",
        inv_temperature=20.0,
    )
    return dataclasses.replace(inputs, **changes)


def test_numbers_and_stable_shape() -> None:
    result = evaluate(make_inputs(), SETTINGS).to_json()
    prior, posterior = result["retrieval"]["prior"], result["retrieval"]["posterior"]
    assert {key: prior[key] for key in ("R@1", "R@5", "R@10", "n", "without_gold")} == {
        "R@1": 0.0,
        "R@5": 1.0,
        "R@10": 1.0,
        "n": 9,
        "without_gold": 3,
    }
    assert prior["MRR@10"] == pytest.approx(1 / 3)
    assert posterior["R@1"] == posterior["MRR@10"] == 1.0
    assert prior["intervals"]["MRR@10"] == pytest.approx([1 / 3, 1 / 3])
    generation = result["generation"]
    assert {"EM", "F1", "BLEU-4", "ROUGE-L", "intervals", "n"} <= set(generation)
    assert generation["n"] == ROWS
    assert set(result) == {"retrieval", "generation", "signature", "notes"}
    assert result["notes"] == [
        "3 of 12 rows name no gold passage; retrieval is scored on the others"
    ]
    json.dumps(result, allow_nan=False)


def test_responses_are_generated_from_the_retrieved_passages() -> None:
    inputs = make_inputs()
    result = evaluate(inputs, SETTINGS)
    assert result.generation is not None
    scores = []
    for row, record in enumerate(result.predictions):
        generator = TableGenerator()
        from jsarag.types import GeneratorInput

        (expected,) = generator.generate(
            [GeneratorInput(f"user: question {row}", (inputs.kb[(row + 1) % PASSAGES],))],
            max_new_tokens=SETTINGS.max_new_tokens,
        )
        assert record["prediction"] == expected
        scores.append(token_f1(expected, record["answers"]))
        assert record["metrics"]["generation"]["F1"] == scores[-1]
    assert result.generation["F1"] == pytest.approx(sum(scores) / len(scores))


def test_prior_over_the_decoding_passages_is_normalised_with_the_temperature() -> None:
    seen = []

    class Spy(TableGenerator):
        def next_token_logp(self, inputs, prefixes):  # type: ignore[no-untyped-def]
            seen.append([item.passages[0].id for item in inputs])
            return super().next_token_logp(inputs, prefixes)

    inputs = make_inputs(generator=Spy(), examples=make_examples(1), inv_temperature=20.0)
    settings = dataclasses.replace(SETTINGS, decoding="rag-token", max_new_tokens=1)
    record = evaluate(inputs, settings).predictions[0]
    assert seen == [["p1", "p2"]]
    weights = torch.tensor([0.9 * 20, 0.8 * 20], dtype=torch.float64).softmax(0)
    from .conftest import random_table

    mixed = sum(
        weight * random_table("user: question 0", name, ())
        for weight, name in zip(weights, ("p1", "p2"), strict=True)
    )
    assert isinstance(mixed, Tensor)
    assert record["prediction_logp"] == pytest.approx(float(mixed.max().log()), abs=1e-12)


def test_prediction_rows_say_what_was_retrieved() -> None:
    result = evaluate(make_inputs(), SETTINGS)
    record = result.predictions[4]
    assert record["context"] == "user: question 4"
    assert [item["id"] for item in record["passages"][:3]] == ["p5", "p6", "p4"]
    assert [item["gold"] for item in record["passages"][:3]] == [False, False, True]
    assert record["passages"][0]["text"] == "text of 5"
    assert record["passages"][0]["title"] == "title 5"
    assert record["passages"][2]["rank"] == 3
    assert record["passages"][2]["score"] == 0.5
    assert len(record["passages"]) == 10
    assert record["posterior_passages"][0]["id"] == "p4"
    assert record["metrics"]["prior"]["MRR@10"] == pytest.approx(1 / 3)
    unknown = result.predictions[3]
    assert unknown["metrics"]["prior"] is None
    assert unknown["passages"][0]["gold"] is None


def test_excluded_passages_are_never_retrieved() -> None:
    examples = make_examples(4)
    examples[1] = dataclasses.replace(examples[1], exclude_passages=("p2", "p3"))
    inputs = make_inputs(examples=examples)
    result = evaluate(inputs, SETTINGS)
    assert result.predictions[1]["passages"][0]["id"] == "p1"
    assert {"p2", "p3"}.isdisjoint(item["id"] for item in result.predictions[1]["passages"])
    assert "p2" in [item["id"] for item in result.predictions[0]["passages"]]
    _, exclude = inputs.prior_index.asked[0]  # type: ignore[attr-defined]
    assert exclude.tolist() == [[-1, -1], [2, 3], [-1, -1], [-1, -1]]
    bad = [dataclasses.replace(examples[0], exclude_passages=("nowhere",))]
    with pytest.raises(DataError, match="nowhere"):
        evaluate(make_inputs(examples=bad), SETTINGS)


def test_everything_excluded_gives_an_empty_response() -> None:
    examples = make_examples(1)
    examples[0] = dataclasses.replace(
        examples[0], exclude_passages=tuple(f"p{row}" for row in range(PASSAGES))
    )
    record = evaluate(make_inputs(examples=examples), SETTINGS).predictions[0]
    assert record["passages"] == []
    assert record["prediction"] == ""
    assert record["metrics"]["prior"]["R@10"] == 0.0


@pytest.mark.parametrize("decoding", ["top1", "concat", "rag-sequence", "rag-token"])
def test_batch_size_changes_nothing(decoding: str) -> None:
    settings = dataclasses.replace(SETTINGS, decoding=decoding, max_new_tokens=4)
    whole = evaluate(make_inputs(), dataclasses.replace(settings, batch_size=100))
    single = evaluate(make_inputs(), dataclasses.replace(settings, batch_size=1))
    assert whole == single


def test_parts_that_are_not_there() -> None:
    inputs = make_inputs(posterior_index=None, encode_posterior=None, generator=None)
    result = evaluate(inputs, SETTINGS)
    assert result.retrieval["posterior"] is None
    assert result.generation is None
    assert result.predictions[0]["prediction"] is None
    assert "posterior_passages" not in result.predictions[0]
    assert "decoding" not in result.signature
    off = evaluate(make_inputs(), dataclasses.replace(SETTINGS, generation=False))
    assert off.generation is None


def test_no_gold_and_no_rows_give_nulls_not_zeros() -> None:
    blind = [dataclasses.replace(item, gold_passages=()) for item in make_examples(4)]
    for examples in (blind, []):
        result = evaluate(make_inputs(examples=examples), SETTINGS).to_json()
        prior = result["retrieval"]["prior"]
        assert prior["R@1"] is None
        assert prior["MRR@10"] is None
        assert prior["intervals"]["R@1"] is None
        assert prior["n"] == 0
        json.dumps(result, allow_nan=False)
    assert result["generation"]["EM"] is None


def test_max_examples_limits_generation_only() -> None:
    stages: list[tuple[str, int, int]] = []
    settings = dataclasses.replace(SETTINGS, max_examples=7)
    result = evaluate(make_inputs(), settings, lambda *told: stages.append(told))
    assert result.generation is not None
    assert result.generation["n"] == 7
    assert result.retrieval["prior"]["n"] == 9  # type: ignore[index]
    assert result.predictions[6]["prediction"] is not None
    assert result.predictions[7]["prediction"] is None
    assert stages == [
        ("search prior", 5, 12),
        ("search prior", 10, 12),
        ("search prior", 12, 12),
        ("search posterior", 5, 12),
        ("search posterior", 10, 12),
        ("search posterior", 12, 12),
        ("generate", 5, 7),
        ("generate", 7, 7),
    ]


def test_signature_names_what_the_numbers_depend_on() -> None:
    settings = dataclasses.replace(SETTINGS, decoding="rag-token", max_new_tokens=4)
    found = evaluate(make_inputs(), settings).signature.split("|")
    expected = [
        "rows:12",
        "gold:9",
        "hit:any-gold",
        "index:gen-3",
        "decoding:rag-token",
        "decoding-passages:2",
        "max-new-tokens:4",
        "norm:squad",
        f"jsarag:{__version__}",
        f"torch:{torch.__version__}",
    ]
    assert [part for part in expected if part not in found] == []
    assert any(part.startswith("bleu:0-100,nrefs:") for part in found)
    assert evaluate(make_inputs(), settings).signature.split("|") == found


def test_gold_outside_the_knowledge_base_is_a_counted_miss() -> None:
    examples = make_examples(4)
    examples[0] = dataclasses.replace(examples[0], gold_passages=("elsewhere",))
    result = evaluate(make_inputs(examples=examples), SETTINGS)
    assert result.predictions[0]["metrics"]["prior"]["R@10"] == 0.0
    assert any("does not hold" in note for note in result.notes)


def test_broken_encoders_and_settings_are_refused() -> None:
    def broken(examples: Sequence[Example]) -> Tensor:
        return perfect(examples) * torch.nan

    with pytest.raises(NumericalError, match="prior query embeddings"):
        evaluate(make_inputs(encode_contexts=broken), SETTINGS)
    with pytest.raises(ConfigError, match="beam"):
        evaluate(make_inputs(), dataclasses.replace(SETTINGS, decoding="beam"))
    with pytest.raises(ConfigError, match=r"eval\.batch_size"):
        evaluate(make_inputs(), dataclasses.replace(SETTINGS, batch_size=0))


def test_the_real_index_gives_the_same_rows() -> None:
    index = FlatIndex(torch.eye(PASSAGES, dtype=torch.float64), generation=3)
    examples = make_examples(ROWS)
    examples[2] = dataclasses.replace(examples[2], exclude_passages=("p3", "p4"))
    found = evaluate(make_inputs(examples=examples, prior_index=index), SETTINGS)
    expected = evaluate(make_inputs(examples=examples), SETTINGS)
    assert found.retrieval == expected.retrieval
    assert found.generation == expected.generation
    assert found.signature == expected.signature
    # Passages that tie at zero may come in any order; the three that score may not.
    tops = [[item["id"] for item in row["passages"][:3]] for row in found.predictions]
    assert tops[1] == ["p2", "p3", "p1"]
    assert tops[2][0] == "p2"


def test_no_gradient_is_kept() -> None:
    weight = torch.ones(PASSAGES, dtype=torch.float64, requires_grad=True)

    def live(examples: Sequence[Example]) -> Tensor:
        queries = perfect(examples) * weight
        assert not queries.requires_grad
        return queries

    evaluate(make_inputs(encode_contexts=live), SETTINGS)


def test_written_and_compared(tmp_path: Path) -> None:
    odd = "line\u2028separator \u0085 <script>"
    kb = Kb([dataclasses.replace(item, text=odd) for item in make_passages(PASSAGES)])
    before = evaluate(make_inputs(kb=kb), SETTINGS)
    after = evaluate(make_inputs(kb=kb, encode_contexts=perfect), SETTINGS)
    for name, evaluation in (("dev-before", before), ("dev", after)):
        write(evaluation, tmp_path / name)
        write(evaluation, tmp_path / name)  # replacing is fine
    stored = read_record(tmp_path / "dev" / "metrics.json", fix="evaluate again")
    assert stored == json.loads(json.dumps(after.to_json()))
    rows = read_predictions(tmp_path / "dev")
    assert rows == after.predictions
    found = compare_predictions(read_predictions(tmp_path / "dev-before"), rows, samples=300)
    assert found.rows == ROWS
    assert found.dropped == 0
    gain = found.prior["R@1"]
    assert gain is not None
    assert gain.value == 1.0
    assert gain.p_value < 0.1
    same = found.posterior["R@1"]
    assert same is not None
    assert same.value == 0.0
    assert same.p_value == 1.0
    difference = found.generation["BLEU-4"]
    assert difference is not None
    assert before.generation
    assert after.generation
    assert difference.value == pytest.approx(
        after.generation["BLEU-4"] - before.generation["BLEU-4"]
    )
    assert set(found.to_json()["retrieval"]["prior"]["MRR@10"]) == {
        "value",
        "low",
        "high",
        "p_value",
    }


def test_comparison_keeps_common_rows_only(tmp_path: Path) -> None:
    result: Evaluation = evaluate(make_inputs(), SETTINGS)
    found = compare_predictions(result.predictions[:6], result.predictions[4:], samples=100)
    assert (found.rows, found.dropped) == (2, 10)
    with pytest.raises(DataError, match=r"predictions\.jsonl"):
        read_predictions(tmp_path)
    (tmp_path / "predictions.jsonl").write_text('{"id": 1}\n{"id"')
    with pytest.raises(DataError, match=":2"):
        read_predictions(tmp_path)
