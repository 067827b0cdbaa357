"""Wizard of Wikipedia: every oddity of the published files, in dialogues made up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jsarag.data.formats.base import FormatData
from jsarag.data.formats.wow import read
from jsarag.data.registry import load_dataset
from jsarag.errors import DataError
from jsarag.types import Turn

TEA = ["Tea is a drink.", "It is made of leaves."]
MATE = ["Mate is a drink, too.", "It is hot."]
CUP = ["A cup holds tea."]


def apprentice(text: str, *passages: dict[str, list[str]], number: int = 0) -> dict[str, Any]:
    return {
        "speaker": f"{number}_Apprentice",
        "text": text,
        "retrieved_passages": list(passages),
        "retrieved_topics": [title for passage in passages for title in passage],
    }


def wizard(
    text: str,
    sentence: dict[str, str] | None = None,
    passage: dict[str, str] | None = None,
    *passages: dict[str, list[str]],
    number: int = 1,
) -> dict[str, Any]:
    return {
        "speaker": f"{number}_Wizard",
        "text": text,
        "retrieved_passages": list(passages),
        "retrieved_topics": [],
        "checked_sentence": sentence or {},
        "checked_passage": passage or {},
        "candidate_responses": ["never read"],
    }


def episode(*turns: dict[str, Any], topic: str = "Tea", sentences: Any = TEA) -> dict[str, Any]:
    return {
        "chosen_topic": topic,
        "chosen_topic_passage": sentences,
        "persona": "i like tea",
        "wizard_eval": 5,
        "dialog": list(turns),
    }


def load(folder: Path, *splits: str) -> FormatData:
    return read(folder, splits or ("train",), {})


def text_of(data: FormatData, identity: str) -> tuple[str, str]:
    return next((p.title, p.text) for p in data.passages if p.id == identity)


def gold(data: FormatData, split: str = "train") -> list[tuple[str, str] | None]:
    return [
        text_of(data, example.gold_passages[0]) if example.gold_passages else None
        for example in data.splits[split]
    ]


def test_a_dialogue(tmp_path: Path, put: Any) -> None:
    put(
        "train.json",
        [
            episode(
                apprentice("I like tea."),
                wizard("It is a drink.", {"chosen_Tea_0": TEA[0]}, {"chosen_topic_0_Tea": "Tea"}),
                apprentice("And mate?", {"Mate (drink)": MATE}),
                wizard(
                    "It is hot.", {"partner_Mate_(drink)_1": MATE[1]}, {"p_0_M": "Mate (drink)"}
                ),
            )
        ],
    )
    data = load(tmp_path)
    first, second = data.splits["train"]
    assert first.history == (Turn("apprentice", "I like tea."),)
    assert first.answers == ("It is a drink.",)
    assert second.history == (
        Turn("apprentice", "I like tea."),
        Turn("wizard", "It is a drink."),
        Turn("apprentice", "And mate?"),
    )
    assert first.dialogue_id == second.dialogue_id != ""
    assert first.id != second.id
    assert gold(data) == [("Tea", " ".join(TEA)), ("Mate (drink)", " ".join(MATE))]
    assert len(data.passages) == 2
    assert data.notes == ()


def test_knowledge_comes_from_the_topic_and_the_two_turns_before(tmp_path: Path, put: Any) -> None:
    # The wizard's own passages at turn i are what the *next* wizard turn can have read.
    put(
        "train.json",
        [
            episode(
                apprentice("one"),
                wizard("two", None, None, {"Cup": CUP}),
                apprentice("three", {"Mate": MATE}),
                wizard("four", {"self_Cup_0": CUP[0]}, {"self_0_Cup": "Cup"}),  # i-2
                apprentice("five"),
                wizard("six", {"self_Cup_0": CUP[0]}, {"self_0_Cup": "Cup"}),  # i-4: no more
            )
        ],
    )
    data = load(tmp_path)
    assert gold(data) == [None, ("Cup", CUP[0]), None]
    assert any("in none of the passages shown (no gold passage): 1" in note for note in data.notes)
    assert any("used no knowledge (no gold passage): 1" in note for note in data.notes)


def test_the_first_passage_of_a_title_wins(tmp_path: Path, put: Any) -> None:
    other = ["Tea is a drink.", "Another cut of the page."]
    put(
        "train.json",
        [
            episode(
                apprentice("one", {"Tea": other}),
                wizard("two", {"chosen_Tea_0": TEA[0]}, {"x": "Tea"}),
            ),
            episode(
                apprentice("one", {"Tea": other}),
                wizard("two", {"chosen_Tea_1": other[1]}, {"x": "Tea"}),
            ),
        ],
    )
    data = load(tmp_path)
    assert gold(data) == [("Tea", " ".join(TEA)), None]
    # Both cuts of the page are passages: some other dialogue could show either.
    assert {passage.text for passage in data.passages} == {" ".join(TEA), " ".join(other)}


@pytest.mark.parametrize(
    ("sentence", "passage", "expected"),
    [
        ({"self_Mate_0": MATE[0]}, {"self_0_Mate": "Mate"}, "Mate"),
        # The title named does not hold the sentence: cut it out of the sentence's key.
        ({"self_Mate_0": MATE[0]}, {"self_0_Tea": "Tea"}, "Mate"),
        ({"self_Mate_0": MATE[0]}, {}, "Mate"),
        # Neither helps: search.
        ({"self_Somewhere_0": MATE[0]}, {"self_0_Elsewhere": "Elsewhere"}, "Mate"),
        ({"odd": MATE[0]}, {}, "Mate"),
        # Underscores for blanks, digits and brackets in titles.
        ({"partner_Apollo_11_(film)_0": "It flew."}, {}, "Apollo 11 (film)"),
        ({"self_0": "It flew."}, {"p": "Apollo_11_(film)"}, "Apollo 11 (film)"),
        # No knowledge, in all its spellings.
        ({"no_passages_used": "no_passages_used"}, {"no_passages_used": "no_passages_used"}, None),
        ({"self_x": "no_passages_used"}, {}, None),
        ({}, {}, None),
        (None, None, None),
        ({"self_Tea_0": ""}, {}, None),
        ({"self_Tea_0": "Nobody wrote this."}, {"x": "Tea"}, None),
    ],
)
def test_which_passage_is_gold(
    tmp_path: Path, put: Any, sentence: Any, passage: Any, expected: str | None
) -> None:
    before = apprentice("a", {"Mate": MATE}, {"Apollo 11 (film)": ["It flew."]})
    turn = wizard("w", sentence, passage)
    turn["checked_sentence"], turn["checked_passage"] = sentence, passage
    put("train.json", [episode(before, turn)])
    (found,) = gold(load(tmp_path))
    assert (found[0] if found else None) == expected


def test_wizard_first_episodes(tmp_path: Path, put: Any) -> None:
    put(
        "train.json",
        [
            episode(
                wizard("Do you like tea?", {"chosen_Tea_0": TEA[0]}, {"c": "Tea"}, number=0),
                apprentice("Yes.", number=1),
                wizard("Good.", {"chosen_Tea_1": TEA[1]}, {"c": "Tea"}, number=0),
            )
        ],
    )
    data = load(tmp_path)
    (row,) = data.splits["train"]
    assert row.history == (Turn("wizard", "Do you like tea?"), Turn("apprentice", "Yes."))
    assert gold(data) == [("Tea", " ".join(TEA))]
    assert any("wizard turns that open a dialogue, left out" in note for note in data.notes)


def test_seen_and_unseen_splits(tmp_path: Path, put: Any) -> None:
    def one(topic: str) -> list[dict[str, Any]]:
        return [episode(apprentice("a"), wizard(topic), topic=topic, sentences=[f"{topic}."])]

    names = {
        "train.json": "Train",
        "valid_random_split.json": "Seen",
        "valid_topic_split.json": "Unseen",
        "test_random_split.json": "Seen2",
        "test_topic_split.json": "Unseen2",
    }
    for name, topic in names.items():
        put(name, one(topic))
    data = load(tmp_path, "train", "dev", "test", "dev_seen", "dev_unseen", "test_unseen")
    said = {split: [e.response for e in rows] for split, rows in data.splits.items()}
    assert said == {
        "train": ["Train"],
        "dev": ["Seen", "Unseen"],
        "test": ["Seen2", "Unseen2"],
        "dev_seen": ["Seen"],
        "dev_unseen": ["Unseen"],
        "test_unseen": ["Unseen2"],
    }
    # One knowledge base for all splits, whichever are asked for.
    assert [p.title for p in data.passages] == list(names.values())
    assert load(tmp_path, "dev_seen").passages == data.passages
    ids = [
        e.id
        for rows in (data.splits["train"], data.splits["dev"], data.splits["test"])
        for e in rows
    ]
    assert len(set(ids)) == 5


def test_missing_topic_splits_are_said(tmp_path: Path, put: Any) -> None:
    put("train.json", [episode(apprentice("a"), wizard("b"))])
    put("valid_random_split.json", [episode(apprentice("c"), wizard("d"))])
    data = load(tmp_path, "train", "dev")
    assert [e.response for e in data.splits["dev"]] == ["d"]
    assert any("'dev' is without 'dev_unseen', valid_topic_split.json" in n for n in data.notes)
    with pytest.raises(DataError, match=r"valid_topic_split\.json"):
        load(tmp_path, "dev_unseen")
    with pytest.raises(DataError, match=r"test_random_split\.json or test_topic_split\.json"):
        load(tmp_path, "test")


def test_passages_are_the_distinct_pairs_and_keep_their_ids(tmp_path: Path, put: Any) -> None:
    put("train.json.gz", [episode(apprentice("a", {"Mate": MATE}, {"Empty": []}), wizard("b"))] * 2)
    first = load(tmp_path)
    assert [(p.title, p.text) for p in first.passages] == [
        ("Tea", " ".join(TEA)),
        ("Mate", " ".join(MATE)),
    ]
    assert any("passages without a text, left out: 2" in note for note in first.notes)
    put("valid_random_split.json", [episode(apprentice("a", {"Cup": CUP}), wizard("b"))])
    more = load(tmp_path)
    assert {p.id for p in first.passages} < {p.id for p in more.passages}


def test_turns_without_a_text(tmp_path: Path, put: Any) -> None:
    put("train.json", [episode(apprentice(" "), apprentice("a"), wizard(""), wizard("b"))])
    data = load(tmp_path)
    (row,) = data.splits["train"]
    assert row.history == (Turn("apprentice", "a"),)
    assert any("wizard turns without a text, left out: 1" in note for note in data.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", "expected JSON"),
        ({"a": 1}, "expected a list"),
        ([{"dialog": 1, "chosen_topic": "x"}], "field '[0].dialog': expected a list"),
        ([{}], "field '[0]': expected the key 'dialog'"),
        ([episode({"speaker": "x", "text": "y"})], "[0].dialog[0].speaker': expected a name"),
        ([episode({"speaker": "0_Wizard"})], "expected the key 'text'"),
        ([episode({"speaker": "0_Wizard", "text": 5})], "[0].dialog[0].text': expected text"),
        ([episode(apprentice("a", {"T": "s"}))], "retrieved_passages[0].T': expected a list"),  # type: ignore[dict-item]
    ],
)
def test_what_is_not_as_published_is_named(
    tmp_path: Path, put: Any, content: Any, words: str
) -> None:
    path = put("train.json", content)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_what_is_refused(tmp_path: Path, put: Any) -> None:
    with pytest.raises(DataError, match=r"expected train\.json \(or \.gz\), found nothing"):
        load(tmp_path)
    with pytest.raises(DataError, match="expected splits among train, dev"):
        load(tmp_path, "valid")
    with pytest.raises(DataError, match="fixed fields"):
        read(tmp_path, ("train",), {"answers": "text"})


def test_through_the_registry(tmp_path: Path, put: Any) -> None:
    rows = [episode(apprentice("a"), wizard("b", {"chosen_Tea_0": TEA[0]}, {"c": "Tea"}))]
    put("wow/train.json", rows)
    put("wow/valid_random_split.json", rows)
    for folder in (tmp_path, tmp_path / "wow"):
        data = load_dataset("wow", data_dir=folder)
        assert data.name == "wow"
        example = data.splits["dev"][0]
        assert data.kb[data.kb.row_of(example.gold_passages[0])].title == "Tea"
    assert load_dataset(str(tmp_path / "wow")).digest == data.digest
