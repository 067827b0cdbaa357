"""Every kind of damage to an index folder is found, and a sound one is left in peace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jsarag.index.flat import FlatIndex
from jsarag.index.rebuild import build_index
from jsarag.index.verify import verify
from jsarag.io.records import without_seal, write_record
from jsarag.types import Passage


@pytest.fixture
def folder(tmp_path: Path, encoder: Any, kb: Any, render: Any) -> Path:
    build_index(encoder, kb, passage_text=render, dtype="bf16").save(tmp_path / "index", kb)
    return tmp_path / "index"


def test_a_sound_index_has_no_problems(folder: Path, encoder: Any, render: Any) -> None:
    asked: list[str] = []

    def embed(passages: Sequence[Passage]) -> Tensor:
        asked.extend(passage.id for passage in passages)
        return encoder.embed([render(p) for p in passages], "passage", 8)

    assert verify(folder) == []
    assert verify(folder, deep=False) == []
    assert verify(folder, embed=embed, samples=10) == []
    assert len(set(asked)) == 10


def test_a_flipped_bit_is_found_by_reading_only(folder: Path) -> None:
    path = folder / "vectors-00000.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert verify(folder, deep=False) == []
    problems = verify(folder)
    assert len(problems) == 1
    assert "vectors-00000.bin: expected xxh3_128" in problems[0]


def test_missing_files_markers_and_strangers(folder: Path) -> None:
    (folder / "COMPLETE").unlink()
    (folder / "passages.jsonl").unlink()
    (folder / "notes.txt").write_text("x")
    text = "\n".join(verify(folder, deep=False))
    assert "not marked COMPLETE" in text
    assert "passages.jsonl: the file is missing" in text
    assert "does not list notes.txt" in text
    assert verify(folder / "nowhere") == [f"{folder / 'nowhere'}: no such folder"]


def test_an_unreadable_manifest_is_the_only_problem(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    assert len(verify(folder)) == 1
    assert "manifest.json" in verify(folder)[0]


def test_counts_that_disagree(folder: Path) -> None:
    path = folder / "manifest.json"
    write_record(path, {**without_seal(json.loads(path.read_text())), "count": 51})
    assert any("promises 51 vectors" in problem for problem in verify(folder))


def test_bad_numbers_are_counted(tmp_path: Path, kb: Any) -> None:
    embeddings = torch.nn.functional.normalize(torch.ones(50, 4), dim=1)
    embeddings[3, 0] = torch.nan
    embeddings[4] *= 1.1
    embeddings[5] = 0
    FlatIndex(embeddings, spec={"normalise": True}).save(tmp_path / "index", kb)
    problems = verify(tmp_path / "index")
    assert any("1 vectors hold NaN" in problem for problem in problems)
    assert any("2 vectors are not of length 1" in problem for problem in problems)
    assert verify(tmp_path / "index", deep=False) == []


def test_damaged_and_repeated_passages_are_listed(tmp_path: Path, kb: Any) -> None:
    kb.passages[7] = Passage("p6", "the same id again")
    FlatIndex(torch.zeros(50, 4)).save(tmp_path / "index", kb)
    assert verify(tmp_path / "index") == [
        f"{tmp_path / 'index' / 'passages.jsonl'}:8: id 'p6' already stands in line 7"
    ]


def test_another_encoder_is_noticed_by_its_vectors(folder: Path, encoder: Any, render: Any) -> None:
    def embed(passages: Sequence[Passage]) -> Tensor:
        return encoder.embed([render(p) for p in passages], "passage", 8)

    encoder.weights = "w1"
    problems = verify(folder, embed=embed, samples=5)
    assert len(problems) == 1
    assert "5 of 5 re-embedded passages differ" in problems[0]
    encoder.width = 12
    assert "width 12, the index holds width 24" in verify(folder, embed=embed)[0]
