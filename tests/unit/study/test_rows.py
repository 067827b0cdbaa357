"""Rows are appended once each, whatever came between."""

from __future__ import annotations

from pathlib import Path

from jsarag.io.lines import read_json_lines
from jsarag.study.rows import add_row


def test_a_row_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    assert read_json_lines(path) == []
    assert add_row(path, {"arm": "a", "seeds": (1, 2), "score": float("nan")})
    assert not add_row(path, {"arm": "a", "seeds": [1, 2], "score": None})
    assert not add_row(path, {"arm": "a", "seeds": [1, 2], "score": None, "date": "2020"})
    assert add_row(path, {"arm": "b", "text": "one\u2028line", "date": "2020"})
    first, second = read_json_lines(path)
    assert first["date"].startswith("20")
    assert first["score"] is None
    assert second == {"arm": "b", "text": "one\u2028line", "date": "2020"}


def test_a_line_cut_short_by_a_kill_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    add_row(path, {"arm": "a"})
    with path.open("a") as file:
        file.write('{"arm": "b", "sco')
    assert [row["arm"] for row in read_json_lines(path)] == ["a"]
    assert add_row(path, {"arm": "b"})
    assert [row["arm"] for row in read_json_lines(path)] == ["a", "b"]
