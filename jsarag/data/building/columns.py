"""Which column of a table means what: guessed by name, corrected by ``--map``."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jsarag.errors import DataError

# Names by role, the likelier first, as `_plain` writes them. A number may follow: answer 2.
_NAMES: Mapping[str, Sequence[str]] = {
    "question": (
        *("question", "questions", "query", "user_question", "question_text", "prompt", "q"),
        *("frage", "fragen", "pregunta", "domanda", "pergunta", "vraag", "utterance", "input"),
    ),
    "answer": (
        *("answer", "answers", "response", "reply", "answer_text", "short_answers", "a"),
        *("antwort", "antworten", "respuesta", "reponse", "risposta", "resposta", "antwoord"),
        *("output", "target", "completion"),
    ),
    "id": ("id", "qid", "question_id", "query_id", "row_id", "uid", "nr", "no", "number", "nummer"),
    "conversation": (
        *("conversation", "conversation_id", "dialogue", "dialogue_id", "dialog", "dialog_id"),
        *("session", "session_id", "thread", "thread_id", "chat", "chat_id", "konversation"),
        *("gesprach", "ticket", "ticket_id"),
    ),
    "source": (
        *("source", "sources", "source_file", "file", "filename", "document", "doc", "page"),
        *("gold", "gold_source", "gold_passage", "section", "heading", "title", "url", "link"),
        *("quelle", "datei", "dokument", "seite", "abschnitt", "titel", "fichier", "archivo"),
    ),
    "history": ("history", "messages", "turns", "verlauf"),
}
_SEVERAL = ("answer", "source")
# What our rows' fields are called elsewhere; gold passages are ids of ours and never guessed.
_FIELD_NAMES: Mapping[str, Sequence[str]] = {
    "question": _NAMES["question"],
    "answers": _NAMES["answer"],
    "id": _NAMES["id"],
    "dialogue_id": _NAMES["conversation"],
}
_PASSAGE_NAMES: Mapping[str, Sequence[str]] = {
    "id": ("id", "pid", "passage_id", "docid", "doc_id", "document_id"),
    "text": ("text", "passage", "passage_text", "contents", "content", "body", "document", "chunk"),
    "title": ("title", "heading", "page_title", "document_title", "name"),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of each role, and those that have none.

    Attributes:
        roles: role -> columns; 'answer' and 'source' may have several.
        unused: columns that are not read.
    """

    roles: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]

    def first(self, role: str) -> str | None:
        """The role's column, None where it has none."""
        return next(iter(self.roles.get(role, ())), None)

    def lines(self) -> list[str]:
        """One line a role, for the user."""
        shown = [
            f"{role} from {' and '.join(repr(name) for name in names)}"
            for role, names in self.roles.items()
        ]
        if self.unused:
            shown.append(f"not read: {', '.join(repr(name) for name in self.unused)}")
        return shown


def choose_columns(names: Sequence[str], field_map: Mapping[str, str], path: Path) -> Columns:
    """Guess each role's column by its name.

    Args:
        names: the table's columns.
        field_map: role (or a name known for it) -> column, or columns separated by ``|``; comes
            before any guess. An empty column means that the role has none.
        path: for messages.

    Raises:
        DataError: the map names no role or no column, or question or answer have no column.
    """
    roles: dict[str, tuple[str, ...]] = {}
    for key, value in field_map.items():
        roles[_role(key, path)] = _named(value, names, key, path)
    taken = {name for found in roles.values() for name in found}
    for role in _NAMES:
        if role not in roles and (found := _guess(role, [n for n in names if n not in taken])):
            roles[role] = found
            taken |= set(found)
    roles = {role: roles[role] for role in _NAMES if roles.get(role)}
    missing = [role for role in ("question", "answer") if role not in roles]
    if "history" in roles and "question" in missing:
        missing.remove("question")
    if missing:
        listed = ", ".join(f"'{name}'" for name in names) or "none"
        wanted = ",".join(f"{role}=COLUMN" for role in missing)
        raise DataError(
            f"found no column for the {' and the '.join(missing)}; its columns are {listed}. Say "
            f"which it is: --map {wanted}",
            path=path,
        )
    return Columns(roles, tuple(name for name in names if name not in taken))


def guess_field(field: str, columns: Sequence[str], *, of_passages: bool) -> str | None:
    """The column that most likely holds a field of our rows or passages; None where none does."""
    known = (_PASSAGE_NAMES if of_passages else _FIELD_NAMES).get(field, ())
    plain = {_plain(column): column for column in reversed(columns)}
    return next((plain[name] for name in known if name in plain), None)


def _role(key: str, path: Path) -> str:
    plain = _plain(key)
    for role, known in _NAMES.items():
        if plain in known:
            return role
    aliases = {"gold_passages": "source"}
    if plain in aliases:
        return aliases[plain]
    raise DataError(
        f"map: expected one of {', '.join(_NAMES)} on the left, got '{key}'; write role=COLUMN",
        path=path,
    )


def _named(value: str, names: Sequence[str], key: str, path: Path) -> tuple[str, ...]:
    if not value.strip():
        return ()
    wanted = [value] if value in names else [part.strip() for part in value.split("|")]
    by_fold = {name.casefold(): name for name in names}
    found = []
    for name in wanted:
        if name.casefold() not in by_fold:
            close = difflib.get_close_matches(name, names, n=1)
            guess = f" (did you mean '{close[0]}'?)" if close else ""
            listed = ", ".join(f"'{known}'" for known in names)
            raise DataError(
                f"map: {key}={value} names no column{guess}; there are {listed}", path=path
            )
        found.append(by_fold[name.casefold()])
    return tuple(found)


def _guess(role: str, names: Sequence[str]) -> tuple[str, ...]:
    for known in _NAMES[role]:
        found = [name for name in names if _plain(name) == known]
        if not found and role not in _SEVERAL:
            continue
        if role == "answer":
            more = re.compile(rf"{re.escape(known)}_?\d+$")
            found += [name for name in names if more.match(_plain(name))]
        if found:
            return tuple(found) if role == "answer" else tuple(found[:1])
    return ()


def _plain(name: str) -> str:
    """A column's name without case, accents and signs: 'Réponse (FR)' is 'reponse_fr'."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9]+", "_", letters).strip("_")
