"""Which of a data set's rows a run reads: a dev split cut off, the first training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from jsarag.data.building.splits import cut_dev
from jsarag.data.registry import Dataset, find_split, load_dataset, own_folder
from jsarag.errors import DataError


def load_rows(
    dataset: str,
    *,
    data_dir: Path | None,
    field_map: Mapping[str, str],
    splits: Iterable[str],
    dev_fraction: float | None = None,
    max_train_examples: int | None = None,
    about: str = "",
) -> Dataset:
    """Load a data set as a run reads it; the same rows every time.

    Args:
        dataset, data_dir, field_map, about: as for ``load_dataset``.
        splits: which to read, 'train' among them where ``dev_fraction`` is given.
        dev_fraction: cut so much of the training rows off for dev; None reads dev.
        max_train_examples: keep only the first training rows.

    Raises:
        DataError: as ``load_dataset``, or a dev split is to be cut where there is one.
    """
    wanted = tuple(dict.fromkeys(splits))
    if dev_fraction is not None:
        if _has_dev(dataset, data_dir, field_map):
            raise DataError(
                f"'{dataset}' has a dev split, so none is cut off its training rows; leave out "
                "--dev-fraction (data.dev_fraction)"
            )
        wanted = tuple(dict.fromkeys(("train", *(split for split in wanted if split != "dev"))))
    loaded = load_dataset(
        dataset, data_dir=data_dir, field_map=field_map, splits=wanted, about=about
    )
    if dev_fraction is not None:
        loaded = cut_dev(loaded, dev_fraction)
        sizes = " and ".join(f"{len(loaded.splits[name]):,} {name}" for name in ("train", "dev"))
        note = f"data.dev_fraction: {sizes} rows, cut so that dev asks for nothing train has seen"
        loaded = replace(loaded, notes=(*loaded.notes, note))
    train = loaded.splits.get("train", [])
    if max_train_examples is None or max_train_examples >= len(train):
        return loaded
    note = (
        f"data.max_train_examples: the first {max_train_examples:,} of {len(train):,} training "
        "rows are used"
    )
    rows = {**loaded.splits, "train": train[:max_train_examples]}
    return replace(loaded, splits=rows, notes=(*loaded.notes, note))


def _has_dev(dataset: str, data_dir: Path | None, field_map: Mapping[str, str]) -> bool:
    folder = own_folder(dataset, data_dir)
    if folder is not None:
        return find_split(folder, "dev") is not None
    try:
        load_dataset(dataset, data_dir=data_dir, field_map=field_map, splits=("dev",))
    except DataError:  # a published set without its dev file; faults of the rest are found below
        return False
    return True
