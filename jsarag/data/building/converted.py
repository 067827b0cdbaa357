"""PDF and DOCX as sections: pypdf reads the one, mammoth turns the other into HTML.

What their files are wrapped in (archives, XML, streams) breaks in many ways; here each becomes one
``DataError``.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from jsarag.data.building.extra import need
from jsarag.data.building.markup import Block, Parsed, Section, parse_html
from jsarag.data.building.texts import squeezed
from jsarag.errors import DataError

# What reading a damaged file of either kind may end with.
_BROKEN: tuple[type[Exception], ...] = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(EOFError, RecursionError, NotImplementedError, zipfile.BadZipFile, ExpatError),
)
# The title of a document is above all its headings, which mammoth would take as its equals.
_STYLES = "\n".join(
    f"p[style-name='{style}'] => h{level}:fresh"
    for level, style in enumerate(("Title", *(f"Heading {number}" for number in range(1, 6))), 1)
)
# A line of text that a page's width ended is about as long as the longest; a shorter one ends a
# paragraph. No PDF says where its paragraphs are.
_FULL_LINE = 0.75


def parse_docx(path: Path) -> Parsed:
    """A Word document: its title and heading styles are the sections' headings.

    Raises:
        DataError: it is damaged or no such document.
        BackendUnavailableError: the extra ``documents`` is not installed.
    """
    mammoth = need("mammoth", "to read .docx")
    with _explained(path, _BROKEN), path.open("rb") as file:
        made = mammoth.convert_to_html(
            file,
            style_map=_STYLES,
            # Their bytes would stand in the text.
            convert_image=mammoth.images.img_element(lambda image: {}),
        )
    return parse_html(made.value)


def parse_pdf(path: Path) -> Parsed:
    """The text of a PDF, page after page; each block knows its page.

    Raises:
        DataError: it is damaged, locked or no PDF.
        BackendUnavailableError: the extra ``documents`` is not installed.
    """
    pypdf = need("pypdf", "to read .pdf")
    with _explained(path, (*_BROKEN, pypdf.errors.PyPdfError)), _quiet("pypdf"):
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("is locked by a password; save it without one", path=path)
        pages = [page.extract_text() for page in reader.pages]
        title = squeezed(str(reader.metadata.title or "")) if reader.metadata else ""
    blocks = [
        Block(text, page=number)
        for number, page in enumerate(pages, start=1)
        for text in _paragraphs(page.split("\n"))
    ]
    return Parsed([Section((), blocks)] if blocks else [], title)


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Paragraphs of a page whose lines were broken where its width ended."""
    stripped = [squeezed(line) for line in lines]
    full = _FULL_LINE * max(map(len, stripped), default=0)
    parts: list[str] = []
    for line in [*stripped, ""]:
        if line:
            parts.append(line)
        if parts and len(line) < full:
            # A word that was hyphenated for the line's end is one word again.
            yield re.sub(r"(?<=[a-z])- (?=[a-z])", "", " ".join(parts))
            parts = []


@contextmanager
def _explained(path: Path, broken: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except broken as error:
        reason = squeezed(str(error))[:200] or type(error).__name__
        raise DataError(
            f"cannot be read ({reason}); open it in its own program and save it again", path=path
        ) from error


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's remarks on files it could read all the same out of the log."""
    logger: Any = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
