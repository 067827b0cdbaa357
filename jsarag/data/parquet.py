"""Parquet tables, as Hugging Face ``datasets`` writes them, read a batch at a time.

Columns that are not named like our fields are guessed by their names, as ``data build`` guesses
them; every guess is counted for a note. Needs pyarrow (the extra ``parquet``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsarag.data.building.columns import guess_field
from jsarag.data.rows import OnProblem, ReadStats, Row
from jsarag.errors import BackendUnavailableError, DataError

SUFFIX = ".parquet"
_BATCH = 1024
_INSTEAD = {"question": ("history",), "answers": ("response",)}


def read_parquet(
    path: Path,
    fields: Sequence[str],
    *,
    field_map: Mapping[str, str],
    stats: ReadStats,
    on_problem: OnProblem,
) -> Iterator[Row]:
    """The rows of a table; a row's line is its number, from 1.

    Args:
        path, field_map, stats, on_problem: as for ``rows.read_rows``.
        fields: the names we know; a guess is made for each that no column has.

    Raises:
        DataError: the file is no Parquet table, or none of its columns is one of ours.
        BackendUnavailableError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BackendUnavailableError(
            f"{path}: reading Parquet needs the package pyarrow, which cannot be imported "
            f"({error}); install it: pip install 'jsarag[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = list(file.schema_arrow.names)
            names = _names(columns, fields, field_map, stats, path)
            wanted = [column for column in columns if column in names.values()]
            stats.ignored_keys.update(set(columns) - set(wanted))
            number = 0
            for batch in file.iter_batches(_BATCH, columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    stats.rows += 1
                    yield Row(_without_nulls(values, names), names, path, number)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"expected a Parquet table ({str(error).splitlines()[0]}); write it again "
            "(datasets: to_parquet)",
            path=path,
        ) from error


def _names(
    columns: Sequence[str],
    fields: Sequence[str],
    field_map: Mapping[str, str],
    stats: ReadStats,
    path: Path,
) -> dict[str, str]:
    """Our field -> the table's column: as the user says, else of our name, else guessed."""
    names = {field: field_map.get(field, field) for field in fields}
    there = {field for field in fields if field in field_map or names[field] in columns}
    taken = {name for name in names.values() if name in columns}
    for field in fields:
        # Of a question and a history, of answers and a response, one is enough.
        if {field, *_INSTEAD.get(field, ())} & there:
            continue
        free = [column for column in columns if column not in taken]
        guess = guess_field(field, free, of_passages="text" in fields)
        if guess is not None:
            names[field] = stats.guessed[field] = guess
            taken.add(guess)
    if not taken:
        raise DataError(
            f"expected columns such as {', '.join(fields)}, found {', '.join(columns) or 'none'}; "
            f"rename: --map {fields[1]}=COLUMN",
            path=path,
        )
    return names


def _without_nulls(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row without its nulls; answers in SQuAD's form (``{"text": [...]}``) as a list."""
    found = {column: value for column, value in values.items() if value is not None}
    answers = found.get(names.get("answers", ""))
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        found[names["answers"]] = answers["text"]
    return found
