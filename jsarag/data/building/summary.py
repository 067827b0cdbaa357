"""What ``data build`` did, in words: for the terminal and for the README beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsarag.data.building.texts import counted

if TYPE_CHECKING:
    from jsarag.data.building.build import BuildReport

_SHOWN = 5


def summary(report: BuildReport) -> dict[str, str]:
    """The main facts, by name."""
    gold = report.gold
    facts = {
        "documents": f"{report.documents:,} read",
        "passages": (
            f"{report.passages:,}, the longest of {report.longest_tokens} tokens (limit "
            f"{report.max_tokens}, overlap {report.overlap_tokens}, counted by {report.encoder})"
        ),
        "columns": "; ".join(
            f"{role} from {' and '.join(repr(name) for name in names)}"
            for role, names in report.columns.items()
        ),
        "questions": (
            f"{report.rows['train']:,} train, {report.rows['dev']:,} dev; rows that share "
            f"{_kinds(report.kept_together)} stay together ({counted(report.groups, 'group')})"
        ),
        "gold passages": (
            "none: no column names a source, so retrieval cannot be measured by labels"
            if gold is None
            else f"for {gold.found:,} of {gold.rows:,} rows that name a source, "
            f"{gold.passages_per_row:.1f} a row; for evaluation only"
        ),
    }
    if report.columns_unused:
        facts["columns"] += f"; not read: {', '.join(repr(name) for name in report.columns_unused)}"
    if report.unreadable:
        facts["documents"] += f", {len(report.unreadable):,} unreadable"
    return facts


def warnings(report: BuildReport) -> list[str]:
    """What a user should look at, a sentence each."""
    found = [f"not read: {text}" for text in report.unreadable]
    if report.rows_left_out:
        found.append(
            f"{counted(len(report.rows_left_out), 'row')} of the table left out: "
            f"{_first(report.rows_left_out)}"
        )
    if report.gold is not None and report.gold.unknown:
        unknown = [repr(name) for name in report.gold.unknown]
        found.append(
            f"{counted(len(unknown), 'source')} without a document or title of that name: "
            f"{_first(unknown)}"
        )
    return found


def remarks(report: BuildReport) -> list[str]:
    """What was guessed, found twice or passed over, a sentence each."""
    found = list(report.notes)
    if report.copies:
        pairs = [f"{copy} repeats {path}" for copy, path in report.copies.items()]
        found.append(f"{counted(len(pairs), 'document')} left out as copies: {_first(pairs)}")
    if report.repeated_passages:
        found.append(
            f"{counted(report.repeated_passages, 'passage')} left out: title and text are another's"
        )
    if report.same_text:
        found.append(
            f"{counted(report.same_text, 'passage')} with the text of another under a title of "
            "their own; kept"
        )
    if report.boilerplate:
        lines = [f"'{line[:60]}' ({count} documents)" for line, count in report.boilerplate]
        found.append(
            f"lines that many documents share (kept; remove them at their source): {_first(lines)}"
        )
    if report.kinds_left_out:
        kinds = [f"{suffix} ({count:,})" for suffix, count in report.kinds_left_out.items()]
        found.append(f"files of other kinds left out: {_first(kinds)}")
    return found


def readme(report: BuildReport) -> str:
    """The README beside the data."""
    lines = [
        "# A data set for jsarag",
        "",
        "Made by `jsarag data build`, which replaces this folder when it is run again.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(text)} |" for name, text in summary(report).items()),
        "",
    ]
    for head, texts in (("Look at", warnings(report)), ("Notes", remarks(report))):
        if texts:
            lines += [f"## {head}", "", *(f"* {' '.join(text.split())}" for text in texts), ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _kinds(names: Sequence[str]) -> str:
    named = ["a long answer" if name == "answer" else f"a {name}" for name in names]
    return " or ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def _first(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
