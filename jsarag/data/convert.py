"""Writing a data set as our folder: ``kb.jsonl`` and one JSON Lines file a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsarag.data.registry import KB_FILE, Dataset
from jsarag.errors import CheckpointError, DataError
from jsarag.io.atomic import is_complete, write_folder, write_jsonl, write_text
from jsarag.types import Example, Passage

_NO_TEXTS: Mapping[str, str] = {}


def convert(
    dataset: Dataset, target: Path | str, *, texts: Mapping[str, str] = _NO_TEXTS
) -> dict[str, int]:
    """Write a data set so that ``--dataset TARGET`` reads the same passages and rows.

    The folder appears when it is whole. One that this function wrote before is replaced.

    Args:
        dataset: what to write; all its loaded splits are.
        target: the folder.
        texts: further files by name, such as a README.

    Returns:
        Rows written by file name.

    Raises:
        DataError: the target holds something else, or a row has no answer (our rows need one).
    """
    target = Path(target)
    for split, examples in dataset.splits.items():
        for example in examples:
            if not any(answer.strip() for answer in example.answers):
                raise DataError(
                    f"'{example.id}' of '{split}' has no answer, which our rows need; read the "
                    "folder as it is, or leave this split out"
                )
    refuse_foreign(target)
    written: dict[str, int] = {}
    try:
        with write_folder(target) as folder:
            written[KB_FILE] = write_jsonl(folder / KB_FILE, _passages(dataset))
            for split, examples in dataset.splits.items():
                name = f"{split}.jsonl"
                written[name] = write_jsonl(folder / name, map(example_row, examples))
            for name, text in texts.items():
                write_text(folder / name, text)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    return written


def refuse_foreign(target: Path) -> None:
    """Refuse to write over what was not written by us.

    Raises:
        DataError: the target is a file, or a folder with something else in it.
    """
    if target.is_file():
        raise DataError("expected a folder to write, found a file; choose another", path=target)
    if target.is_dir() and not is_complete(target) and any(target.iterdir()):
        raise DataError(
            "expected no folder, an empty one, or one written by an earlier conversion; choose "
            "another target or move its files away",
            path=target,
        )


def passage_row(passage: Passage) -> dict[str, Any]:
    """A passage as a row of ``kb.jsonl``; empty fields are left out."""
    row: dict[str, Any] = {"id": passage.id, "text": passage.text}
    if passage.title:
        row["title"] = passage.title
    if passage.meta:
        row["meta"] = passage.meta
    return row


def example_row(example: Example) -> Mapping[str, Any]:
    """An example as a row of a split's file; empty fields are left out."""
    row: dict[str, Any] = {"id": example.id}
    if example.question is not None:
        row["question"] = example.question
    else:
        row["history"] = [{"speaker": turn.speaker, "text": turn.text} for turn in example.history]
    row["answers"] = list(example.answers)
    for name in ("gold_passages", "exclude_passages"):
        if values := getattr(example, name):
            row[name] = list(values)
    if example.dialogue_id:
        row["dialogue_id"] = example.dialogue_id
    return row


def _passages(dataset: Dataset) -> Iterator[dict[str, Any]]:
    return (passage_row(passage) for passage in dataset.kb)
