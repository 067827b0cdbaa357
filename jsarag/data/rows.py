"""JSON Lines as rows that know where they stand; every complaint names file, line, field and fix.

Reads plain and gzip files with or without byte-order mark, with either line ending. What the fields
mean belongs to ``knowledge_base`` and ``examples``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from jsarag.errors import DataError

PASSAGE_FIELDS = ("id", "text", "title", "meta")
EXAMPLE_FIELDS = (
    "id",
    "question",
    "history",
    "answers",
    "response",
    "gold_passages",
    "exclude_passages",
    "dialogue_id",
)
# `kb.` makes a renaming that holds for passages only, where both kinds of file have the field.
KB_PREFIX = "kb."

# A line longer than this is no row of text but a whole file without line breaks.
MAX_LINE_BYTES = 64 * 2**20

OnProblem = Callable[[DataError], None]
_BOM = b"\xef\xbb\xbf"


def raise_problem(problem: DataError) -> NoReturn:
    """The strict way to take a problem: stop at the first."""
    raise problem


@dataclass(slots=True)
class ReadStats:
    """What a reader passed over, so that nothing is ignored in silence."""

    rows: int = 0
    blank_lines: int = 0
    empty_turns: int = 0
    repeated_answers: int = 0
    made_ids: int = 0
    titles_alone: int = 0
    ignored_keys: Counter[str] = field(default_factory=Counter)
    guessed: dict[str, str] = field(default_factory=dict)

    def notes(self, name: str) -> tuple[str, ...]:
        """One sentence per kind of thing that was passed over; ``name`` is the file's."""
        found = []
        if self.guessed:
            columns = ", ".join(f"{ours} from '{theirs}'" for ours, theirs in self.guessed.items())
            found.append(f"{name}: read {columns}; --map FIELD=COLUMN corrects a wrong guess")
        if self.ignored_keys:
            keys = ", ".join(f"{key} ({count})" for key, count in self.ignored_keys.most_common(8))
            more = len(self.ignored_keys) - 8
            found.append(f"{name}: ignored keys {keys}" + (f" and {more} more" if more > 0 else ""))
        counts = (
            (self.empty_turns, "empty turns dropped from histories"),
            (self.repeated_answers, "repeated answers dropped"),
            (self.blank_lines, "blank lines skipped"),
            (self.made_ids, "rows without an id got one made of their content"),
            (self.titles_alone, "passages with a title alone, read as their text"),
        )
        found += [f"{name}: {count} {what}" for count, what in counts if count]
        return tuple(found)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A data file's bytes; a name that ends in ``.gz`` is unpacked while reading.

    Raises:
        DataError: the file is missing, unreadable or no gzip file, now or while it is being read.
    """
    try:
        opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115 (closed by the with below)
        with opened as file:
            yield file  # type: ignore[misc]
    except FileNotFoundError as error:
        raise DataError("expected a file, found none; check the path", path=path) from error
    except IsADirectoryError as error:
        raise DataError("expected a file, found a folder", path=path) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"expected a whole gzip file ({error}); it is damaged or cut off, fetch it again",
            path=path,
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path) from error


def read_text(path: Path) -> str:
    """A whole text file, UTF-8 with or without byte-order mark.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    with open_bytes(path) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(_not_utf8(error), path=path, line=line) from error


