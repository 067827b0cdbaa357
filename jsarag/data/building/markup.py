"""Markdown, HTML, reStructuredText and plain text as sections of plain blocks under headings.

Emphasis, link addresses and tags go, words stay: encoders and generators read text, and an address
takes tokens from it. Which file is what belongs to ``documents``.
"""

from __future__ import annotations

import html as html_entities
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsarag.data.building.extra import need
from jsarag.data.building.texts import squeezed


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list item, table row or piece of code.

    Attributes:
        text: never blank.
        line: 1-based line of the source it begins on; None where the source has no lines.
        joined: follows the block before without a blank line between (list items, table rows).
        page: 1-based page it begins on; None where the source has no pages.
    """

    text: str
    line: int | None = None
    joined: bool = False
    page: int | None = None


@dataclass(slots=True)
class Section:
    """The headings something lies under, outermost first, its blocks, and the last one's line."""

    headings: tuple[str, ...]
    blocks: list[Block] = field(default_factory=list)
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document's sections that hold anything, and what its head calls it ("" if nothing)."""

    sections: Sequence[Section]
    title: str = ""


class _Outline:
    """Collects blocks under the headings met so far."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []
        self.sections = [Section(())]

    def heading(self, level: int, text: str, line: int | None) -> None:
        """Begin a section; headings of its level or below end."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        if text:
            self._open.append((level, text))
        self.sections.append(Section(tuple(title for _, title in self._open), line=line))

    def add(self, text: str, line: int | None, *, joined: bool = False) -> None:
        """A block, unless it is blank."""
        if text.strip():
            self.sections[-1].blocks.append(Block(text.strip("\n").rstrip(), line, joined))

    def filled(self) -> list[Section]:
        """The sections that hold anything; a heading with nothing below it is text itself."""
        found = []
        for section, after in zip(self.sections, [*self.sections[1:], Section(())], strict=True):
            headings = section.headings
            if section.blocks:
                found.append(section)
            elif headings and after.headings[: len(headings)] != headings:
                found.append(Section(headings[:-1], [Block(headings[-1], section.line)]))
        return found


def parse_markdown(text: str, *, with_lines: bool = True) -> Parsed:
    """Markdown (CommonMark and tables) with or without front matter.

    Args:
        text: the document.
        with_lines: keep where each block begins; False where ``text`` was made from something else.
    """
    title, body, offset = _front_matter(text)
    # markdown-it is rich's own dependency, so it is always there.
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    outline = _Outline()
    _walk(tokens, outline, offset if with_lines else None)
    return Parsed(outline.filled(), title)


def parse_plain(text: str) -> Parsed:
    """Plain text: paragraphs between blank lines; lines wrapped by hand are joined."""
    outline = _Outline()
    for line, lines in _paragraphs(text.split("\n")):
        outline.add(_unwrapped(lines), line)
    return Parsed(outline.filled())


def parse_html(content: bytes | str) -> Parsed:
    """HTML: the main part of a page without navigation, scripts and forms.

    Raises:
        BackendUnavailableError: the extra ``documents`` is not installed.
    """
    soups = need("bs4", "to read HTML")
    markdownify = need("markdownify", "to read HTML")
    with warnings.catch_warnings():
        # It warns of XML and of short texts that look like addresses; both are read all the same.
        warnings.simplefilter("ignore")
        soup = soups.BeautifulSoup(content, "html.parser")
    title = squeezed(soup.title.get_text()) if soup.title is not None else ""
    for tag in soup(_NOT_TEXT):
        tag.decompose()
    for link in soup("a", class_=("headerlink", "anchor")):
        link.decompose()
    for head in soup("header"):
        if head.find(re.compile("^h[1-6]$")) is None:
            head.decompose()
    articles = soup("article")
    root = soup.find("main") or soup.find(attrs={"role": "main"})
    root = root or (articles[0] if len(articles) == 1 else None) or soup.body or soup
    made = markdownify.MarkdownConverter(heading_style="ATX", escape_misc=True).convert_soup(root)
    sections = parse_markdown(made, with_lines=False).sections
    # The title of a page mostly repeats its one main heading, and adds the site's name.
    heads = {section.headings[0] for section in sections if section.headings}
    return Parsed(sections, "" if len(heads) == 1 else title)


