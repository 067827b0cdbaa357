"""docs/settings.md, and the command line's flags, against the schema they are made of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jsarag.config.keys import known_keys, may_change_on_resume
from jsarag.config.page import settings_page
from jsarag_cli import settings as command_line

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def flags() -> set[tuple[str, str]]:
    """(setting, flag) of every row in the command line's tables."""
    found = set()
    for value in vars(command_line).values():
        for row in value if isinstance(value, tuple) else (value,):
            if isinstance(row, command_line.Flag):
                found.add((row.key, row.name))
    return found


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run scripts/settings"


def test_every_setting_has_a_row_of_whole_cells() -> None:
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == set(known_keys())
    assert len(rows) == len(known_keys())
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}


@pytest.mark.parametrize("name", known_keys())
def test_every_setting_says_what_it_is_for(name: str) -> None:
    assert known_keys()[name].description


def test_flags_are_those_of_the_schema() -> None:
    assert flags() == {(key.name, key.flag) for key in known_keys().values() if key.flag}


def test_what_a_model_is_made_of_stays_when_a_run_is_continued() -> None:
    may = may_change_on_resume()
    assert {"train.max_steps", "train.device", "output.output_dir"} <= may
    for name in ("objective.name", "train.seed", "train.batch_size", "generator.model"):
        assert name not in may
