"""Finds the documents of a folder and reads them; one that cannot be read never stops the rest.

Turning their text into sections is ``markup``'s, cutting it into passages ``splitting``'s.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jsarag.data.building.converted import parse_docx, parse_pdf
from jsarag.data.building.markup import (
    Parsed,
    Section,
    parse_html,
    parse_markdown,
    parse_plain,
    parse_rst,
)
from jsarag.data.building.texts import decode, read_bytes
from jsarag.errors import DataError
from jsarag.io.atomic import is_complete

_HTML = (".html", ".htm", ".xhtml")
_PARSERS: Mapping[str, Callable[[str], Parsed]] = {
    **dict.fromkeys((".md", ".markdown", ".mdx"), parse_markdown),
    **dict.fromkeys((".txt", ".text"), parse_plain),
    **dict.fromkeys((".rst",), parse_rst),
}
_CONVERTERS: Mapping[str, Callable[[Path], Parsed]] = {".pdf": parse_pdf, ".docx": parse_docx}
SUFFIXES = frozenset((*_PARSERS, *_HTML, *_CONVERTERS))


@dataclass(frozen=True, slots=True)
class Document:
    """One file that was read.

    Attributes:
        path: relative to the folder given, with slashes; part of the ids of its passages.
        title: its own title, else one made of the file's name.
        sections: those that hold anything, in order.
        encoding: how its bytes were read; "" where a converter did.
    """

    path: str
    title: str
    sections: Sequence[Section]
    encoding: str = ""

    def title_path(self, section: Section) -> tuple[str, ...]:
        """The document's title and the section's headings, none twice in a row."""
        headings = section.headings
        if headings and headings[0].casefold() == self.title.casefold():
            return headings
        return (self.title, *headings)


@dataclass(frozen=True, slots=True)
class Documents:
    """What a folder held.

    Attributes:
        read: in the order of their paths.
        unreadable: what could not be read, each with its file and the reason.
        left_out: files of other kinds, by suffix.
    """

    read: Sequence[Document]
    unreadable: Sequence[DataError]
    left_out: Mapping[str, int]


def read_documents(places: Sequence[Path], *, exclude: Sequence[Path] = ()) -> Documents:
    """Read every document of some folders (with their subfolders) and files.

    Hidden files and folders are passed over, and so are folders that this package wrote.

    Args:
        places: folders and files. Of one folder, paths are relative to it; of several places, they
            begin with the place's name.
        exclude: files and folders that are no documents, such as the questions and the target.

    Raises:
        DataError: a place is missing, two files would get one path, or no file could be read.
        BackendUnavailableError: a package of the extra ``documents`` is missing.
    """
    named, left_out = _find(places, exclude)
    read: list[Document] = []
    unreadable: list[DataError] = []
    for name, path in sorted(named.items()):
        try:
            read.append(read_document(path, name))
        except DataError as error:
            unreadable.append(DataError(error.problem, path=name))
    if not read:
        raise DataError(_nothing(unreadable, left_out), path=", ".join(map(str, places)))
    return Documents(read, unreadable, left_out)


def read_document(path: Path, name: str) -> Document:
    """One file, read by its suffix; an unknown one is taken as plain text.

    Args:
        path: the file.
        name: its relative path, as passages shall know it.

    Raises:
        DataError: it cannot be read or holds no text.
        BackendUnavailableError: a package of the extra ``documents`` is missing.
    """
    suffix = path.suffix.lower()
    encoding = ""
    if suffix in _CONVERTERS:
        parsed = _CONVERTERS[suffix](path)
    else:
        content = read_bytes(path)
        text, encoding = decode(content, path)
        if suffix not in _HTML:
            parsed = _PARSERS.get(suffix, parse_plain)(text)
        # A page says itself what its bytes mean.
        elif encoding in ("utf-8", "utf-16"):
            parsed = parse_html(text)
        else:
            parsed = parse_html(content)
    if not parsed.sections:
        scan = "; is it a scan? Recognise its text first" if suffix == ".pdf" else ""
        raise DataError(f"holds no text{scan}", path=path)
    return Document(name, _title(parsed, path), parsed.sections, encoding)


def _title(parsed: Parsed, path: Path) -> str:
    """A document's title: what its head says, a first heading all sections lie under, its name."""
    if parsed.title:
        return parsed.title
    heads = [section.headings[0] for section in parsed.sections if section.headings]
    if heads and len(set(heads)) == 1:
        return heads[0]
    stem = path.stem
    if stem.lower() in ("index", "readme") and path.resolve().parent.name:
        stem = path.resolve().parent.name
    return " ".join(stem.replace("_", " ").replace("-", " ").split()) or path.name


def _find(
    places: Sequence[Path], exclude: Sequence[Path]
) -> tuple[dict[str, Path], Mapping[str, int]]:
    """Files by relative path, and how many of other kinds there are."""
    unwanted = {path.resolve() for path in exclude}
    named: dict[str, Path] = {}
    left_out: Counter[str] = Counter()
    for place in places:
        if not place.exists():
            raise DataError("expected a folder or file, found none; check the path", path=place)
        if place.is_file():
            found = [(place.name, place)]
        else:
            prefix = f"{place.resolve().name}/" if len(places) > 1 else ""
            found = []
            for path in _files(place, unwanted):
                if path.suffix.lower() in SUFFIXES:
                    found.append((prefix + path.relative_to(place).as_posix(), path))
                else:
                    left_out[path.suffix.lower() or "(no suffix)"] += 1
        for name, path in found:
            if path.resolve() in unwanted:
                continue
            if name in named and named[name].resolve() != path.resolve():
                raise DataError(
                    f"is called '{name}' as {named[name]} is; give the folder that holds both",
                    path=path,
                )
            named[name] = path
    return named, dict(left_out.most_common())


def _files(folder: Path, unwanted: set[Path]) -> Iterator[Path]:
    """Files below a folder that a user put there."""
    for here, folders, files in os.walk(folder):
        base = Path(here)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__"))
            and name != "node_modules"
            and (base / name).resolve() not in unwanted
            and not _is_ours(base / name)
        )
        yield from (
            base / name
            for name in sorted(files)
            if not name.startswith((".", "~$")) and (base / name).resolve() not in unwanted
        )


def _is_ours(folder: Path) -> bool:
    """Whether this package wrote a folder: a data set, or a run with its report."""
    return is_complete(folder) or (folder / "config.resolved.yaml").is_file()


def _nothing(unreadable: Sequence[DataError], left_out: Mapping[str, int]) -> str:
    if unreadable:
        shown = "; ".join(map(str, unreadable[:3]))
        more = f"; and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
        return f"none of {len(unreadable)} documents could be read: {shown}{more}"
    kinds = ", ".join(f"{suffix} ({count})" for suffix, count in list(left_out.items())[:8])
    return (
        f"expected documents ({', '.join(sorted(SUFFIXES))}), found {kinds or 'no file'}; name the "
        "folder they lie in, or a file of another kind by itself to read it as plain text"
    )