_NOT_TEXT = (
    *("head", "title", "script", "style", "noscript", "template", "nav", "footer", "aside", "form"),
    *("button", "select", "svg", "iframe", "canvas"),
)


def parse_rst(text: str) -> Parsed:
    """reStructuredText: titles by their underlines, directives reduced to what they say."""
    outline = _Outline()
    levels: list[str] = []
    lines = text.split("\n")
    start = place = 0
    while place < len(lines):
        found = _rst_title(lines, place)
        if found is None:
            place += 1
            continue
        style, title, length = found
        _rst_blocks(lines, start, place, outline)
        if style not in levels:
            levels.append(style)
        outline.heading(levels.index(style) + 1, _rst_inline(title), place + 1)
        place += length
        start = place
    _rst_blocks(lines, start, len(lines), outline)
    return Parsed(outline.filled())


def _front_matter(text: str) -> tuple[str, str, int]:
    """(title, rest, lines cut) of a document that may begin with YAML or TOML between marks."""
    head = re.match(r"(---|\+\+\+)[ \t]*\n(.*?\n)?\1[ \t]*(\n|$)", text, flags=re.DOTALL)
    # Without a key it is a thematic break and ordinary text.
    if head is None or not re.search(r"^\s*[\w-]+\s*[:=]", head[2] or "", flags=re.MULTILINE):
        return "", text, 0
    named = re.search(r"^title\s*[:=]\s*(.+)$", head[2], flags=re.MULTILINE)
    title = named[1].strip().strip("\"'") if named is not None else ""
    return title, text[head.end() :], head[0].count("\n")


def _walk(tokens: Sequence[Any], outline: _Outline, offset: int | None) -> None:
    """Blocks of a markdown-it token stream."""
    row: list[str] | None = None
    mark = ""  # of a list item whose first block is still to come
    follows = False  # whether the block before is a row or item of the same table or list
    for place, token in enumerate(tokens):
        kind = token.type
        line = None if offset is None or token.map is None else token.map[0] + 1 + offset
        if _is_heading(token):
            outline.heading(int(token.tag[1]), squeezed(_inline(tokens[place + 1])), line)
        elif token.level == 0 and kind in ("table_open", "bullet_list_open", "ordered_list_open"):
            follows = False
        elif kind == "list_item_open":
            mark = f"{token.info}. " if token.info else "- "
        elif kind == "tr_open":
            row, row_line = [], line
        elif kind == "tr_close" and row is not None:
            outline.add(" | ".join(row), row_line, joined=follows)
            row, follows = None, True
        elif kind == "inline" and row is not None:
            row.append(squeezed(_inline(token)))
        elif kind == "inline" and not _is_heading(tokens[place - 1]):
            outline.add(mark + _inline(token), line, joined=bool(mark) and follows)
            follows, mark = follows or bool(mark), ""
        elif kind in ("fence", "code_block"):
            outline.add(mark + token.content, line)
            mark = ""
        elif kind == "html_block":
            outline.add(_without_tags(token.content), line)


def _is_heading(token: Any) -> bool:
    return bool(token.type == "heading_open" and token.level == 0)


def _inline(token: Any) -> str:
    """The words of an inline token."""
    parts = []
    for child in token.children or ():
        if child.type in ("softbreak", "hardbreak"):
            parts.append(" " if child.type == "softbreak" else "\n")
        elif child.type == "html_inline":
            parts.append("\n" if re.match(r"<br\b", child.content) else "")
        elif child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
    return "".join(parts)


