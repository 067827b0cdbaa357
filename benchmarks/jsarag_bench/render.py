"""Renders tables and pictures from the rows on file, between markers in Markdown files.

    python -m jsarag_bench.render --write README.md docs/results.md [--pictures docs/pictures]
    python -m jsarag_bench.render --check README.md docs/results.md

Blocks: ``<!-- kernels:begin -->`` (short), ``<!-- kernels-all:begin -->`` (everything),
``<!-- train-step:begin -->``, ``<!-- label-free:begin -->`` and ``<!-- study:NAME:begin -->``, each
with its ``:end``. Nobody edits inside; ``--check`` fails when a block is not what the rows say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jsarag.errors import DataError
from jsarag.io.atomic import write_text
from jsarag.io.lines import read_json_lines
from jsarag_bench.end_to_end.label_free import ROWS_FILE, label_free_table
from jsarag_bench.end_to_end.stations import stations_table
from jsarag_bench.end_to_end.train_step import train_step_tables
from jsarag_bench.kernel_tables import full_tables, short_table
from jsarag_bench.markdown import block_names, replace_blocks
from jsarag_bench.rows import results_folder
from jsarag_bench.study_tables import study_tables

_STUDY = "study:"


class Results:
    """The rows on file.

    Args:
        folder: holds a folder per machine; default ``benchmarks/results``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        base = folder or results_folder("any").parent
        self.kernels = _all_rows(base, "kernels.jsonl")
        self.studies = _all_rows(base, "end_to_end.jsonl")
        self.stations = _all_rows(base, "stations.jsonl")
        self.train_steps = _all_rows(base, "train_step.jsonl")
        self.label_free = _all_rows(base, ROWS_FILE)

    def block(self, name: str) -> str | None:
        """The content of a block, None if it is not ours."""
        if name == "kernels":
            return short_table(self.kernels)
        if name == "kernels-all":
            return full_tables(self.kernels)
        if name in ("stations", "stations-large"):
            return stations_table(self.stations, "large" if name.endswith("large") else "demo")
        if name == "label-free":
            return label_free_table(self.label_free)
        if name == "train-step":
            return train_step_tables(self.train_steps)
        if name.startswith(_STUDY):
            return study_tables(name.removeprefix(_STUDY), self.studies)
        return None


def rendered(path: Path, results: Results) -> str:
    """A file's text with every block of ours as the rows say.

    Raises:
        DataError: the file is missing, or a marker has no counterpart.
    """
    if not path.is_file():
        raise DataError("expected a Markdown file, found none; create it first", path=path)
    return replace_blocks(path.read_text(encoding="utf-8"), results.block, str(path))


def stale_files(paths: Iterable[Path], results: Results) -> list[Path]:
    """Files whose blocks are not what the rows say."""
    return [path for path in paths if rendered(path, results) != path.read_text(encoding="utf-8")]


def _all_rows(base: Path, name: str) -> list[dict[str, Any]]:
    return [row for path in sorted(base.glob(f"*/{name}")) for row in read_json_lines(path)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m jsarag_bench.render", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, nargs="+", metavar="FILE")
    what.add_argument("--check", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--results", type=Path, default=None, help="default: benchmarks/results")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for PNG files")
    chosen = parser.parse_args(arguments)
    results = Results(chosen.results)
    if chosen.check:
        stale = stale_files(chosen.check, results)
        for path in stale:
            print(f"{path}: not what benchmarks/results says; run --write", file=sys.stderr)
        sys.exit(1 if stale else 0)
    for path in chosen.write:
        write_text(path, rendered(path, results))
        names = ", ".join(block_names(path.read_text(encoding="utf-8"))) or "no blocks"
        print(f"{path}: {names}")
    if chosen.pictures is not None:
        from jsarag_bench.pictures import draw_pictures

        for path in draw_pictures(results.kernels, chosen.pictures):
            print(path)


if __name__ == "__main__":
    main()
