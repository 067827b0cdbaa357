"""Questions and dialogue contexts with their answers, read from JSON Lines or a table.

A row is ``{"id"?, "question" or "history": [{"speaker", "text"}], "answers": [...] or "response",
"gold_passages"?, "exclude_passages"?, "dialogue_id"?}``. How a context becomes text belongs to
``models/prompts``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.rows import (
    EXAMPLE_FIELDS,
    OnProblem,
    ReadStats,
    Row,
    map_for,
    raise_problem,
)
from jsarag.data.tables import read_any_rows
from jsarag.errors import DataError
from jsarag.types import Example, Turn

_NO_RENAMING: Mapping[str, str] = {}


def read_examples(
    path: Path | str,
    *,
    field_map: Mapping[str, str] = _NO_RENAMING,
    kb: KnowledgeBase | None = None,
    stats: ReadStats | None = None,
    on_problem: OnProblem = raise_problem,
) -> list[Example]:
    """The rows of a JSON Lines file or a table (or ``.gz``), in order.

    ``response`` is the text the likelihood is computed on; where both fields are given it comes
    before ``answers``, which are then further accepted answers. ``dialogue_id`` is the row's own if
    it has one; else a question stands alone (its id), and histories that start with the same first
    user turn are taken as cut from one dialogue (:func:`derived_dialogue_id`).

    Args:
        path: the file.
        field_map: our field -> the file's field.
        kb: where gold and excluded passages are looked up; None leaves them unchecked.
        stats: counts blank lines, ignored keys and dropped empty turns.
        on_problem: takes faulty rows, which are left out; the default raises at the first.

    Raises:
        DataError: names file, line, field and fix.
    """
    path = Path(path)
    stats = ReadStats() if stats is None else stats
    renamed = map_for("examples", field_map)
    rows = read_any_rows(
        path, EXAMPLE_FIELDS, field_map=renamed, stats=stats, on_problem=on_problem
    )
    examples: list[Example] = []
    lines: dict[str, int] = {}
    for row in rows:
        try:
            example = _example(row, kb, stats, lines)
            first = lines.setdefault(example.id, row.line)
            if first != row.line:
                raise row.error(
                    f"'{example.id}' is also the id of line {first}; make the ids distinct or "
                    "remove one of the rows",
                    "id",
                )
        except DataError as problem:
            on_problem(problem)
        else:
            examples.append(example)
    return examples


def derived_dialogue_id(history: Iterable[Turn]) -> str:
    """A dialogue id from a history: a digest of its first user turn.

    The user is whoever speaks last, since the last turn is the one to answer. Two dialogues that
    open with the same words get one id; as the id only groups rows for resampling, that makes
    intervals wider, never too narrow.
    """
    turns = tuple(history)
    user = turns[-1].speaker
    first = next(turn for turn in turns if turn.speaker == user)
    return hashlib.sha256(first.text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _example(
    row: Row, kb: KnowledgeBase | None, stats: ReadStats, used: Mapping[str, int]
) -> Example:
    own = row.own_id()
    question, history = _context(row, stats)
    answers = _answers(row, stats)
    content = (question or "", *(turn.text for turn in history), *answers)
    identity = row.made_id("q", content, used, stats) if own is None else own
    gold = _passages(row, "gold_passages", kb)
    exclude = _passages(row, "exclude_passages", kb)
    if both := set(gold) & set(exclude):
        raise row.error(
            f"'{min(both)}' is also among gold_passages, so it could never be found; remove it "
            "from one of the two",
            "exclude_passages",
        )
    dialogue = row.identity("dialogue_id") if row.has("dialogue_id") else ""
    if not dialogue:
        dialogue = derived_dialogue_id(history) if history else identity
    return Example(
        id=identity,
        answers=answers,
        question=question,
        history=history,
        gold_passages=gold,
        exclude_passages=exclude,
        dialogue_id=dialogue,
    )


def _context(row: Row, stats: ReadStats) -> tuple[str | None, tuple[Turn, ...]]:
    if row.has("question") == row.has("history"):
        found = "both" if row.has("question") else "none"
        raise row.error(
            f"expected either '{row.shown('question')}' or '{row.shown('history')}', found {found};"
            " give one of them (--map question=NAME renames a field)",
            "question",
        )
    if row.has("question"):
        return row.text("question"), ()
    items = row.items("history")
    if not items:
        raise row.error("expected at least one turn, found none; remove the row", "history")
    turns = [_turn(row, place, item, stats) for place, item in enumerate(items)]
    if not turns[-1].text.strip():
        raise row.error(
            "the last turn is the one to answer and it is empty; give it a text or remove the row",
            f"history[{len(turns) - 1}].text",
        )
    kept = tuple(turn for turn in turns if turn.text.strip())
    stats.empty_turns += len(turns) - len(kept)
    return None, kept


def _turn(row: Row, place: int, item: object, stats: ReadStats) -> Turn:
    name = f"history[{place}]"
    if not isinstance(item, dict):
        raise row.error('expected a turn {"speaker": ..., "text": ...}', name)
    for key in ("speaker", "text"):
        if key not in item:
            raise row.error(
                'missing; a turn is {"speaker": ..., "text": ...}, add it', f"{name}.{key}"
            )
        if not isinstance(item[key], str):
            raise row.error("expected text; put it in quotes", f"{name}.{key}")
    stats.ignored_keys.update(f"history.{key}" for key in item.keys() - {"speaker", "text"})
    text = item["text"]
    return Turn(item["speaker"], row.check_text(text, f"{name}.text") if text.strip() else "")


def _answers(row: Row, stats: ReadStats) -> tuple[str, ...]:
    if not (row.has("answers") or row.has("response")):
        raise row.error(
            f"missing, and so is '{row.shown('response')}'; add one of the two, or rename a field: "
            "--map answers=NAME",
            "answers",
        )
    found = [row.text("response")] if row.has("response") else []
    if row.has("answers"):
        value = row.get("answers")
        values = [value] if isinstance(value, str) else row.items("answers")
        if not values and not found:
            raise row.error("expected at least one answer, found none; remove the row", "answers")
        found += [row.check_text(item, f"answers[{place}]") for place, item in enumerate(values)]
    distinct = tuple(dict.fromkeys(found))
    stats.repeated_answers += len(found) - len(distinct)
    return distinct


def _passages(row: Row, name: str, kb: KnowledgeBase | None) -> tuple[str, ...]:
    found = row.identities(name)
    for place, identity in enumerate(found):
        if kb is not None and identity not in kb:
            raise row.error(
                f"'{identity}' is no passage of {kb.source}; correct the id, add the passage, or "
                "remove the id",
                f"{name}[{place}]",
            )
    return found
