"""What each kind of markup becomes: sections under headings, words kept, signs gone."""

from __future__ import annotations

import pytest

from jsarag.data.building.markup import (
    Parsed,
    parse_html,
    parse_markdown,
    parse_plain,
    parse_rst,
)


def shown(parsed: Parsed) -> list[tuple[tuple[str, ...], list[str]]]:
    return [
        (section.headings, [block.text for block in section.blocks]) for section in parsed.sections
    ]


def test_markdown_is_cut_at_its_headings() -> None:
    text = "# Guide\n\nWelcome.\n\n## Returns\n\nWithin *30* days, see\n[the form](http://x/y).\n"
    assert shown(parse_markdown(text)) == [
        (("Guide",), ["Welcome."]),
        (("Guide", "Returns"), ["Within 30 days, see the form."]),
    ]
    lines = [block.line for section in parse_markdown(text).sections for block in section.blocks]
    assert lines == [3, 7]


def test_markdown_lists_tables_and_code_keep_their_words() -> None:
    lists = "- one\n- two\n\n1. first\n2. second\n\n"
    text = f"{lists}| a | b |\n|---|---|\n| c | d |\n\n```\nx = 1\n```\n"
    ((_, blocks),) = shown(parse_markdown(text))
    assert blocks == ["- one", "- two", "1. first", "2. second", "a | b", "c | d", "x = 1"]


def test_front_matter_names_the_document_and_is_no_text() -> None:
    parsed = parse_markdown('---\ntitle: "Returns"\ntags: [a]\n---\n\nText.\n')
    assert parsed.title == "Returns"
    assert shown(parsed) == [((), ["Text."])]
    assert parsed.sections[0].blocks[0].line == 6
    ruled = parse_markdown("---\nNo key here.\n\n---\n")
    assert "No key here." in str(shown(ruled))


def test_a_heading_with_nothing_below_it_is_text() -> None:
    parsed = parse_markdown("# FAQ\n\n## Are socks included?\n\n## And shoes?\n\nNo.\n")
    assert shown(parsed) == [
        (("FAQ",), ["Are socks included?"]),
        (("FAQ", "And shoes?"), ["No."]),
    ]
    assert parsed.sections[0].blocks[0].line == 3


def test_html_gives_its_main_part() -> None:
    page = """<html><head><title>Returns | Shop</title><script>var x</script></head><body>
    <nav>Home Cart</nav><main><h1>Returns</h1><p>Within <b>30</b> days.</p>
    <h2>Socks<a class="headerlink" href="#s">¶</a></h2><p>Never &amp; not once.</p></main>
    <footer>(c) Shop</footer></body></html>"""
    parsed = parse_html(page)
    assert shown(parsed) == [
        (("Returns",), ["Within 30 days."]),
        (("Returns", "Socks"), ["Never & not once."]),
    ]


def test_html_without_a_main_part_keeps_its_title() -> None:
    parsed = parse_html("<title>Prices</title><h1>Cheap</h1><p>One.</p><h1>Dear</h1><p>Two.</p>")
    assert parsed.title == "Prices"
    assert shown(parsed) == [(("Cheap",), ["One."]), (("Dear",), ["Two."])]


def test_rst_titles_directives_and_roles() -> None:
    text = (
        "Guide\n=====\n\n.. _top:\n\nWelcome to :ref:`the shop <top>`.\n\n"
        "Returns\n-------\n\n.. note:: Within 30 days.\n\n   Unworn only.\n\n"
        ".. toctree::\n   :maxdepth: 2\n\n   other\n\n* one\n* two\n"
    )
    assert shown(parse_rst(text)) == [
        (("Guide",), ["Welcome to the shop."]),
        (("Guide", "Returns"), ["Within 30 days.", "Unworn only.", "* one", "* two"]),
    ]


def test_plain_text_joins_lines_that_a_width_broke() -> None:
    wrapped = "A sentence that an editor wrapped at some seventy columns or\nso.\n\nShort\nlines\n"
    assert shown(parse_plain(wrapped)) == [
        (
            (),
            [
                "A sentence that an editor wrapped at some seventy columns or so.",
                "Short\nlines",
            ],
        )
    ]


@pytest.mark.parametrize("parse", [parse_markdown, parse_plain, parse_rst, parse_html])
def test_nothing_gives_nothing(parse: object) -> None:
    assert callable(parse)
    assert parse(" \n\n").sections == []


def test_signs_of_markdown_in_html_are_text() -> None:
    """A page goes through Markdown, where these would be a heading, a link's address and a list."""
    page = "<p># one</p><p>[a]: b</p><p>1. x * y_z &lt;b&gt;</p><pre>x = [1]\n  # y</pre>"
    assert shown(parse_html(page)) == [
        ((), ["# one", "[a]: b", "1. x * y_z <b>", "x = [1]\n  # y"])
    ]
