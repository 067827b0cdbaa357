"""A tokeniser made on the spot, and the smallest files of the kinds that need a converter."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

# Without the extra `documents` nothing here can run; `make test` installs it.
for _package in ("semantic_text_splitter", "bs4", "markdownify", "mammoth", "openpyxl", "pypdf"):
    pytest.importorskip(_package)

WritePdf = Callable[[Path, Sequence[Sequence[str]]], Path]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A token a letter pair or so: a word takes several, as with a real tokeniser."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)] + ["é", "ü"]
    common = ("##ing", "##er", "the", "of", "and", "re", "##tion", "##es", "in")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    pieces += [f"##{letter}" for letter in letters] + list(common)
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # As models are published: with a truncation that must not apply to what is counted.
    made.enable_truncation(16)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", model_max_length=512
    )


@pytest.fixture(scope="session")
def write_pdf() -> WritePdf:
    """A PDF of one page per list of lines."""

    def write(path: Path, pages: Sequence[Sequence[str]]) -> Path:
        objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>"]
        kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
        objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
        objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
        for number, lines in enumerate(pages):
            shown = "".join(f"({line}) Tj T* " for line in lines)
            stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown}ET".encode("latin-1")
            font = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792]"
            objects.append(
                f"<< /Type /Page /Parent 2 0 R {font} /Contents {5 + 2 * number} 0 R >>".encode()
            )
            objects.append(b"<< /Length %d >> stream\n%s\nendstream" % (len(stream), stream))
        content, offsets = b"%PDF-1.4\n", []
        for number, item in enumerate(objects, start=1):
            offsets.append(len(content))
            content += b"%d 0 obj\n%s\nendobj\n" % (number, item)
        start = len(content)
        content += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
        content += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
        content += b"trailer << /Size %d /Root 1 0 R >>\n" % (len(objects) + 1)
        path.write_bytes(content + b"startxref\n%d\n%%%%EOF\n" % start)
        return path

    return write


@pytest.fixture(scope="session")
def write_docx() -> Callable[[Path, Sequence[tuple[str, str]]], Path]:
    """A Word document of (style, text) paragraphs; the styles are Title, Heading 1 and Normal."""

    def write(path: Path, paragraphs: Sequence[tuple[str, str]]) -> Path:
        words = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
        packages = "http://schemas.openxmlformats.org/package/2006"
        documents = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
        body = "".join(
            f'<w:p><w:pPr><w:pStyle w:val="{style.replace(" ", "")}"/></w:pPr>'
            f"<w:r><w:t>{text}</w:t></w:r></w:p>"
            for style, text in paragraphs
        )
        styles = "".join(
            f'<w:style w:type="paragraph" w:styleId="{name.replace(" ", "")}">'
            f'<w:name w:val="{name}"/></w:style>'
            for name in ("Title", "Heading 1", "Normal")
        )
        relations = f'<Relationships xmlns="{packages}/relationships">'
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                "[Content_Types].xml",
                f'<Types xmlns="{packages}/content-types">'
                '<Default Extension="xml" ContentType="application/xml"/></Types>',
            )
            archive.writestr(
                "_rels/.rels",
                f'{relations}<Relationship Id="r1" Type="{documents}/officeDocument" '
                'Target="word/document.xml"/></Relationships>',
            )
            archive.writestr(
                "word/_rels/document.xml.rels",
                f'{relations}<Relationship Id="r2" Type="{documents}/styles" '
                'Target="styles.xml"/></Relationships>',
            )
            archive.writestr("word/styles.xml", f'<w:styles xmlns:w="{words}">{styles}</w:styles>')
            archive.writestr(
                "word/document.xml",
                f'<w:document xmlns:w="{words}"><w:body>{body}</w:body></w:document>',
            )
        return path

    return write