def _without_tags(text: str) -> str:
    text = re.sub(r"<!--.*?-->|<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return squeezed(html_entities.unescape(re.sub(r"<[^>]*>", " ", text)))


def _paragraphs(lines: Sequence[str], first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """(line of the first, lines) of every run of lines that are not blank."""
    found: list[str] = []
    for number, line in enumerate([*lines, ""], start=first):
        if line.strip():
            found.append(line.replace("\f", "").rstrip())
        elif found:
            yield number - len(found), found
            found = []


def _unwrapped(lines: Sequence[str]) -> str:
    """One paragraph; lines that a wrapped text would have are joined, others stay lines.

    A splitter prefers the end of a line to the end of a sentence, so wrapped lines would be cut in
    the middle of sentences.
    """
    stripped = [line.strip() for line in lines]
    if len(lines) > 1 and all(len(line) >= 50 for line in stripped[:-1]):
        return " ".join(stripped)
    return "\n".join(stripped)


_RST_LINE = re.compile(r"([=\-~^\"'#*+.:_`<>!$%&,/;?@|])\1{2,}\s*$")
_RST_ITEM = re.compile(r"\s*([*+-]|\d+[.)]|#\.)\s+")
# Directives whose indented content is no text for a reader.
_RST_MUTE = (
    *("toctree", "image", "figure", "raw", "contents", "include", "highlight", "meta", "index"),
    *("autoclass", "automodule", "autofunction", "currentmodule", "csv-table", "only"),
)
_RST_SAYS = ("note", "warning", "tip", "important", "versionadded", "rubric", "admonition")


def _rst_title(lines: Sequence[str], place: int) -> tuple[str, str, int] | None:
    """(style, title, lines taken) if a title begins here."""

    def at(number: int) -> str:
        return lines[number].rstrip() if number < len(lines) else ""

    first, second, third = at(place), at(place + 1), at(place + 2)
    if place and lines[place - 1].strip():
        return None
    if _RST_LINE.match(first) and second.strip() and third == first:
        return f"{first[0]}over", second.strip(), 3
    fits = _RST_LINE.match(second) and len(second) >= len(first.strip())
    if first.strip() and not first[0].isspace() and fits and not _RST_LINE.match(first):
        return second[0], first.strip(), 2
    return None


def _rst_blocks(lines: Sequence[str], start: int, end: int, outline: _Outline) -> None:
    """The blocks between two titles."""
    kept: list[str] = []
    muted: int | None = None  # the indent of a directive whose content is left out
    options = False
    for line in lines[start:end]:
        indent = len(line) - len(line.lstrip())
        if muted is not None and (not line.strip() or indent > muted):
            kept.append("")
            continue
        muted = None
        directive = re.match(r"\s*\.\. +([\w:-]+?)::\s*(.*)$", line)
        if directive is not None:
            muted = indent if directive[1] in _RST_MUTE else None
            kept.append(directive[2] if directive[1] in _RST_SAYS else "")
            options = True
            continue
        if re.match(r"\s*\.\.(\s|$)", line):  # a comment, a target, a footnote
            muted = indent
            kept.append("")
            continue
        is_option = options and re.match(r"\s+:[\w-]+:", line) is not None
        options = is_option
        kept.append("" if is_option or _RST_LINE.match(line) else line)
    for number, paragraph in _paragraphs(kept, start + 1):
        items: list[list[str]] = []
        for line in paragraph:
            if not items or _RST_ITEM.match(line):
                items.append([])
            items[-1].append(line.strip())
        for place, item in enumerate(items):
            text = re.sub(r"::$", ":", " ".join(item))
            listed = _RST_ITEM.match(text) is not None
            outline.add(_rst_inline(text), number, joined=listed and place > 0)
            number += len(item)


def _rst_inline(text: str) -> str:
    text = re.sub(r"``(.+?)``", r"\1", text)
    text = re.sub(r"(:[\w:+-]+:)?`([^`<]+?)\s*(<[^`>]*>)?`_{0,2}", r"\2", text)
    return re.sub(r"(?<!\w)(\*{1,2})(\S(?:.*?\S)?)\1(?!\w)", r"\2", text)