def read_json(path: Path) -> Any:
    """A whole JSON file.

    Raises:
        DataError: it cannot be read or is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"expected JSON ({error.msg} at column {error.colno}); if the file was cut off, "
            "fetch it again",
            path=path,
            line=error.lineno,
        ) from error
    except RecursionError as error:
        raise DataError("expected JSON, found brackets nested without end", path=path) from error


def read_lines(path: Path, on_problem: OnProblem = raise_problem) -> Iterator[tuple[int, str]]:
    """(1-based line number, text without line ending) of every line, blank ones included.

    A line that is not UTF-8 goes to ``on_problem`` and is left out.
    """
    with open_bytes(path) as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise DataError(
                    f"expected one row per line, found a line of more than "
                    f"{MAX_LINE_BYTES >> 20} MiB; is this one JSON document? Write one object "
                    "per line (jq -c '.[]' does that to a list)",
                    path=path,
                    line=number,
                )
            if number == 1:
                raw = raw.removeprefix(_BOM)
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                on_problem(DataError(_not_utf8(error), path=path, line=number))


def read_rows(
    path: Path,
    fields: tuple[str, ...],
    *,
    field_map: Mapping[str, str],
    stats: ReadStats,
    on_problem: OnProblem = raise_problem,
) -> Iterator[Row]:
    """The rows of a JSON Lines file.

    Args:
        path: the file.
        fields: the names we know.
        field_map: our name -> the file's.
        stats: counts blank lines and ignored keys.
        on_problem: takes lines that are no JSON object; they are left out where it returns.
    """
    names = {name: field_map.get(name, name) for name in fields}
    known = frozenset(names.values())
    for number, text in read_lines(path, on_problem):
        if not text or text.isspace():
            stats.blank_lines += 1
            continue
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            on_problem(DataError(_not_json(text, error), path=path, line=number))
            continue
        if not isinstance(values, dict):
            on_problem(DataError(_not_object(values), path=path, line=number))
            continue
        stats.rows += 1
        stats.ignored_keys.update(values.keys() - known)
        yield Row(values, names, path, number)


def map_for(kind: str, field_map: Mapping[str, str]) -> dict[str, str]:
    """The part of a user's renaming that concerns ``kind`` ('kb' or 'examples').

    Args:
        kind: which file is about to be read.
        field_map: our field -> the file's field. One map serves both kinds of file: a name that
            both have (``id``) is renamed in both unless ``kb.id`` says otherwise.

    Raises:
        DataError: the map renames a field that neither kind has.
    """
    for name in field_map:
        allowed = PASSAGE_FIELDS if name.startswith(KB_PREFIX) else _ALL_FIELDS
        if name.removeprefix(KB_PREFIX) not in allowed:
            raise DataError(
                f"map: expected one of our fields on the left ({', '.join(_ALL_FIELDS)}; 'kb.id' "
                f"for passages only), got '{name}={field_map[name]}'; write our_field=their_field"
            )
    plain = {name: theirs for name, theirs in field_map.items() if name in _ALL_FIELDS}
    if kind != "kb":
        return plain
    own = {
        name.removeprefix(KB_PREFIX): theirs
        for name, theirs in field_map.items()
        if name.startswith(KB_PREFIX)
    }
    return {**plain, **own}


_ALL_FIELDS = tuple(dict.fromkeys((*PASSAGE_FIELDS, *EXAMPLE_FIELDS)))


class Row:
    """One JSON object of a file, read field by field under our names.

    Every getter raises DataError with file, line, the file's own name of the field, what was
    expected and what to do.
    """

    __slots__ = ("_names", "_values", "line", "path")

    def __init__(
        self, values: Mapping[str, Any], names: Mapping[str, str], path: Path, line: int
    ) -> None:
        self._values, self._names, self.path, self.line = values, names, path, line

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(self._names[name]) is not None

    def error(self, problem: str, name: str | None = None) -> DataError:
        """A DataError about this row, or one field of it."""
        shown = None if name is None else self.shown(name)
        return DataError(problem, path=self.path, line=self.line, field=shown)

    def shown(self, name: str) -> str:
        """The field as the file calls it (paths into a field, ``history[0].text``, included)."""
        head = name.partition("[")[0]
        return self._names.get(head, head) + name[len(head) :]

    def get(self, name: str) -> Any:
        """The raw value.

        Raises:
            DataError: the field is missing or null.
        """
        if not self.has(name):
            present = ", ".join(map(str, self._values)) or "none"
            theirs = self._names[name]
            fix = f"add it, or rename a field: --map {name}=NAME"
            if theirs != name:
                fix = f"correct the renaming {name}={theirs}"
            raise self.error(f"missing; this row has the fields {_short(present)}; {fix}", name)
        return self._values[self._names[name]]

    def text(self, name: str) -> str:
        """A string that is not blank."""
        return self.check_text(self.get(name), name)

    def identity(self, name: str) -> str:
        """A string id; a whole number is taken as its digits."""
        return self.check_identity(self.get(name), name)

    def own_id(self) -> str | None:
        """The row's ``id``, None where it has none.

        A renaming of ``id`` says that there is one, so then it must be there.
        """
        return self.identity("id") if self.has("id") or self._names["id"] != "id" else None

    def made_id(
        self, prefix: str, content: Sequence[str], used: Container[str], stats: ReadStats
    ) -> str:
        """An id for a row that has none, made of its content.

        Args:
            prefix: what a made id begins with.
            content: the texts that make the row what it is.
            used: ids of the rows before; a repeated row gets a number behind its digest.
            stats: counts the ids made.
        """
        stats.made_ids += 1
        digest = hashlib.sha256("\0".join(content).encode("utf-8", "surrogatepass"))
        made = wanted = f"{prefix}-{digest.hexdigest()[:12]}"
        count = 1
        while made in used:
            count += 1
            made = f"{wanted}-{count}"
        return made

    def optional_text(self, name: str) -> str:
        """A string, "" where the field is missing or null."""
        if not self.has(name):
            return ""
        value = self.get(name)
        if not isinstance(value, str):
            raise self.error(f"expected text, found {_kind(value)}; put it in quotes", name)
        return self._whole(value, name)

    def items(self, name: str) -> list[Any]:
        """A list; [] where the field is missing or null."""
        if not self.has(name):
            return []
        value = self.get(name)
        if not isinstance(value, list):
            raise self.error(f"expected a list, found {_kind(value)}; write [...] around it", name)
        return value

    def identities(self, name: str) -> tuple[str, ...]:
        """A list of ids, each once."""
        found = [
            self.check_identity(value, f"{name}[{place}]")
            for place, value in enumerate(self.items(name))
        ]
        return tuple(dict.fromkeys(found))

    def check_text(self, value: Any, name: str) -> str:
        """``value`` if it is a string that is not blank."""
        if not isinstance(value, str):
            raise self.error(f"expected text, found {_kind(value)}; put it in quotes", name)
        if not value.strip():
            raise self.error("empty; give it a text or remove the row", name)
        return self._whole(value, name)

    def check_identity(self, value: Any, name: str) -> str:
        """``value`` as an id."""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.check_text(value, name)

    def _whole(self, value: str, name: str) -> str:
        # Tokenisers refuse half of a surrogate pair, hours later and without a line number.
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise self.error(
                    f"holds half a character (\\u{ord(value[error.start]):04x}); the text was cut "
                    "inside a pair of \\u escapes, write it again from its source",
                    name,
                ) from error
        return value


def _not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return (
        f"expected UTF-8, found byte 0x{byte:02x} at position {error.start}; convert the file "
        "(iconv -f latin1 -t utf-8) or repair the line"
    )


def _not_json(text: str, error: json.JSONDecodeError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "expected one JSON object, found brackets nested without end"
    hint = "one JSON object per line is needed; check quotes, commas and braces there"
    if text.strip() in ("[", "{") or text.lstrip().startswith("[{"):
        hint = (
            "this looks like one JSON document over many lines; write one object per line "
            "(jq -c '.[]' does that to a list)"
        )
    return f"expected JSON ({error.msg} at column {error.colno}, near {_near(text, error)}); {hint}"


def _near(text: str, error: json.JSONDecodeError) -> str:
    return repr(text[max(0, error.pos - 15) : error.pos + 15])


def _not_object(value: Any) -> str:
    fix = "write one object per line"
    if isinstance(value, list):
        fix += " (jq -c '.[]' does that to a list)"
    return f"expected a JSON object {{...}}, found {_kind(value)}; {fix}"


def _kind(value: Any) -> str:
    """A value in words, with a look at it."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object", type(None): "null"}
    return f"{kinds.get(type(value), type(value).__name__)} ({_short(json.dumps(value))})"


def _short(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
