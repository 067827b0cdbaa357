"""Sphinx's settings; ``make docs`` runs ``pages.py`` first, which lays out what is built here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils.nodes import SkipNode, math, math_block
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))

from pages import PACKAGES  # noqa: E402 - its folder is no package

project = "jsarag"
release = re.search(r'"(.+)"', (ROOT / "jsarag" / "_version.py").read_text(encoding="utf-8"))[1]  # type: ignore[index]
extensions = ["myst_parser", "autoapi.extension", "sphinx.ext.napoleon"]
root_doc = "index"

html_theme = "furo"
html_title = "jsarag"
# The page can be read without the network: the theme brings no fonts, formulas are MathML.
html_math_renderer = "mathml"
html_copy_source = False
highlight_language = "none"  # of what names no language: printed tables, drawings
html_show_sphinx = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

autoapi_dirs = [str(folder) for folder in PACKAGES.values()]
autoapi_root = "api"
autoapi_add_toctree_entry = False
autoapi_keep_files = False
autoapi_member_order = "bysource"
autoapi_options = ["members", "show-module-summary"]
autoapi_python_class_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Numerics", "Shapes"]

# autoapi: optional packages are imported where they are used. Python: docstrings say types in words
# and shapes, which are no names to link.
suppress_warnings = ["autoapi.python_import_resolution", "ref.python"]


# A record's docstring lists its fields: ``name, other: text``, or with a type before the colon.
_FIELD = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*)((?: [^:`]*)?): ")


def setup(app: Sphinx) -> None:
    """Formulas as MathML, which browsers draw themselves; fields of records as lists."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    # Before napoleon, which reads sections.
    app.connect("autodoc-process-docstring", _bars_as_they_are, priority=390)
    app.connect("autodoc-process-docstring", _fields_as_list, priority=400)


def _bars_as_they_are(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """p(h|x) is no reference to a substitution, and a table is shown as it was typed."""
    found: list[str] = []
    table = False
    for line in lines:
        starts = line.startswith("|")
        if starts and not table:
            found += ["::", ""]
        table = starts
        outside = re.split(r"(``.*?``)", line)
        escaped = [
            part.replace("|", r"\|") if not n % 2 else part for n, part in enumerate(outside)
        ]
        found.append(f"    {line}" if starts else "".join(escaped))
    lines[:] = found


def _fields_as_list(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    if what != "class":
        return
    found: list[str] = []
    inside = False
    for line in lines:
        field = _FIELD.match(line)
        if field and (inside or not found or not found[-1].strip()):
            inside = True
            found.append(f"* **{field[1]}**{field[2]}: {line[field.end() :]}")
        elif inside and line.startswith("    "):
            found.append(f"  {line.strip()}")
        else:
            if inside and line.strip():  # a list ends with an empty line
                found.append("")
            inside = False
            found.append(line)
    lines[:] = found


def _inline(translator: HTML5Translator, node: math) -> None:
    translator.body.append(convert(node.astext(), display="inline"))
    raise SkipNode


def _block(translator: HTML5Translator, node: math_block) -> None:
    formula = re.sub(r"\\tag\{(\w+)\}", r"\\qquad (\1)", node.astext())
    translator.body.append(f'<div class="formula">{convert(formula, display="block")}</div>')
    raise SkipNode
