"""One call from a data set's name or folder to its passages and rows.

'demo' is made on the spot; a folder with ``kb.jsonl`` and ``train|dev|test.jsonl`` (or tables) is
ours; an official name needs the folder its published files lie in. Reading those belongs to
``formats``.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jsarag.data.building.documents import SUFFIXES
from jsarag.data.examples import read_examples
from jsarag.data.formats import all_formats, get_format, recognise
from jsarag.data.formats.base import Format
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.rows import ReadStats
from jsarag.errors import DataError
from jsarag.io.atomic import to_json
from jsarag.types import Example

DEMO = "demo"
KB_FILE = "kb.jsonl"
_KB_FILES = (KB_FILE, "kb.parquet")
_SPLIT_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
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
    about: str = "",
) -> Dataset:
    """Load a data set.

    Args:
        dataset: 'demo', a folder (ours, or one that a format recognises), or the name of an
            official format or of a folder below ``data_dir``.
        data_dir: where the named data set lies: in a folder of its name there, or right there.
        field_map: our field -> the file's field; for our folders and for CSV.
        splits: which splits to read.
        about: what is known of a data set that this package cannot name files for.

    Raises:
        DataError: unknown name, missing file or split, or a faulty row; says what to do.
    """
    if dataset == DEMO and data_dir is None:
        return _demo(splits)
    named = Path(dataset).expanduser()
    if named.is_dir():
        return _folder(named, named.resolve().name, field_map, splits)
    if named.exists():
        raise DataError("expected a folder, found a file; name the folder it lies in", path=named)
    if data_dir is None:
        raise DataError(_unknown(dataset, about))
    return _under(Path(data_dir).expanduser(), dataset, field_map, splits)


def read_format(
    format_: Format,
    folder: Path,
    *,
    field_map: Mapping[str, str] = _NO_RENAMING,
    splits: Sequence[str] = ("train", "dev"),
) -> Dataset:
    """Read a folder as one official format.

    Raises:
        DataError: a file is missing or not as published; says which files belong there.
    """
    if not folder.is_dir():
        raise DataError(
            f"expected a folder, found none. {format_.what_to_put(folder)}", path=folder
        )
    data = format_.read(folder, splits, field_map)
    kb = KnowledgeBase(data.passages, source=str(folder))
    return Dataset(format_.name, kb, dict(data.splits), data.notes)


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


def own_folder(dataset: str, data_dir: Path | str | None) -> Path | None:
    """The folder of our layout that is meant, if one is."""
    places = [Path(dataset).expanduser()]
    if data_dir is not None:
        base = Path(data_dir).expanduser()
        places += [base / dataset, base]
    for place in places:
        if place.is_dir() and find_kb(place) is not None:
            return place
    return None


def _under(folder: Path, name: str, field_map: Mapping[str, str], splits: Sequence[str]) -> Dataset:
    """A named data set below ``--data-dir``: in the folder of its name, or in the folder itself."""
    places = [place for place in (folder / name, folder) if place.is_dir()]
    for place in places:
        if find_kb(place) is not None:
            return _folder(place, name, field_map, splits)
    if name in all_formats():
        place = places[0] if places else folder
        return read_format(get_format(name), place, field_map=field_map, splits=splits)
    if not places:
        raise DataError("expected a folder, found none; check --data-dir", path=folder)
    return _folder(places[0], name, field_map, splits)


def _folder(
    folder: Path, name: str, field_map: Mapping[str, str], splits: Sequence[str]
) -> Dataset:
    if find_kb(folder) is None and (found := recognise(folder)) is not None:
        data = read_format(found, folder, field_map=field_map, splits=splits)
        note = f"{folder}: read as {found.title} (format '{found.name}')"
        return Dataset(name, data.kb, data.splits, (note, *data.notes))
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
    return Dataset(name, kb, rows, tuple(notes))


def find_kb(folder: Path) -> Path | None:
    """The passages of a folder of ours: ``kb.jsonl``, else ``kb.parquet``; None without either."""
    found = (find_file(folder, name) for name in _KB_FILES)
    return next((path for path in found if path is not None), None)


def find_split(folder: Path, split: str) -> Path | None:
    """The rows of a split beside the passages: JSON Lines, else a table; None without either."""
    found = (find_file(folder, f"{split}{suffix}") for suffix in _SPLIT_SUFFIXES)
    return next((path for path in found if path is not None), None)


def _need(folder: Path, name: str) -> Path:
    path = find_kb(folder) if name == KB_FILE else find_split(folder, Path(name).stem)
    if path is not None:
        return path
    raise DataError(
        f"expected {KB_FILE} and one .jsonl, .csv or .parquet a split ({', '.join(SPLITS)}), found "
        f"{_listing(folder)}; {_fix(folder, name)}",
        path=folder / name,
    )


def _listing(folder: Path) -> str:
    found = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return ", ".join(found[:8]) + more or "an empty folder"


def _fix(folder: Path, name: str) -> str:
    """What to do about a missing file, by what else is there."""
    if find_kb(folder) is not None:
        if name != "dev.jsonl" or find_split(folder, "train") is None:
            return f"add {name}"
        return (
            f"add {name}, or cut it off the training rows: `jsarag train --dataset {folder} "
            f"--dev-fraction 0.2`, or once for all: `jsarag data convert {folder} FOLDER "
            "--dev-fraction 0.2`"
        )
    if any(_is_document(entry) for entry in folder.iterdir()):
        return (
            "where these are documents, make a data set of them and a table of questions: "
            f"`jsarag data build {folder} --questions FILE --output FOLDER`"
        )
    return f"add {name}; `jsarag data list` names the files of the official formats"


def _is_document(entry: Path) -> bool:
    """Whether a file, or one right inside a folder, may be made passages of."""
    names = [entry] if entry.is_file() else entry.glob("*.*")
    return any(name.suffix.lower() in SUFFIXES for name in names)


def _unknown(name: str, about: str) -> str:
    if name in all_formats():
        return (
            f"'{name}' is published by others and not part of this package; give the folder with "
            f"its files (--data-dir FOLDER). {all_formats()[name].what_to_put(Path('FOLDER'))}"
        )
    if about:
        return (
            f"'{name}' is not part of this package, and there is no such folder here. {about} A "
            f"folder has {KB_FILE}, train.jsonl and dev.jsonl (docs/formats.md)"
        )
    known = [DEMO, *all_formats()]
    close = difflib.get_close_matches(name, known, n=1)
    guess = f" (did you mean '{close[0]}'?)" if close else ""
    return (
        f"expected a data set's name ({', '.join(known)}) or a folder with {KB_FILE}, got "
        f"'{name}'{guess}; there is no such folder here. Give the folder's path, or the one it "
        "lies in by --data-dir"
    )
