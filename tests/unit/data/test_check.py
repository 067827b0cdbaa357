"""The report on a folder: all problems, the numbers, and the warnings worth having."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.check import Lengths, check_dataset


def test_a_good_folder(folder: Path) -> None:
    report = check_dataset(str(folder))
    assert report.ok
    assert report.kb is not None
    assert (report.kb.passages, report.kb.without_title, report.kb.repeated_texts) == (3, 0, 0)
    assert set(report.splits) == {"train", "dev"}
    train, dev = report.splits["train"], report.splits["dev"]
    assert (train.rows, dev.rows) == (3, 2)
    assert train.gold_missing_share == pytest.approx(2 / 3)
    assert train.gold_per_row == pytest.approx(1 / 3)
    assert dev.gold_missing_share == 0
    assert dev.gold_in_train_share == 0  # training has gold 'a' only
    assert dev.gold_answer_share == 1
    assert dev.contexts_in_train == 1  # "ears?"
    assert dev.context_words == Lengths(1, 5, 5)
    assert report.name == "set"


def test_lengths() -> None:
    assert Lengths.of([]) == Lengths(0, 0, 0)
    assert Lengths.of(["a b", "a", "a b c"]) == Lengths(2, 3, 3)
    assert Lengths.of(["w " * n for n in range(1, 101)]) == Lengths(50, 95, 100)


def test_every_problem_is_found_and_the_first_are_kept(folder: Path, jsonl: Any) -> None:
    jsonl("set/kb.jsonl", [{"id": "a", "text": "x"}, "{", {"id": "b", "text": ""}])
    faulty = [{"id": str(n), "question": "q", "answers": [""]} for n in range(30)]
    jsonl("set/train.jsonl", faulty)
    jsonl("set/dev.jsonl", [{"id": "1", "question": "q", "response": "r", "gold_passages": ["b"]}])
    report = check_dataset(str(folder), max_problems=5)
    assert not report.ok
    assert report.problem_count == 2 + 30 + 1
    assert [(Path(str(p.path)).name, p.line) for p in report.problems] == [
        ("kb.jsonl", 2),
        ("kb.jsonl", 3),
        ("train.jsonl", 1),
        ("train.jsonl", 2),
        ("train.jsonl", 3),
    ]
    assert report.splits["train"].rows == 0


def test_a_missing_training_file_is_a_problem(folder: Path) -> None:
    (folder / "train.jsonl").unlink()
    report = check_dataset(str(folder))
    assert [Path(str(problem.path)).name for problem in report.problems] == ["train.jsonl"]
    assert report.splits["dev"].rows == 2
    assert not check_dataset(str(folder), splits=("dev", "test")).ok  # test was asked for


def test_warnings(folder: Path, jsonl: Any) -> None:
    rows = [{"id": str(n), "question": "same", "answers": ["a"]} for n in range(3)]
    jsonl("set/kb.jsonl", [{"id": n, "text": "x"} for n in range(3)])
    jsonl("set/train.jsonl", rows)
    jsonl("set/dev.jsonl", rows[:1])
    jsonl("set/test.jsonl", [{"id": "1", "question": "q", "response": "r", "dialogue_id": "0"}])
    report = check_dataset(str(folder))
    assert report.ok
    text = "\n".join(report.warnings)
    assert "2 passages repeat another's title and text" in text
    assert "train: 2 rows repeat" in text
    assert (
        "dev: 1 rows have a context that is also in train (1 of them word for word, 1 with" in text
    )
    assert "dev: no row has gold passages" in text
    assert "test: 1 rows share a dialogue with train" in text
    assert report.kb is not None
    assert report.kb.repeated_texts == 2


def test_as_dict_is_plain_json(folder: Path, jsonl: Any) -> None:
    jsonl("set/dev.jsonl", ["{", {"id": "1", "question": "q", "answers": ["a"], "x": 1}])
    found = check_dataset(str(folder)).as_dict()
    again = json.loads(json.dumps(found))
    assert again == found
    assert set(found) == {
        "name",
        "ok",
        "kb",
        "splits",
        "problem_count",
        "problems",
        "warnings",
        "notes",
    }
    (problem,) = found["problems"]
    assert problem["line"] == 1
    assert problem["path"].endswith("dev.jsonl")
    assert found["notes"] == ["dev.jsonl: ignored keys x (1)"]
    assert found["splits"]["dev"]["context_words"] == {"median": 1, "p95": 1, "longest": 1}


def test_other_kinds_of_data_sets(tmp_path: Path, jsonl: Any) -> None:
    report = check_dataset("demo")
    assert report.ok
    assert report.splits["train"].rows == 700
    assert report.splits["dev"].gold_in_train_share == pytest.approx(0.2)
    assert report.splits["dev"].contexts_in_train == 0
    assert any("'test' was not checked" in note for note in report.notes)
    missing = check_dataset("wow", data_dir=tmp_path)
    assert not missing.ok
    assert "train.json" in str(missing.problems[0])
    assert missing.kb is None
    assert check_dataset("nonesuch").problem_count == 1


def test_renaming_reaches_both_files(folder: Path, jsonl: Any) -> None:
    jsonl("set/kb.jsonl", [{"pid": "a", "text": "x"}])
    jsonl("set/train.jsonl", [{"id": "1", "q": "why", "response": "r"}])
    report = check_dataset(
        str(folder), field_map={"kb.id": "pid", "question": "q"}, splits=("train",)
    )
    assert report.ok
    assert report.splits["train"].rows == 1


def test_leaks_are_found_by_content(folder: Path, jsonl: Any) -> None:
    def row(id: str, question: str, answer: str) -> dict[str, Any]:
        return {"id": id, "question": question, "answers": [answer], "gold_passages": ["a"]}

    jsonl(
        "set/train.jsonl", [row("1", "Where is the café?", "Up the hill."), row("2", "why", "so")]
    )
    jsonl(
        "set/dev.jsonl",
        [
            row("3", "where is the  cafe\u0301", "up the hill"),  # typed otherwise, same answer
            row("4", "WHY?", "because"),  # another answer
            row("5", "where is the inn?", "Up the hill."),  # the gold passage and answer alone
        ],
    )
    dev = check_dataset(str(folder)).splits["dev"]
    assert (dev.contexts_in_train, dev.asked_in_train, dev.answered_in_train) == (0, 2, 1)
    assert dev.gold_in_train_share == 1.0  # which is no leak: retrieval is for that


def test_forms_are_counted_and_what_they_do_is_said(folder: Path, jsonl: Any) -> None:
    passages = [
        {"id": "a", "text": "cafe\u0301"},
        {"id": "b", "text": "a\u00a0b"},
        {"id": "c", "text": "so\u00adft, zero\u200bwidth", "title": "plain"},
        {"id": "d", "text": "caf\u00e9"},
    ]
    jsonl("set/kb.jsonl", passages)
    jsonl("set/train.jsonl", [{"id": "1", "question": "q", "answers": ["x", "e\u0301"]}])
    report = check_dataset(str(folder), splits=("train",))
    assert report.kb is not None
    forms = report.kb.forms
    assert (forms.texts, forms.not_nfc, forms.odd_spaces, forms.invisible) == (4, 1, 1, 1)
    assert report.splits["train"].answer_forms.not_nfc == 1
    text = "\n".join(report.warnings)
    assert "1 of 4 passages are not in Unicode's form NFC" in text
    assert "train: 1 of 2 answers are not in Unicode's form NFC" in text
    assert "1 of 4 passages hold characters without width" in text
    assert "EM and F1 take them for spaces" in text


def test_what_is_said_of_the_scores_is_so() -> None:
    from jsarag.eval.generation import exact_match, token_f1

    for score in (exact_match, token_f1):
        assert score("cafe\u0301", ["caf\u00e9"]) == 0.0
        assert score("zero\u200bwidth", ["zerowidth"]) == 0.0
        assert score("a\u00a0house", ["a house"]) == 1.0


def test_near_duplicates_are_counted_and_shown(folder: Path, jsonl: Any) -> None:
    text = "the tower clock needs oil every spring and a new rope every second year or so"
    passages = [
        {"id": "a", "text": text},
        {"id": "b", "text": "rivers freeze in winter when the wind comes from the north"},
        {"id": "c", "text": text.replace("rope", "bell")},
        {"id": "d", "text": text},
    ]
    jsonl("set/kb.jsonl", passages)
    report = check_dataset(str(folder), splits=("train",))
    assert report.kb is not None
    assert (report.kb.repeated_texts, report.kb.near_duplicates) == (1, 1)
    (pair,) = report.kb.near_examples
    assert (pair.later, pair.earlier) == ("c", "a")
    assert pair.similarity == pytest.approx(13 / 17)
    assert any("R@1 looks worse" in warning for warning in report.warnings)
