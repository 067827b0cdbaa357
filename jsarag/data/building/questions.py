"""Rows of a table as questions with their answers: turns of one conversation, repeats, ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jsarag.data.building.columns import Columns, choose_columns
from jsarag.data.building.sheets import TableRow, read_table
from jsarag.data.building.texts import counted, squeezed
from jsarag.errors import DataError
from jsarag.types import Example, Turn

_USER, _SYSTEM = "user", "assistant"


@dataclass(frozen=True, slots=True)
class Question:
    """One example to be, with what its row says of where the answer stands.

    Attributes:
        example: without gold passages.
        sources: names of files or titles, for ``gold``.
        line: the row's.
        conversation: its conversation; "" where it stands alone.
    """

    example: Example
    sources: tuple[str, ...]
    line: int
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class Questions:
    """All of a file.

    Attributes:
        rows: in order.
        columns: what was read from which column.
        left_out: rows that were not used, each with the reason.
        notes: what was guessed or made.
    """

    rows: Sequence[Question]
    columns: Columns
    left_out: Sequence[DataError]
    notes: Sequence[str]


@dataclass(slots=True)
class _Draft:
    """A row while it is being read; ``history`` holds the turns before the question."""

    line: int
    question: str
    answers: tuple[str, ...]
    identity: str
    conversation: str
    sources: tuple[str, ...]
    history: tuple[Turn, ...] = field(default=())


def read_questions(path: Path, field_map: Mapping[str, str]) -> Questions:
    """Read a table of questions.

    Rows of one conversation become turns: the history of each is the questions and first answers
    before it. A question that is repeated outside a conversation adds its answers to the first.
    Ids are made of the content where there are none, or where they repeat.

    Args:
        path: CSV, TSV, XLSX, JSON Lines or a JSON list.
        field_map: role -> column, as for :func:`choose_columns`.

    Raises:
        DataError: the file cannot be read, has no column for questions or for answers, or no row
            that can be used.
        BackendUnavailableError: XLSX needs the extra ``documents``.
    """
    table = read_table(path)
    columns = choose_columns(table.columns, field_map, path)
    left_out = list(table.problems)
    drafts: list[_Draft] = []
    for row in table.rows:
        try:
            drafts.append(_draft(row, columns, path))
        except DataError as problem:
            left_out.append(problem)
    if not drafts:
        raise DataError(f"none of its rows can be used; the first: {left_out[0]}", path=path)
    notes = list(table.notes)
    _follow_conversations(drafts, notes, path)
    kept = _merged(drafts, notes, path)
    _identify(kept, columns, notes, path)
    return Questions([_question(draft) for draft in kept], columns, left_out, notes)


def _draft(row: TableRow, columns: Columns, path: Path) -> _Draft:
    def text(role: str) -> str:
        name = columns.first(role)
        value = row.cells.get(name) if name is not None else None
        if isinstance(value, (dict, list)):
            raise DataError("expected text", path=path, line=row.line, field=name)
        return "" if value is None else str(value).strip()

    history = _history(row, columns, path)
    question = text("question")
    if not question and history:
        *earlier, last = history
        history, question = tuple(earlier), last.text
    if not question:
        name = columns.first("question") or columns.first("history")
        raise DataError("empty; the row is left out", path=path, line=row.line, field=name)
    answers = tuple(dict.fromkeys(_values(row, columns.roles.get("answer", ()), answers=True)))
    if not answers:
        name = columns.first("answer")
        raise DataError("empty; the row is left out", path=path, line=row.line, field=name)
    return _Draft(
        line=row.line,
        question=question,
        answers=answers,
        identity=text("id"),
        conversation=text("conversation"),
        sources=tuple(dict.fromkeys(_values(row, columns.roles.get("source", ()), answers=False))),
        history=history,
    )


def _values(row: TableRow, names: Sequence[str], *, answers: bool) -> list[str]:
    """The texts of some cells; a cell may hold a JSON list, and one of sources several by ``;``."""
    found: list[str] = []
    for name in names:
        value = row.cells.get(name)
        if isinstance(value, str) and value.startswith("["):
            # A text may begin with a bracket and be no list.
            with suppress(json.JSONDecodeError, RecursionError):
                value = json.loads(value)
        # SQuAD's shape, which `datasets` keeps: {"text": [...], "answer_start": [...]}
        if isinstance(value, dict):
            value = value.get("text")
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, dict):
                item = item.get("text")
            if item is None or isinstance(item, (dict, list)):
                continue
            parts = [str(item)] if answers else re.split(r"[;|\n]", str(item))
            found += [part.strip() for part in parts if part.strip()]
    return found


def _history(row: TableRow, columns: Columns, path: Path) -> tuple[Turn, ...]:
    """Turns from a column: objects with a speaker (or role) and a text, or texts by turns."""
    name = columns.first("history")
    value: Any = row.cells.get(name) if name is not None else None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            value = [value]
    turns = []
    for place, item in enumerate(value or ()):
        if isinstance(item, str):
            user = (len(value) - place) % 2 == (0 if columns.first("question") else 1)
            item = {"speaker": _USER if user else _SYSTEM, "text": item}
        text = item.get("text", item.get("content")) if isinstance(item, dict) else None
        if not isinstance(text, str):
            raise DataError(
                'expected turns {"speaker": ..., "text": ...}; the row is left out',
                path=path,
                line=row.line,
                field=f"{name}[{place}]",
            )
        if text.strip():
            turns.append(Turn(str(item.get("speaker", item.get("role", ""))), text.strip()))
    return tuple(turns)


def _follow_conversations(drafts: Sequence[_Draft], notes: list[str], path: Path) -> None:
    """Give every row of a conversation the turns before it, in the order of the rows."""
    said: dict[str, list[Turn]] = {}
    followed = 0
    for draft in drafts:
        if not draft.conversation or draft.history:
            continue
        turns = said.setdefault(draft.conversation, [])
        draft.history = tuple(turns)
        followed += bool(turns)
        turns += [Turn(_USER, draft.question), Turn(_SYSTEM, draft.answers[0])]
    if followed:
        notes.append(
            f"{path.name}: {counted(followed, 'row')} later in a conversation: what was asked and "
            "answered before is the history (--map conversation= reads every row by itself)"
        )


def _merged(drafts: Sequence[_Draft], notes: list[str], path: Path) -> list[_Draft]:
    """One row a question; a repeated one adds its answers and sources to the first."""
    first: dict[tuple[str, tuple[Turn, ...], str], _Draft] = {}
    for draft in drafts:
        key = (squeezed(draft.question).casefold(), draft.history, draft.conversation)
        known = first.setdefault(key, draft)
        if known is not draft:
            known.answers = tuple(dict.fromkeys((*known.answers, *draft.answers)))
            known.sources = tuple(dict.fromkeys((*known.sources, *draft.sources)))
    repeated = len(drafts) - len(first)
    if repeated:
        notes.append(
            f"{path.name}: {counted(repeated, 'row')} with a question that was asked before: the "
            "answers were added to the first row that asks it"
        )
    return list(first.values())


def _identify(drafts: Sequence[_Draft], columns: Columns, notes: list[str], path: Path) -> None:
    """Distinct ids: the table's own where they are, else some made of the content."""
    lines: dict[str, int] = {}
    for draft in drafts:
        if draft.identity and lines.setdefault(draft.identity, draft.line) != draft.line:
            notes.append(
                f"{path.name}: column '{columns.first('id')}' holds '{draft.identity}' in lines "
                f"{lines[draft.identity]} and {draft.line}, so it was not used; ids were made"
            )
            for other in drafts:
                other.identity = ""
            break
    made = 0
    # Ids of the table come first: a made one gives way, whatever the order.
    used = {draft.identity for draft in drafts if draft.identity}
    for draft in drafts:
        if draft.identity:
            continue
        made += 1
        parts = (draft.conversation, *(turn.text for turn in draft.history), draft.question)
        sha = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
        draft.identity = wanted = f"q-{sha.hexdigest()[:12]}"
        count = 1
        while draft.identity in used:
            count += 1
            draft.identity = f"{wanted}-{count}"
        used.add(draft.identity)
    if made and made < len(drafts):
        notes.append(
            f"{path.name}: {counted(made, 'row')} without an id got one made of the content"
        )


def _question(draft: _Draft) -> Question:
    example = Example(
        id=draft.identity,
        answers=draft.answers,
        question=draft.question,
        dialogue_id=draft.conversation or draft.identity,
    )
    if draft.history:
        speaker = _speaker(draft.history)
        turns = (*draft.history, Turn(speaker, draft.question))
        example = replace(example, question=None, history=turns)
    return Question(example, draft.sources, draft.line, draft.conversation)


def _speaker(history: Sequence[Turn]) -> str:
    """Who asks after these turns: who spoke before the last of them, if that was another one."""
    earlier = [turn.speaker for turn in history[:-1] if turn.speaker != history[-1].speaker]
    return earlier[-1] if earlier else _USER
