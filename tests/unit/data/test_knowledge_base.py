"""Passages by row and by id, and what a faulty passage file says."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.rows import ReadStats
from jsarag.errors import DataError
from jsarag.types import Passage


def test_rows_and_ids(folder: Path) -> None:
    kb = KnowledgeBase.read(folder / "kb.jsonl")
    assert len(kb) == 3
    assert kb.ids == ("a", "b", "c")
    assert kb[1] == Passage("b", "Herons stand still for hours.", "Heron")
    assert kb[2].meta == {"page": 3}
    assert [kb.row_of(identity) for identity in ("c", "a")] == [2, 0]
    assert "b" in kb
    assert "z" not in kb
    assert list(kb) == list(kb.passages)


def test_an_unknown_id_says_so(folder: Path) -> None:
    kb = KnowledgeBase.read(folder / "kb.jsonl")
    with pytest.raises(DataError, match=r"kb\.jsonl.*one of its 3 passages, got 'z'"):
        kb.row_of("z")


def test_the_digest_is_over_ids_titles_and_texts_in_order() -> None:
    passages = [Passage("a", "x y", "T"), Passage("b", "z")]
    expected = hashlib.sha256(b"a\tT\tx y\nb\t\tz").hexdigest()
    assert KnowledgeBase(passages).digest == expected
    assert KnowledgeBase(passages[::-1]).digest != expected
    assert KnowledgeBase([passages[0], Passage("b", "z", meta={"k": 1})]).digest == expected


def test_the_digest_agrees_with_the_indexes(folder: Path) -> None:
    kb = KnowledgeBase.read(folder / "kb.jsonl")
    text = "\n".join(f"{p.id}\t{p.title}\t{p.text}" for p in kb)
    assert kb.digest == hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_all_ways_to_write_the_same_file(
    tmp_path: Path, ending: str, mark: bytes, packed: bool
) -> None:
    lines = ['{"id": "a", "text": "é one"}', "", '{"id": 7, "text": "two", "title": null}', "  "]
    content = mark + ending.join(lines).encode()
    path = tmp_path / ("kb.jsonl.gz" if packed else "kb.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    stats = ReadStats()
    kb = KnowledgeBase.read(path, stats=stats)
    assert [(p.id, p.text, p.title) for p in kb] == [("a", "é one", ""), ("7", "two", "")]
    assert stats.blank_lines == 2


def test_unicode_line_separators_do_not_split_rows(tmp_path: Path) -> None:
    path = tmp_path / "kb.jsonl"
    path.write_text('{"id": "a", "text": "one\u2028two\x85three"}\n', encoding="utf-8")
    assert KnowledgeBase.read(path)[0].text == "one\u2028two\x85three"


def test_fields_are_renamed(jsonl: Any) -> None:
    path = jsonl("kb.jsonl", [{"pid": "a", "body": "x", "id": 5, "text": "not this"}])
    stats = ReadStats()
    kb = KnowledgeBase.read(path, {"kb.id": "pid", "text": "body", "id": "qid"}, stats=stats)
    assert (kb[0].id, kb[0].text) == ("a", "x")
    assert stats.notes("kb.jsonl") == ("kb.jsonl: ignored keys id (1), text (1)",) or (
        stats.notes("kb.jsonl") == ("kb.jsonl: ignored keys text (1), id (1)",)
    )


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ({"id": "", "text": "x"}, "id", "empty"),
        ({"id": "a"}, "text", "missing"),
        ({"id": "a", "title": " ", "text": ""}, "text", "empty"),
        ({"id": "a", "text": None}, "text", "missing"),
        ({"id": "a", "text": "  "}, "text", "empty"),
        ({"id": 1.5, "text": "x"}, "id", "expected text, found a number (1.5)"),
        ({"id": True, "text": "x"}, "id", "expected text, found true or false"),
        ({"id": "a", "text": ["x"]}, "text", 'expected text, found a list (["x"])'),
        ({"id": "a", "text": "x", "title": 3}, "title", "expected text, found a number"),
        ({"id": "a", "text": "x", "meta": [1]}, "meta", "expected an object"),
        ({"id": "a", "text": "x \ud83d"}, "text", "half a character (\\ud83d)"),
        ({"id": "first", "text": "x"}, "id", "'first' is also the id of line 1"),
    ],
)
def test_a_faulty_row_is_named(jsonl: Any, row: Any, field: str, words: str) -> None:
    path = jsonl("kb.jsonl", [{"id": "first", "text": "x"}, "", row])
    with pytest.raises(DataError) as caught:
        KnowledgeBase.read(path)
    error = caught.value
    assert (error.path, error.line, error.field) == (path, 3, field)
    assert words in str(error)
    assert str(error).startswith(f"{path}:3: field '{field}': ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "one JSON document over many lines"),
        ('[{"id": "a"},', "one JSON document over many lines"),
        ('{"id": "a", "text": "x"', "expected JSON"),
        ("{'id': 'a'}", "near"),
        ('[{"id": "a", "text": "x"}]', "found a list"),
        ('"a"', "expected a JSON object"),
        ("[" * 100_000, "nested without end"),
    ],
)
def test_a_line_that_is_no_row(jsonl: Any, line: str, words: str) -> None:
    path = jsonl("kb.jsonl", [{"id": "first", "text": "x"}, line])
    with pytest.raises(DataError) as caught:
        KnowledgeBase.read(path)
    assert caught.value.line == 2
    assert words in str(caught.value)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "kb.jsonl"
    path.write_bytes(b'{"id": "a", "text": "x"}\n{"id": "b", "text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r":2: expected UTF-8, found byte 0xe9 at position 24"):
        KnowledgeBase.read(path)


def test_a_whole_file_on_one_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jsarag.data.rows.MAX_LINE_BYTES", 2**20)
    path = tmp_path / "kb.jsonl"
    path.write_text('{"id": "a", "text": "' + "x" * 2**21 + '"}\n')
    with pytest.raises(DataError, match="line of more than 1 MiB"):
        KnowledgeBase.read(path)


def test_a_long_line_is_read(jsonl: Any) -> None:
    path = jsonl("kb.jsonl", [{"id": "a", "text": "word " * 500_000}])
    assert len(KnowledgeBase.read(path)[0].text) == 2_500_000


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a file, found none"):
        KnowledgeBase.read(tmp_path / "kb.jsonl")
    with pytest.raises(DataError, match="found a folder"):
        KnowledgeBase.read(tmp_path)
    (tmp_path / "kb.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="at least one passage, found none"):
        KnowledgeBase.read(tmp_path / "kb.jsonl")
    (tmp_path / "kb.jsonl.gz").write_bytes(b"not packed")
    with pytest.raises(DataError, match="whole gzip file"):
        KnowledgeBase.read(tmp_path / "kb.jsonl.gz")
    lines = "".join(f'{{"id": "{row}", "text": "x"}}\n' for row in range(100))
    cut = gzip.compress(lines.encode())[:-12]
    (tmp_path / "kb.jsonl.gz").write_bytes(cut)
    with pytest.raises(DataError, match="damaged or cut off"):
        KnowledgeBase.read(tmp_path / "kb.jsonl.gz")


def test_passages_given_directly_must_be_distinct() -> None:
    with pytest.raises(DataError, match="'a' twice"):
        KnowledgeBase([Passage("a", "x"), Passage("b", "y"), Passage("a", "z")])


def test_a_title_alone_is_the_text(jsonl: Any) -> None:
    rows = [{"id": "a", "title": "Otter"}, {"id": "b", "title": "Heron", "text": " "}]
    stats = ReadStats()
    kb = KnowledgeBase.read(jsonl("kb.jsonl", rows), stats=stats)
    assert [(passage.title, passage.text) for passage in kb] == [("", "Otter"), ("", "Heron")]
    assert stats.notes("kb.jsonl") == (
        "kb.jsonl: 2 passages with a title alone, read as their text",
    )


def test_passages_without_an_id_get_one_that_stays(jsonl: Any) -> None:
    first = KnowledgeBase.read(jsonl("a.jsonl", [{"text": "one"}, {"text": "two"}]))
    second = KnowledgeBase.read(jsonl("b.jsonl", [{"text": "two"}, {"text": "two"}]))
    assert first.ids[1] == second.ids[0]
    assert len({*first.ids, *second.ids}) == 3
