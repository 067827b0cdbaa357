"""The pages: nothing from outside, nothing inline but what the policy names, no markup let in."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI
from serve_parts import local_client

from jsarag.serve.page import CONTENT_SECURITY_POLICY, docs_page, query_page

HOSTILE = '<script>alert("x")</script>&\'"'


class Outline(HTMLParser):
    """Tags with their attributes, and the text inside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.ids: set[str] = set()
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids.update(value for name, value in attrs if name == "id" and value)
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.inline:
            self.inline[self._inside].append(data)


@pytest.fixture
def openapi(make_app: Callable[..., FastAPI]) -> dict[str, Any]:
    return make_app().openapi()


@pytest.fixture
def pages(openapi: dict[str, Any]) -> list[Outline]:
    return [Outline(query_page("tiny")), Outline(docs_page("tiny", openapi))]


def test_the_policy_allows_exactly_what_is_inline(pages: list[Outline]) -> None:
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    for page in pages:
        for kind, texts in page.inline.items():
            for text in texts:
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                assert f"{kind}-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert [len(page.inline["style"]) for page in pages] == [1, 1]
    assert [len(page.inline["script"]) for page in pages] == [1, 0]


def test_nothing_is_loaded_from_elsewhere_and_nothing_acts_inline(pages: list[Outline]) -> None:
    for page in pages:
        for tag, attributes in page.tags:
            assert "src" not in attributes
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")], tag
            href = attributes.get("href") or ""
            # Relative, so that the pages also work behind a proxy's path.
            assert href in ("", "docs", "./", "openapi.json", "data:,") or href.startswith("#")


def test_every_link_inside_the_docs_has_its_target(pages: list[Outline]) -> None:
    _, docs = pages
    targets = {
        href[1:]
        for _, attributes in docs.tags
        if (href := attributes.get("href")) and href.startswith("#")
    }
    assert {"SearchRequest", "SearchResponse", "Problem"} <= targets
    assert targets <= docs.ids


def test_the_script_finds_every_element_it_asks_for() -> None:
    page = Outline(query_page("tiny"))
    [script] = page.inline["script"]
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= page.ids


def test_the_script_never_makes_markup_of_text() -> None:
    [script] = Outline(query_page("tiny")).inline["script"]
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert danger not in script


@pytest.mark.parametrize("make", [query_page, lambda name: docs_page(name, _hostile_openapi())])
def test_names_and_descriptions_are_text(make: Callable[[str], str]) -> None:
    plain, hostile = Outline(make("tiny")), Outline(make(HOSTILE))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.inline["script"] == plain.inline["script"]


def test_the_docs_name_every_public_path_and_field(openapi: dict[str, Any]) -> None:
    text = docs_page("tiny", openapi)
    for path in ("/v1/search", "/info", "/health", "/ready"):
        assert f">{path}<" in text
    for field in ("queries", "k", "return_text", "error_type", "timings_ms"):
        assert f"<code>{field}</code>" in text
    assert "whole number from 1" in text
    assert "who repairs the clock tower?" in text


def test_both_pages_are_served_with_the_policy(make_app: Callable[..., FastAPI]) -> None:
    with local_client(make_app(api_key="secret")) as client:
        for path in ("/", "/docs"):
            response = client.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            assert response.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "secret" not in response.text


def _hostile_openapi() -> dict[str, Any]:
    return {
        "info": {"version": HOSTILE},
        "paths": {f"/{HOSTILE}": {"get": {"description": HOSTILE, "responses": {}}}},
        "components": {
            "schemas": {
                "Record": {
                    "description": HOSTILE,
                    "properties": {HOSTILE: {"default": HOSTILE, "description": HOSTILE}},
                }
            }
        },
    }
