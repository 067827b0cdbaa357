"""Lays out the site's pages: the repository's own texts, with links that work there.

    python docs/site/pages.py DEST

README.md becomes the first page; CONTRIBUTING.md, SECURITY.md and CHANGELOG.md have theirs, and
nobody writes them twice. A link to a Python file leads to its page in the reference; a link to
what has no page (C++, tests, rows) becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"jsarag": ROOT / "jsarag", "jsarag_cli": ROOT / "cli" / "jsarag_cli"}
FROM_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
# In reading order; a page of docs/ that is named nowhere follows in the first section.
SECTIONS = {
    "Use": (
        "tutorial",
        "your-vectors",
        "python",
        "formats",
        "settings",
        "serving",
        "export",
        "parallel",
    ),
    "Judge": ("results", "diagnose", "gpu"),
    "Understand": ("math", "design"),
    "Take part": ("contributing", "security", "changelog"),
}
REFERENCE = ("api/jsarag/index", "api/jsarag_cli/index")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def lay_out(folder: Path) -> None:
    """Write all pages, and the pictures, to an empty folder."""
    pages = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    pages |= {name: page for name, page in FROM_ROOT.items() if (ROOT / name).exists()}
    for source, page in pages.items():
        text = relinked((ROOT / source).read_text(encoding="utf-8"), source)
        if page == "index.md":
            text += _contents({Path(name).stem for name in pages.values()} - {"index"})
        (folder / page).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "pictures", folder / "pictures")


def relinked(text: str, source: str) -> str:
    """Markdown with the links a page of the site has.

    Args:
        text: of a file of the repository.
        source: the file, from the repository's root.
    """

    def link(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        path, _, anchor = target.partition("#")
        page = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if page is None:
            return label
        if page.startswith("api/"):  # made later, so named by its document
            return f"{{doc}}`{label.strip('`')} </{page}>`"
        return f"{image}[{label}]({page}{'#' + anchor if anchor else ''})"

    # Every second piece is code between fences, where nothing is a link.
    pieces = _FENCED.split(text)
    return "".join(
        piece if place % 2 else _LINK.sub(link, piece) for place, piece in enumerate(pieces)
    )


def page_of(path: str) -> str | None:
    """The page for a path from the repository's root; None where there is none."""
    if path in FROM_ROOT:
        return FROM_ROOT[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    where = ROOT / path
    for package, folder in PACKAGES.items():
        if where == folder or folder in where.parents:
            parts = where.with_suffix("").relative_to(folder).parts if where != folder else ()
            return "/".join(("api", package, *parts, "index"))
    return None


def _contents(there: set[str]) -> str:
    placed = {stem for stems in SECTIONS.values() for stem in stems}
    lines = []
    for title, stems in SECTIONS.items():
        listed = [stem for stem in stems if stem in there]
        if title == "Use":
            listed += sorted(there - placed)
        lines += ["", "```{toctree}", ":hidden:", f":caption: {title}", "", *listed, "```"]
    lines += ["", "```{toctree}", ":hidden:", ":caption: Reference", "", *REFERENCE, "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    lay_out(destination)
