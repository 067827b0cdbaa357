"""A change is the next generation: what stays is copied bit for bit, a kill changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.errors import CheckpointError, DataError
from jsarag.index import changes
from jsarag.index.changes import Change, changing, delete, insert, update, write_generation
from jsarag.index.flat import FlatIndex
from jsarag.index.generations import current_folder, generations
from jsarag.index.manifest import Manifest
from jsarag.index.store import PassageStore
from jsarag.index.verify import verify
from jsarag.types import Passage

OLD = [Passage(f"p{row}", f"text {row}") for row in range(6)]
VECTORS = torch.nn.functional.normalize(
    torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six passages in two files of vectors."""
    index = FlatIndex(VECTORS, 0, {"model": "m", "normalise": True})
    index.save(tmp_path / "idx", KnowledgeBase(OLD), {"name": "x"}, shard_bytes=1)
    return tmp_path / "idx"


def write(folder: Path, change: Change, fresh: torch.Tensor, **settings: Any) -> Manifest:
    with changing(folder):
        kb = KnowledgeBase(change.passages)
        note = {"operation": "test"}
        return write_generation(folder, kb, change.origins, fresh, note=note, **settings)


def ids(folder: Path) -> list[str]:
    store = PassageStore(folder)
    return [store[row].id for row in range(len(store))]


class TestChange:
    def test_insert_puts_rows_behind(self) -> None:
        change = insert(OLD, [Passage("n", "new")])
        assert [passage.id for passage in change.passages][-2:] == ["p5", "n"]
        assert change.fresh == [6]

    def test_update_embeds_only_texts_that_differ(self) -> None:
        rows = [Passage("p1", "text 1", meta={"page": 2}), Passage("p4", "other")]
        change = update(OLD, rows, lambda passage: passage.text)
        assert change.fresh == [4]
        assert change.origins == [0, 1, 2, 3, -1, 5]
        assert [change.passages[row] for row in (1, 4)] == rows

    def test_delete_closes_the_gaps(self) -> None:
        change = delete(OLD, ["p0", "p3"])
        assert change.origins == [1, 2, 4, 5]
        assert change.fresh == []

    def test_ids_that_do_not_fit_are_named(self) -> None:
        with pytest.raises(
            DataError, match=r"1 of these ids are in the index already.*update.*'p2'"
        ):
            insert(OLD, [Passage("n", "new"), OLD[2]])
        with pytest.raises(DataError, match=r"1 of these ids are not in the index.*insert.*'n'"):
            update(OLD, [OLD[2], Passage("n", "new")], lambda passage: passage.text)
        many = ["a", "b", "p1", "c", "d"]
        with pytest.raises(DataError, match=r"4 of these ids are not .*: 'a', 'b', 'c', \.\.\."):
            delete(OLD, many)
        with pytest.raises(DataError, match="an index holds at least one"):
            delete(OLD, [passage.id for passage in OLD])


