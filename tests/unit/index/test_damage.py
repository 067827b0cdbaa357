"""Every file of an index in turn is cut short, flipped and removed: never in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.errors import JsaragError
from jsarag.index.flat import FlatIndex
from jsarag.index.rebuild import build_index
from jsarag.index.store import PassageStore
from jsarag.index.verify import verify

FILES = ("manifest.json", "vectors-00000.bin", "passages.jsonl", "passages.offsets", "COMPLETE")
# Why opening may go on.
HARMLESS = {
    ("COMPLETE", "cut"): "that the marker is there says all; its content is not read",
    ("COMPLETE", "flipped"): "that the marker is there says all; its content is not read",
}


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {"cut": cut, "flipped": flipped, "gone": Path.unlink}


@pytest.fixture
def folder(tmp_path: Path, encoder: Any, kb: Any, render: Any) -> Path:
    build_index(encoder, kb, passage_text=render).save(tmp_path / "index", kb)
    return tmp_path / "index"


def test_the_list_of_files_is_whole(folder: Path) -> None:
    assert {entry.name for entry in folder.iterdir()} == set(FILES)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_when_an_index_is_opened(folder: Path, name: str, damage: str) -> None:
    vectors, passages = FlatIndex.open(folder).embeddings, list(iter_store(folder))
    DAMAGE[damage](folder / name)
    if (name, damage) in HARMLESS:
        assert FlatIndex.open(folder).embeddings.equal(vectors)
        assert list(iter_store(folder)) == passages
        return
    with pytest.raises(JsaragError, match=name) as found:
        FlatIndex.open(folder)
        PassageStore(folder)
    assert found.value.exit_code == 4
    assert "build" in str(found.value)
    assert any(name in problem for problem in verify(folder))


def iter_store(folder: Path) -> list[Any]:
    store = PassageStore(folder)
    return [store[row] for row in range(len(store))]
