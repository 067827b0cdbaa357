"""Wizard of Wikipedia as ParlAI ships it: dialogues of an apprentice and a wizard who reads.

A row is a wizard turn; its context is everything said before. The knowledge base holds the distinct
(title, passage) pairs of all files in the folder; gold is the passage with the sentence the wizard
ticked, empty if there was none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jsarag.data.formats.base import (
    Counts,
    FileNeed,
    Format,
    FormatData,
    Node,
    PassagePool,
    find,
    json_document,
    need,
    require_no_map,
    wanted,
)
from jsarag.types import Example, Turn

_NONE = "no_passages_used"
_PARTS = {
    "train": "train.json",
    "dev_seen": "valid_random_split.json",
    "dev_unseen": "valid_topic_split.json",
    "test_seen": "test_random_split.json",
    "test_unseen": "test_topic_split.json",
}
_SPLITS = {
    "train": ("train",),
    "dev": ("dev_seen", "dev_unseen"),
    "test": ("test_seen", "test_unseen"),
    **{name: (name,) for name in _PARTS if name != "train"},
}

Knowledge = dict[str, list[str]]
"""Title -> sentences that a wizard could read at one turn."""


def read(folder: Path, splits: Sequence[str], field_map: Mapping[str, str]) -> FormatData:
    """Read the official files.

    ``dev`` and ``test`` hold both topic settings; ``dev_seen`` and ``dev_unseen`` (and the same of
    ``test``) hold one: the random split's topics occur in training, the topic split's do not.

    Args:
        folder: where the files lie.
        splits: which splits to return; the knowledge base is always that of all files present.
        field_map: must be empty.

    Raises:
        DataError: a file is missing or not as published.
    """
    require_no_map("wow", field_map)
    wanted(splits, tuple(_SPLITS), "wow")
    paths = _paths(folder, splits)
    pool, counts = PassagePool("wow"), Counts()
    rows = {part: _read_part(part, path, pool, counts) for part, path in paths.items()}
    chosen = {}
    for split in splits:
        parts = [part for part in _SPLITS[split] if part in rows]
        for missing in [part for part in _SPLITS[split] if part not in rows]:
            counts.add(f"'{split}' is without '{missing}', {_PARTS[missing]} is not there")
        chosen[split] = [example for part in parts for example in rows[part]]
    return FormatData(pool.passages, chosen, counts.notes("wow"))


def _paths(folder: Path, splits: Sequence[str]) -> dict[str, Path]:
    present = {part: find(folder, name) for part, name in _PARTS.items()}
    paths = {part: path for part, path in present.items() if path is not None}
    for split in splits:
        if not any(part in paths for part in _SPLITS[split]):
            need(folder, *(_PARTS[part] for part in _SPLITS[split]))
    return paths


def _read_part(part: str, path: Path, pool: PassagePool, counts: Counts) -> list[Example]:
    rows: list[Example] = []
    for number, episode in enumerate(json_document(path).items()):
        rows += _read_episode(f"wow-{part}-{number:05d}", episode, pool, counts)
    return rows


def _read_episode(
    identity: str, episode: Node, pool: PassagePool, counts: Counts
) -> Iterator[Example]:
    topic = _topic(episode, counts)
    turns = list(episode["dialog"].items())
    spoken = [Turn(_role(turn), turn["text"].text()) for turn in turns]
    offered = [_retrieved(turn, counts) for turn in turns]
    for knowledge in (topic, *offered):
        for title, sentences in knowledge.items():
            pool.add(title, " ".join(sentences))
    for place, turn in enumerate(turns):
        if spoken[place].speaker != "wizard":
            continue
        history = tuple(said for said in spoken[:place] if said.text.strip())
        if not history:
            counts.add("wizard turns that open a dialogue, left out (nothing to answer yet)")
            continue
        if not spoken[place].text.strip():
            counts.add("wizard turns without a text, left out")
            continue
        # What lay before the wizard: the topic, what the apprentice's last turn retrieved, and
        # what the wizard's own last turn did; the first passage of a title wins.
        knowledge = dict(topic)
        for before in range(place - 1, max(place - 3, -1), -1):
            _add(knowledge, offered[before])
        yield Example(
            id=f"{identity}-{place:02d}",
            answers=(spoken[place].text,),
            history=history,
            gold_passages=_gold(turn, knowledge, pool, counts),
            dialogue_id=identity,
        )


def _role(turn: Node) -> str:
    # "0_Wizard", "1_Apprentice": the number says who of the two opened the dialogue.
    speaker = turn["speaker"].text()
    roles = [role for role in ("wizard", "apprentice") if role in speaker.lower()]
    if len(roles) != 1:
        raise turn["speaker"].error(
            f"expected a name with Wizard or Apprentice in it, found '{speaker}'; is this the "
            "official file?"
        )
    return roles[0]


def _topic(episode: Node, counts: Counts) -> Knowledge:
    sentences = episode.get("chosen_topic_passage")
    if sentences is None:
        counts.add("dialogues without a passage about their topic")
        return {}
    return _passage(episode["chosen_topic"].text(), sentences, counts)


def _retrieved(turn: Node, counts: Counts) -> Knowledge:
    passages = turn.get("retrieved_passages")
    found: Knowledge = {}
    if passages is None:
        return found
    for entry in passages.items():
        for title, sentences in entry.pairs():
            _add(found, _passage(title, sentences, counts))
    return found


def _add(knowledge: Knowledge, more: Knowledge) -> None:
    for title, sentences in more.items():
        knowledge.setdefault(title, sentences)


def _passage(title: str, sentences: Node, counts: Counts) -> Knowledge:
    texts = [sentence.text() for sentence in sentences.items()]
    if not any(text.strip() for text in texts):
        counts.add("passages without a text, left out")
        return {}
    return {title: texts}


def _gold(turn: Node, knowledge: Knowledge, pool: PassagePool, counts: Counts) -> tuple[str, ...]:
    """The passage of the ticked sentence: by the ticked title, by the sentence's key, by search."""
    key, sentence = _ticked(turn, "checked_sentence")
    if not sentence or sentence == _NONE or key == _NONE:
        counts.add("wizard turns that used no knowledge (no gold passage)")
        return ()
    _, named = _ticked(turn, "checked_passage")
    title = _title_with(sentence, named, knowledge)
    if title is None:
        title = _title_with(sentence, _title_in_key(key), knowledge)
    if title is None:
        title = next((name for name in knowledge if sentence in knowledge[name]), None)
    if title is None:
        counts.add("wizard turns whose sentence is in none of the passages shown (no gold passage)")
        return ()
    return (pool.add(title, " ".join(knowledge[title])),)


