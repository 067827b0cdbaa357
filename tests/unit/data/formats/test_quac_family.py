"""DoQA, SQuAD and OR-QuAC, in files made up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jsarag.data.formats import doqa, orquac, squad
from jsarag.errors import DataError
from jsarag.types import Turn

from .conftest import lines


def qa(identity: str, question: str, *answers: str, **more: Any) -> dict[str, Any]:
    spans = [{"text": answer, "answer_start": 0} for answer in answers]
    return {"id": identity, "question": question, "answers": spans, **more}


def paragraph(context: str, *qas: dict[str, Any]) -> dict[str, Any]:
    return {"context": context, "qas": list(qas)}


def document(*articles: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {"data": [{"title": t, "background": "b", "paragraphs": p} for t, p in articles]}


def thread() -> dict[str, Any]:
    return document(
        (
            "Cold rice",
            [
                paragraph(
                    "Rinse it. Then fry it. CANNOTANSWER",
                    qa("C1_q#0", "How do I fry rice?", "Rinse it.", "Rinse", "Rinse it."),
                    qa("C1_q#1", "And brown rice?", "CANNOTANSWER"),
                    qa("C1_q#2", "Then?", "Then fry it."),
                )
            ],
        )
    )


def test_doqa(tmp_path: Path, put: Any) -> None:
    put("doqa_dataset/doqa-cooking-train-v2.1.json", thread())
    other = document(
        ("Fern", [paragraph("Water it. CANNOTANSWER", qa("T_q#0", "Why?", "Water it."))])
    )
    put("doqa_dataset/doqa-travel-test-v2.1.json", other)
    for folder in (tmp_path, tmp_path / "doqa_dataset"):
        data = doqa.read(folder, ("train", "test_travel"), {})
        first, second, third = data.splits["train"]
        assert first.answers == ("Rinse it.", "Rinse")
        assert first.history == (Turn("user", "How do I fry rice?"),)
        assert second.response == "CANNOTANSWER"
        assert third.history == (
            Turn("user", "How do I fry rice?"),
            Turn("system", "Rinse it."),
            Turn("user", "And brown rice?"),
            Turn("system", "CANNOTANSWER"),
            Turn("user", "Then?"),
        )
        assert {e.dialogue_id for e in data.splits["train"]} == {first.dialogue_id}
        assert [(p.title, p.text) for p in data.passages] == [
            ("Cold rice", "Rinse it. Then fry it."),
            ("Fern", "Water it."),
        ]
        assert first.gold_passages == second.gold_passages == (data.passages[0].id,)
        assert data.splits["test_travel"][0].gold_passages == (data.passages[1].id,)
        assert data.notes == ("doqa: rows whose response is CANNOTANSWER: 1",)


def test_doqa_turns_that_cannot_be_used(tmp_path: Path, put: Any) -> None:
    content = document(
        ("T", [paragraph("x", qa("1", "one"), qa("2", ""), qa("3", "three", "x"))]),
    )
    put("doqa-cooking-train-v2.1.json", content)
    data = doqa.read(tmp_path, ("train",), {})
    (row,) = data.splits["train"]
    assert row.history == (Turn("user", "one"), Turn("user", "three"))
    assert len(data.notes) == 2


def test_doqa_names_what_is_missing(tmp_path: Path, put: Any) -> None:
    put("doqa-cooking-train-v2.1.json", thread())
    with pytest.raises(DataError, match=r"expected doqa-cooking-dev-v2\.1\.json"):
        doqa.read(tmp_path, ("train", "dev"), {})
    put("doqa-cooking-dev-v2.1.json", {"data": [{"title": "T", "paragraphs": [{"qas": []}]}]})
    with pytest.raises(DataError, match=r"data\[0\]\.paragraphs\[0\]': expected the key 'context'"):
        doqa.read(tmp_path, ("train", "dev"), {})


def test_squad(tmp_path: Path, put: Any) -> None:
    put(
        "train-v2.0.json",
        document(
            (
                "New_York_City",
                [
                    paragraph(
                        "It is big.",
                        qa("1", "How is it?", "big", "big", "is big", is_impossible=False),
                        qa("2", "Why?", is_impossible=True, plausible_answers=[{"text": "big"}]),
                        qa("1", "Again?", "big"),
                    )
                ],
            )
        ),
    )
    put("dev-v1.1.json.gz", document(("Rome", [paragraph("It is old.", qa("3", "Age?", "old"))])))
    data = squad.read(tmp_path, ("train", "dev"), {})
    (row,) = data.splits["train"]
    assert (row.question, row.answers) == ("How is it?", ("big", "is big"))
    assert [(p.title, p.text) for p in data.passages] == [
        ("New York City", "It is big."),
        ("Rome", "It is old."),
    ]
    assert data.splits["dev"][0].gold_passages == (data.passages[1].id,)
    assert set(data.notes) == {
        "squad: questions without an answer, left out: 1",
        "squad: questions whose id was there before, left out: 1",
    }
    # The knowledge base does not depend on the splits asked for.
    assert squad.read(tmp_path, ("dev",), {}).passages == data.passages
    with pytest.raises(DataError, match=r"test-v\*\.json or test\.json"):
        squad.read(tmp_path, ("test",), {})


def orquac_row(identity: str, **changes: Any) -> dict[str, Any]:
    return {
        "qid": identity,
        "question": "And then?",
        "rewrite": "And then what did she do?",
        "history": [{"question": "Who?", "answer": {"text": "She.", "answer_start": 0}}],
        "answer": {"text": "She left.", "answer_start": 3},
        "evidences": ["Before she left.", "Elsewhere."],
        "retrieval_labels": [1, 0],
        "yesno": "x",
        "followup": "n",
        **changes,
    }


def test_orquac_with_evidences(tmp_path: Path, put: Any) -> None:
    rows = [
        orquac_row("C_1_q#1"),
        orquac_row("C_1_q#2", answer={"text": "CANNOTANSWER", "answer_start": -1}),
        orquac_row("C_1_q#3", answer={"text": "NOTRECOVERED", "answer_start": -1}),
        orquac_row("C_2_q#0", history=[], retrieval_labels=[0, 0]),
    ]
    put("preprocessed/train.txt", lines(*rows))
    data = orquac.read(tmp_path, ("train",), {})
    first, second, third = data.splits["train"]
    assert first.history == (
        Turn("user", "Who?"),
        Turn("system", "She."),
        Turn("user", "And then?"),
    )
    assert first.dialogue_id == second.dialogue_id == "C_1"
    assert third.gold_passages == ()
    assert [p.text for p in data.passages] == ["Before she left.", "Elsewhere."]
    assert first.gold_passages == (data.passages[0].id,)
    assert len(data.notes) == 2
    put("preprocessed/train.txt", lines(orquac_row("q", retrieval_labels=[1])))
    with pytest.raises(DataError, match=r":1: .*one label for each of 2 evidences"):
        orquac.read(tmp_path, ("train",), {})


def test_orquac_with_blocks(tmp_path: Path, put: Any) -> None:
    put("train.txt", lines(orquac_row("C_1_q#1"), orquac_row("C_1_q#2")))
    put(
        "all_blocks.txt.gz",
        lines({"id": "1@0", "text": "x", "title": "T"}, {"id": "1@1", "text": "y"}),
    )
    with pytest.raises(DataError, match=r"qrels\.txt"):
        orquac.read(tmp_path, ("train",), {})
    put("qrels.txt", {"C_1_q#1": {"1@1": 1, "1@0": 0, "9@9": 1}})
    data = orquac.read(tmp_path, ("train",), {})
    assert [p.id for p in data.passages] == ["1@0", "1@1"]
    assert [e.gold_passages for e in data.splits["train"]] == [("1@1",), ()]
    assert "judgements about passages all_blocks.txt lacks, left out: 1" in data.notes[0]
