"""Bytes of unknown origin as text: UTF-8, UTF-16 with its mark, or the Western code pages."""

from __future__ import annotations

import codecs
from pathlib import Path

from jsarag.data.rows import open_bytes
from jsarag.errors import DataError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    with open_bytes(path) as file:
        return file.read()


def decode(content: bytes, path: Path) -> tuple[str, str]:
    """Text with ``\\n`` line ends, and the encoding it was read in.

    What is not UTF-8 is taken as Windows-1252, of which Latin-1's printable part is a subset: a
    wrong guess shows as wrong letters, so callers report every encoding but UTF-8.

    Args:
        content: the file's bytes.
        path: for messages.

    Raises:
        DataError: these bytes are no text.
    """
    if content.startswith(_UTF16):
        encoding = "utf-16"
    elif b"\0" in content:
        raise DataError("expected text, found a binary file; leave it out or convert it", path=path)
    else:
        encoding = "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise DataError(
                f"expected UTF-16 ({error.reason}); save it as UTF-8", path=path
            ) from error
        encoding = "cp1252"
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            encoding = "latin-1"
            text = content.decode(encoding)
        if sum(character < " " and character not in "\t\n\r\f" for character in text):
            raise DataError(
                "expected text, found a binary file; leave it out or convert it", path=path
            ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, "utf-8" if encoding == "utf-8-sig" else encoding


def counted(count: int, noun: str) -> str:
    """A number with its noun: '1 row', '2,000 rows'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def squeezed(text: str) -> str:
    """The text with every run of white space as one space: how texts are compared."""
    return " ".join(text.split())
