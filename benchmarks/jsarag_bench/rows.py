"""Benchmark rows on file: append-only JSONL, one folder per kind of machine."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsarag.io.atomic import to_json
from jsarag.io.environment import describe_environment


def machine_name() -> str:
    """A short name for this kind of machine: processor and cores, and the GPU if there is one."""
    environment = describe_environment()
    name = environment["cuda_device"] or f"{environment['cpu']} {environment['usable_cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")


def results_folder(machine: str | None = None) -> Path:
    """``benchmarks/results/<machine>`` of this checkout; installed, of the working folder."""
    checkout = Path(__file__).resolve().parents[1]
    base = checkout if (checkout / "jsarag_bench").is_dir() else Path("benchmarks")
    return base / "results" / (machine or machine_name())


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row, dated; rows are never edited."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stamped = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **row}
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(stamped) + "\n")