class TestGenerations:
    def test_vectors_that_stay_are_copied_bit_for_bit(self, folder: Path) -> None:
        fresh = torch.nn.functional.normalize(torch.ones(2, 8), dim=1)
        gone = delete(OLD, ["p1"])
        added = insert(gone.passages, [Passage("a", "new"), Passage("b", "new, too")])
        origins = [*gone.origins, -1, -1]
        written = write(folder, Change(added.passages, origins), fresh)
        assert (written.generation, written.count, written.extra["name"]) == (1, 7, "x")
        index = FlatIndex.open(folder, {"model": "m"})
        assert index.generation == 1
        assert torch.equal(index.embeddings, torch.cat([VECTORS[[0, 2, 3, 4, 5]], fresh]))
        assert ids(folder) == ["p0", "p2", "p3", "p4", "p5", "a", "b"]
        assert index.spec["kb_digest"] == KnowledgeBase(added.passages).digest
        assert verify(folder) == []

    def test_old_ones_are_pruned_and_stay_readable_where_they_are_open(self, folder: Path) -> None:
        first = FlatIndex.open(folder)
        store = PassageStore(folder)
        for number in range(1, 4):
            present = [store[row] for row in range(len(store))]
            write(folder, delete(present, [f"p{number}"]), torch.empty(0, 8))
            kept = [(one.number, one.in_use) for one in generations(folder)]
            assert kept == [(number - 1, False), (number, True)]
            store = PassageStore(folder)
        names = sorted(path.name for path in folder.iterdir())
        assert names == [".lock", "COMPLETE", "CURRENT", "gen-2", "gen-3"]
        assert ids(folder) == ["p0", "p4", "p5"]
        assert verify(folder) == []
        assert torch.equal(first.embeddings, VECTORS)

    @pytest.mark.parametrize(("keep", "left"), [(0, [2]), (5, [0, 1, 2])])
    def test_as_many_stay_as_asked(self, folder: Path, keep: int, left: list[int]) -> None:
        write(folder, delete(OLD, ["p0"]), torch.empty(0, 8), keep=keep)
        write(folder, delete(OLD[1:], ["p1"]), torch.empty(0, 8), keep=keep)
        assert [one.number for one in generations(folder)] == left

    def test_a_changed_index_may_be_replaced_whole(self, folder: Path) -> None:
        write(folder, delete(OLD, ["p0"]), torch.empty(0, 8), keep=0)
        FlatIndex(VECTORS[:2], 0, {}).save(folder, KnowledgeBase(OLD[:2]))
        assert ids(folder) == ["p0", "p1"]
        assert [one.number for one in generations(folder)] == [0]

    @pytest.mark.parametrize("content", ["gen-7", "../other", ""])
    def test_a_damaged_pointer_is_an_error(self, folder: Path, content: str) -> None:
        (folder / "CURRENT").write_text(content, encoding="utf-8")
        for opening in (FlatIndex.open, PassageStore, generations):
            with pytest.raises(CheckpointError, match="expected the name of a generation"):
                opening(folder)
        assert "expected the name of a generation" in verify(folder)[0]

    def test_damage_is_not_given_a_new_checksum(self, folder: Path) -> None:
        path = folder / "vectors-00000.bin"
        content = bytearray(path.read_bytes())
        content[5] ^= 1
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"vectors-00000.*the index is damaged and is not"
        ):
            write(folder, delete(OLD, ["p0"]), torch.empty(0, 8))
        assert generations(folder)[0].in_use

    def test_what_is_no_index_has_no_generations(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="expected an index folder"):
            generations(tmp_path)
        (folder / "COMPLETE").unlink()  # it is looked at all the same, and said to be unfinished
        assert [(one.number, one.in_use) for one in generations(folder)] == [(0, True)]
        with pytest.raises(CheckpointError, match="the index may never have been finished"):
            FlatIndex.open(folder)

    def test_what_is_no_index_gets_no_lock(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="expected an index folder"), changing(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.index import changes, streaming
from jsarag.types import Passage

def die(*values, **more):
    os.kill(os.getpid(), signal.SIGKILL)

setattr({"write_store": streaming}.get(sys.argv[2], changes), sys.argv[2], die)
folder, new = Path(sys.argv[1]), [Passage(f"p{row}", f"text {row}") for row in range(1, 6)]
with changes.changing(folder):
    kb, nothing = KnowledgeBase(new), torch.empty(0, 8)
    changes.write_generation(folder, kb, [1, 2, 3, 4, 5], nothing, note={})
"""


@pytest.mark.parametrize("where", ["write_store", "switch"])
def test_a_killed_change_leaves_the_old_generation_in_use(folder: Path, where: str) -> None:
    """Killed while the folder is being filled, and between its completion and the switch."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), where], check=False)
    assert done.returncode == -9
    assert (folder / "gen-1").is_dir() == (where == "switch")
    assert torch.equal(FlatIndex.open(folder).embeddings, VECTORS)
    assert ids(folder) == [passage.id for passage in OLD]
    assert current_folder(folder) == folder
    assert [one.number for one in generations(folder)] == [0]
    # The next change is not in its way: no lock is left, and leftovers go.
    written = write(folder, delete(OLD, ["p5"]), torch.empty(0, 8))
    assert written.generation == 1
    assert ids(folder) == ["p0", "p1", "p2", "p3", "p4"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".tmp")]
    assert verify(folder) == []


def test_a_change_that_fails_to_switch_is_no_generation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, number: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(changes, "switch", full)
    with pytest.raises(OSError, match="no space left"):
        write(folder, delete(OLD, ["p0"]), torch.empty(0, 8))
    assert [one.number for one in generations(folder)] == [0]
    assert len(FlatIndex.open(folder)) == 6
