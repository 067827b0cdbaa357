"""Rows become examples, and a faulty row says what to do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.examples import read_examples
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.rows import ReadStats
from jsarag.errors import DataError
from jsarag.types import Example, Passage, Turn

KB = KnowledgeBase([Passage("a", "x"), Passage("b", "y"), Passage("7", "z")], source="kb.jsonl")


def test_a_question(jsonl: Any) -> None:
    row = {"id": "q", "question": "why", "answers": ["so", "thus", "so"], "gold_passages": ["a", 7]}
    stats = ReadStats()
    found = read_examples(jsonl("train.jsonl", [row]), kb=KB, stats=stats)
    assert found == [
        Example("q", ("so", "thus"), question="why", gold_passages=("a", "7"), dialogue_id="q")
    ]
    assert stats.repeated_answers == 1


def test_a_dialogue(jsonl: Any) -> None:
    turns = [
        {"speaker": "user", "text": "hi"},
        {"speaker": "system", "text": "yes?"},
        {"speaker": "user", "text": "where?"},
    ]
    row = {"id": "h", "history": turns, "response": "there", "exclude_passages": ["b"]}
    (found,) = read_examples(jsonl("train.jsonl", [row]), kb=KB)
    assert found.history == (Turn("user", "hi"), Turn("system", "yes?"), Turn("user", "where?"))
    assert found.question is None
    assert found.response == "there"
    assert found.exclude_passages == ("b",)


def test_the_response_comes_before_further_answers(jsonl: Any) -> None:
    row = {"id": "q", "question": "why", "answers": ["so", "thus"], "response": "thus"}
    assert read_examples(jsonl("train.jsonl", [row]))[0].answers == ("thus", "so")


def test_a_single_answer_may_be_a_text(jsonl: Any) -> None:
    row = {"id": "q", "question": "why", "Answer": "so"}
    found = read_examples(jsonl("train.jsonl", [row]), field_map={"answers": "Answer"})
    assert found[0].answers == ("so",)


def test_dialogue_ids(jsonl: Any) -> None:
    def turns(*texts: str) -> list[dict[str, str]]:
        speakers = ["user", "system"] * len(texts)
        names = speakers[: len(texts)] if len(texts) % 2 else speakers[1 : len(texts) + 1]
        return [{"speaker": s, "text": t} for s, t in zip(names, texts, strict=True)]

    rows = [
        {"id": "1", "history": turns("hi"), "response": "r"},
        {"id": "2", "history": turns("hi", "yes?", "where"), "response": "r"},
        {"id": "3", "history": turns("welcome", "hi"), "response": "r"},  # the system opens
        {"id": "4", "history": turns("hello", "yes?", "hi"), "response": "r"},
        {"id": "5", "history": turns("hi"), "response": "r", "dialogue_id": "own"},
        {"id": "6", "history": turns("hi"), "response": "r", "dialogue_id": 6},
        {"id": "7", "question": "hi", "response": "r"},
    ]
    ids = [example.dialogue_id for example in read_examples(jsonl("train.jsonl", rows))]
    assert ids[0] == ids[1] == ids[2]
    assert ids[3] != ids[0]
    assert ids[4:] == ["own", "6", "7"]


def test_what_is_passed_over_is_counted(jsonl: Any) -> None:
    turns = [
        {"speaker": "u", "text": "hi", "act": "x"},
        {"speaker": "s", "text": " "},
        {"speaker": "u", "text": "so?"},
    ]
    rows = [
        {"id": "1", "history": turns, "response": "r", "domain": "d"},
        "",
        {"id": "2", "question": "q", "response": "r", "domain": "d", "turn": 1},
    ]
    stats = ReadStats()
    first, _ = read_examples(jsonl("train.jsonl", rows), stats=stats)
    assert [turn.text for turn in first.history] == ["hi", "so?"]
    assert stats.rows == 2
    assert (
        stats.notes("train.jsonl")
        == (
            "train.jsonl: ignored keys domain (2), history.act (1), turn (1)",
            "train.jsonl: 1 empty turns dropped from histories",
            "train.jsonl: 1 blank lines skipped",
        )
        or "history.act (1)" in stats.notes("train.jsonl")[0]
    )


def test_packed_with_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = '\ufeff{"id": "1", "question": "q", "answers": ["r"]}\r\n\r\n'
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_examples(path)[0].id == "1"


GOOD = {"id": "1", "question": "q", "answers": ["r"]}


def turn(**changes: Any) -> list[Any]:
    return [{"speaker": "u", "text": "t", **changes}]


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ({"id": "", "question": "q", "answers": ["r"]}, "id", "empty"),
        ({"id": "x", "answers": ["r"]}, "question", "either 'question' or 'history', found none"),
        ({"id": "x", "question": "q", "history": turn(), "answers": ["r"]}, "question", "both"),
        ({"id": "x", "question": "", "answers": ["r"]}, "question", "empty"),
        ({"id": "x", "question": 3, "answers": ["r"]}, "question", "expected text"),
        ({"id": "x", "question": "q"}, "answers", "so is 'response'"),
        ({"id": "x", "question": "q", "answers": []}, "answers", "at least one answer"),
        ({"id": "x", "question": "q", "answers": ["r", ""]}, "answers[1]", "empty"),
        ({"id": "x", "question": "q", "answers": [3]}, "answers[0]", "put it in quotes"),
        ({"id": "x", "question": "q", "answers": {"a": 1}}, "answers", "expected a list"),
        ({"id": "x", "question": "q", "response": ["r"]}, "response", "expected text"),
        ({"id": "x", "history": [], "answers": ["r"]}, "history", "at least one turn"),
        ({"id": "x", "history": "hi", "answers": ["r"]}, "history", "expected a list"),
        ({"id": "x", "history": ["hi"], "answers": ["r"]}, "history[0]", "expected a turn"),
        ({"id": "x", "history": [{"text": "t"}], "answers": ["r"]}, "history[0].speaker", "add it"),
        ({"id": "x", "history": turn(text=1), "answers": ["r"]}, "history[0].text", "quotes"),
        ({"id": "x", "history": turn(text=" "), "answers": ["r"]}, "history[0].text", "last turn"),
        ({**GOOD, "id": "x", "gold_passages": "a"}, "gold_passages", "write [...]"),
        ({**GOOD, "id": "x", "gold_passages": ["a", "zz"]}, "gold_passages[1]", "no passage of kb"),
        ({**GOOD, "id": "x", "exclude_passages": ["q"]}, "exclude_passages[0]", "no passage"),
        (
            {**GOOD, "id": "x", "gold_passages": ["a"], "exclude_passages": ["a"]},
            "exclude_passages",
            "could never be found",
        ),
        (GOOD, "id", "also the id of line 1"),
    ],
)
def test_a_faulty_row_is_named(jsonl: Any, row: Any, field: str, words: str) -> None:
    path = jsonl("train.jsonl", [GOOD, row])
    with pytest.raises(DataError) as caught:
        read_examples(path, kb=KB)
    error = caught.value
    assert (error.path, error.line, error.field) == (path, 2, field)
    assert words in str(error)
    assert error.exit_code == 3


def test_a_renamed_field_is_named_as_the_file_has_it(jsonl: Any) -> None:
    path = jsonl("train.jsonl", [{"qid": "1", "question": "q", "Answer": [1]}])
    with pytest.raises(DataError) as caught:
        read_examples(path, field_map={"id": "qid", "answers": "Answer"})
    assert caught.value.field == "Answer[0]"
    with pytest.raises(DataError, match="correct the renaming id=uid"):
        read_examples(path, field_map={"id": "uid", "answers": "Answer"})


def test_a_renaming_of_nothing_we_have_is_refused(jsonl: Any) -> None:
    path = jsonl("train.jsonl", [GOOD])
    for name in ("anser", "kb.question"):
        with pytest.raises(DataError, match=f"got '{name}=x'"):
            read_examples(path, field_map={name: "x"})


def test_gold_is_not_looked_up_without_passages(jsonl: Any) -> None:
    path = jsonl("train.jsonl", [{**GOOD, "gold_passages": ["zz"]}])
    assert read_examples(path)[0].gold_passages == ("zz",)


def test_problems_can_be_collected(jsonl: Any) -> None:
    rows = ["{", GOOD, {"id": "2"}, {**GOOD, "id": "3"}, GOOD]
    problems: list[DataError] = []
    found = read_examples(jsonl("train.jsonl", rows), on_problem=problems.append)
    assert [example.id for example in found] == ["1", "3"]
    assert [problem.line for problem in problems] == [1, 3, 5]


def test_rows_without_an_id_get_one_that_stays(jsonl: Any) -> None:
    bare = {"question": "q", "answers": ["r"]}
    stats = ReadStats()
    first = read_examples(jsonl("a.jsonl", [bare, GOOD, bare]), stats=stats)
    assert first[0].id.startswith("q-")
    assert [example.id for example in first] == [first[0].id, "1", f"{first[0].id}-2"]
    assert stats.notes("a.jsonl") == (
        "a.jsonl: 2 rows without an id got one made of their content",
    )
    other = {"question": "q", "answers": ["s"]}
    second = read_examples(jsonl("b.jsonl", [other, bare]))
    assert second[1].id == first[0].id
    assert second[0].id != first[0].id
