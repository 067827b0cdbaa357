"""Markdown tables, and the blocks between markers that programs own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from jsarag.errors import DataError

_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<name>[\w:.-]+?):begin -->\n)(?P<body>.*?)(?P<end><!-- (?P=name):end -->)",
    re.DOTALL,
)
_MARKER = re.compile(r"<!-- (?P<name>[\w:.-]+?):(?:begin|end) -->")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """A table; ``right`` are the right-aligned columns."""
    lines = [heads, ["--:" if place in right else ":--" for place in range(len(heads))], *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def replace_blocks(text: str, render: Callable[[str], str | None], where: str) -> str:
    """Replace what is between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.

    Args:
        text: the file's.
        render: name -> new content; None leaves a block that belongs to somebody else.
        where: the file, for messages.

    Raises:
        DataError: a block that ``render`` knows has no end, or ends without a beginning.
    """

    def fill(match: re.Match[str]) -> str:
        content = render(match["name"])
        if content is None:
            return match[0]
        return f"{match['begin']}{content.strip()}\n{match['end']}"

    for name in dict.fromkeys(_MARKER.findall(_BLOCK.sub("", text))):
        if render(name) is not None:
            raise DataError(
                f"expected <!-- {name}:begin --> and <!-- {name}:end -->, each on a line, in this "
                "order; found only one of them",
                path=where,
            )
    return _BLOCK.sub(fill, text)


def count(value: int) -> str:
    """With thousands separated."""
    return f"{value:,}"


def block_names(text: str) -> list[str]:
    """Names of the blocks in a file."""
    return [match["name"] for match in _BLOCK.finditer(text)]
