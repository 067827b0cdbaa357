"""One call from a data set's name or folder to its passages and rows.

'demo' is made on the spot; a folder with ``kb.jsonl`` and ``train|dev|test.jsonl`` is ours; an
official name needs the folder its published files lie in. Reading those belongs to ``formats``.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jsarag.data.examples import read_examples
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.rows import ReadStats
from jsarag.errors import DataError
from jsarag.io.atomic import to_json
from jsarag.types import Example

DEMO = "demo"
KB_FILE = "kb.jsonl"
SPLITS = ("train", "dev", "test")
_NO_RENAMING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Dataset:
    """A knowledge base and the rows of the splits that were asked for.

    Attributes:
        name: the data set's name, or its folder's.
        kb: the passages.
        splits: rows by split name.
        notes: what the user should see once (ignored keys, dropped turns, ...).
    """

    name: str
    kb: KnowledgeBase
    splits: Mapping[str, list[Example]]
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the passages and every row of every loaded split."""
        sha = hashlib.sha256(self.kb.digest.encode())
        for split in sorted(self.splits):
            sha.update(f"\n{split}".encode())
            for example in self.splits[split]:
                sha.update(b"\n" + to_json(example).encode("utf-8", "surrogatepass"))
        return sha.hexdigest()


def load_dataset(
    dataset: str,
    *,
    data_dir: Path | str | None = None,
    field_map: Mapping[str, str] = _NO_RENAMING,
    splits: Sequence[str] = ("train", "dev"),
) -> Dataset:
    """Load a data set.

    Args:
        dataset: 'demo', an official name, or a folder.
        data_dir: the folder of an official data set's files; for a folder of ours it may name
            the folder, too.
        field_map: our field -> the file's field; only for folders of ours.
        splits: which splits to read.

    Raises:
        DataError: unknown name, missing file or split, or a faulty row; says what to do.
    """
    if dataset == DEMO and data_dir is None:
        return _demo(splits)
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        return _folder(folder, field_map, splits)
    if folder.exists():
        raise DataError("expected a folder, found a file; name the folder it lies in", path=folder)
    raise DataError(_unknown(dataset))


def _demo(splits: Sequence[str]) -> Dataset:
    from jsarag.data.demo import make_demo

    data = make_demo()
    rows = {"train": list(data.train), "dev": list(data.dev)}
    for split in splits:
        if split not in rows:
            raise DataError(f"demo: expected a split among train, dev, got '{split}'")
    return Dataset(
        DEMO, KnowledgeBase(data.passages, source=DEMO), {split: rows[split] for split in splits}
    )


def find_file(folder: Path, name: str) -> Path | None:
    """``folder/name`` or its gzip form; None where neither is there."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _folder(folder: Path, field_map: Mapping[str, str], splits: Sequence[str]) -> Dataset:
    notes: list[str] = []
    kb_path = _need(folder, KB_FILE)
    stats = ReadStats()
    kb = KnowledgeBase.read(kb_path, field_map, stats=stats)
    notes += stats.notes(kb_path.name)
    rows: dict[str, list[Example]] = {}
    paths = {split: _need(folder, f"{split}.jsonl") for split in splits}
    for split, path in paths.items():
        stats = ReadStats()
        rows[split] = read_examples(path, field_map=field_map, kb=kb, stats=stats)
        notes += stats.notes(path.name)
        if not rows[split]:
            notes.append(f"{path.name}: holds no rows")
    return Dataset(folder.resolve().name, kb, rows, tuple(notes))


def _need(folder: Path, name: str) -> Path:
    path = find_file(folder, name)
    if path is not None:
        return path
    found = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    raise DataError(
        f"expected {KB_FILE} and one .jsonl a split ({', '.join(SPLITS)}), found "
        f"{shown or 'an empty folder'}; add {name}, or convert official files with "
        "`jsarag data convert`",
        path=folder / name,
    )


def _unknown(dataset: str) -> str:
    known = [DEMO]
    close = difflib.get_close_matches(dataset, known, n=1)
    guess = f" (did you mean '{close[0]}'?)" if close else ""
    return (
        f"expected a data set's name ({', '.join(known)}) or a folder with {KB_FILE}, got "
        f"'{dataset}'{guess}; there is no such folder"
    )
