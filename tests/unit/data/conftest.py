"""Small files written on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

WriteLines = Callable[[str, Iterable[Any]], Path]


@pytest.fixture
def jsonl(tmp_path: Path) -> WriteLines:
    """Write rows (objects, or lines as they are) to a file below the test's folder."""

    def write(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path, jsonl: WriteLines) -> Path:
    """A whole folder in our layout: three passages, three train rows, two dev rows."""
    jsonl(
        "set/kb.jsonl",
        [
            {"id": "a", "text": "Otters sleep on their backs.", "title": "Otter"},
            {"id": "b", "text": "Herons stand still for hours.", "title": "Heron"},
            {"id": "c", "text": "A lynx has tufted ears.", "title": "Lynx", "meta": {"page": 3}},
        ],
    )
    jsonl(
        "set/train.jsonl",
        [
            {
                "id": "t1",
                "question": "how do otters sleep",
                "answers": ["on their backs"],
                "gold_passages": ["a"],
            },
            {"id": "t2", "history": [{"speaker": "u", "text": "birds?"}], "response": "still ones"},
            {"id": "t3", "question": "ears?", "answers": ["tufted"], "exclude_passages": ["b"]},
        ],
    )
    jsonl(
        "set/dev.jsonl",
        [
            {
                "id": "d1",
                "question": "how long do herons stand",
                "answers": ["for hours"],
                "gold_passages": ["b"],
            },
            {"id": "d2", "question": "ears?", "answers": ["tufted"], "gold_passages": ["c"]},
        ],
    )
    return tmp_path / "set"
