"""Which files are read, what they are called, and what happens to those that cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.building.documents import read_document, read_documents
from jsarag.errors import BackendUnavailableError, DataError


def test_every_kind_is_read_and_others_are_counted(
    tmp_path: Path, write_pdf: Any, write_docx: Any
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.md").write_text("# Alpha\n\nText of alpha.\n")
    (tmp_path / "b.html").write_text("<h1>Beta</h1><p>Text of beta.</p>")
    (tmp_path / "c.txt").write_text("Text of gamma.\n")
    (tmp_path / "deep/d.rst").write_text("Delta\n=====\n\nText of delta.\n")
    write_pdf(tmp_path / "e.pdf", [["Text of epsilon."]])
    write_docx(tmp_path / "f.docx", [("Title", "Zeta"), ("Normal", "Text of zeta.")])
    (tmp_path / "g.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.md").write_text("no")
    found = read_documents([tmp_path])
    assert [(document.path, document.title) for document in found.read] == [
        ("a.md", "Alpha"),
        ("b.html", "Beta"),
        ("c.txt", "c"),
        ("deep/d.rst", "Delta"),
        ("e.pdf", "e"),
        ("f.docx", "Zeta"),
    ]
    texts = [document.sections[0].blocks[0].text for document in found.read]
    names = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
    assert texts == [f"Text of {name}." for name in names]
    assert found.left_out == {".png": 1}
    assert found.unreadable == []


def test_a_pdf_knows_its_pages_and_joins_its_lines(tmp_path: Path, write_pdf: Any) -> None:
    first = ["A long line that the width of the page has broken, with a hyphen-", "ated word."]
    path = write_pdf(tmp_path / "x.pdf", [first, ["Second page."]])
    (section,) = read_document(path, "x.pdf").sections
    assert [(block.page, block.text) for block in section.blocks] == [
        (1, "A long line that the width of the page has broken, with a hyphenated word."),
        (2, "Second page."),
    ]


def test_word_headings_are_headings(tmp_path: Path, write_docx: Any) -> None:
    paragraphs = [("Title", "Guide"), ("Heading 1", "Returns"), ("Normal", "Thirty days.")]
    document = read_document(write_docx(tmp_path / "x.docx", paragraphs), "x.docx")
    assert document.title_path(document.sections[0]) == ("Guide", "Returns")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.pdf", b"%PDF-1.4 nothing", "cannot be read"),
        ("x.docx", b"PK no archive", "cannot be read"),
        ("x.md", b"\0\1\2", "binary file"),
        ("x.txt", b"\n \n", "holds no text"),
    ],
)
def test_an_unreadable_file_is_named_and_stops_no_other(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"none of 1 documents could be read: {name}: .*{says}"):
        read_documents([tmp_path])
    (tmp_path / "good.md").write_text("Text.")
    found = read_documents([tmp_path])
    assert [document.path for document in found.read] == ["good.md"]
    assert says in str(found.unreadable[0])


def test_a_scan_is_said_to_be_one(tmp_path: Path, write_pdf: Any) -> None:
    with pytest.raises(DataError, match="is it a scan"):
        read_document(write_pdf(tmp_path / "x.pdf", [[]]), "x.pdf")


def test_a_folder_without_documents_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected documents \(.*\.md.*found \.png \(1\)"):
        read_documents([tmp_path])
    with pytest.raises(DataError, match="check the path"):
        read_documents([tmp_path / "none"])


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a.md").write_text("Text.")
    (tmp_path / "x.html").write_text("<p>Text.</p>")
    monkeypatch.setitem(sys.modules, "bs4", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'jsarag\[documents\]'"):
        read_documents([tmp_path])


def test_other_encodings_are_read_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Größe".encode("cp1252"))
    (tmp_path / "b.txt").write_bytes("Größe".encode("utf-16"))
    found = read_documents([tmp_path])
    assert [document.encoding for document in found.read] == ["cp1252", "utf-16"]
    assert {document.sections[0].blocks[0].text for document in found.read} == {"Größe"}


def test_two_places_keep_their_names_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text(f"Text {name}.")
    found = read_documents([tmp_path / "one", tmp_path / "two"])
    assert [document.path for document in found.read] == ["one/a.md", "two/a.md"]
    same = [tmp_path / "one/a.md", tmp_path / "two/a.md"]
    with pytest.raises(DataError, match="give the folder that holds both"):
        read_documents(same)