def _ticked(turn: Node, field: str) -> tuple[str, str]:
    """The one entry of ``checked_sentence`` or ``checked_passage``; ("", "") where it is empty."""
    ticked = turn.get(field)
    if ticked is None:
        return "", ""
    for key, value in ticked.pairs():
        return key, value.text()
    return "", ""


def _title_in_key(key: str) -> str:
    """``self_Science_fiction_film_1`` -> ``Science fiction film``."""
    match = re.fullmatch(r"(?:chosen|partner|self)_(.+?)(?:_\d+)?", key, flags=re.DOTALL)
    return "" if match is None else match.group(1)


def _title_with(sentence: str, title: str, knowledge: Knowledge) -> str | None:
    """The known title that equals ``title`` up to underscores and holds the sentence."""
    wanted_title = title.replace("_", " ").strip()
    for name, sentences in knowledge.items():
        if name.replace("_", " ").strip() == wanted_title and sentence in sentences:
            return name
    return None


FORMAT = Format(
    name="wow",
    title="Wizard of Wikipedia",
    source="Published by ParlAI as wizard_of_wikipedia.tgz under CC BY 4.0; unpack it there.",
    files=(
        FileNeed("train.json", "training dialogues"),
        FileNeed("valid_random_split.json", "dev, topics seen in training"),
        FileNeed("valid_topic_split.json", "dev, unseen topics", optional=True),
        FileNeed("test_random_split.json", "test, topics seen in training", optional=True),
        FileNeed("test_topic_split.json", "test, unseen topics", optional=True),
    ),
    splits=tuple(_SPLITS),
    read=read,
    marks=("train.json*", "valid_random_split.json*"),
)
