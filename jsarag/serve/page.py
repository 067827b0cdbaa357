"""The two pages of a server: a search box at ``/`` and the API's description at ``/docs``.

Self-contained: styles and the one script are inlined and allowed by their digests, nothing is
loaded from elsewhere, and the policy forbids everything else. What a page looks like is
``assets/``'s; the search page gets its data from the API like any other client.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from string import Template
from typing import Any

_ASSETS = resources.files(__package__ or "jsarag.serve") / "assets"


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_STYLE, _SCRIPT = _asset("style.css"), _asset("query.js")
_QUERY, _DOCS = Template(_asset("query.html")), Template(_asset("docs.html"))

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_source(_SCRIPT)}",
        f"style-src {_source(_STYLE)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


def query_page(name: str) -> str:
    """The search page; holds no data of the index but its name.

    Args:
        name: what the index is called.
    """
    return _QUERY.substitute(
        title=escape(f"{name} · jsarag"), name=escape(name), style=_STYLE, script=_SCRIPT
    )


def docs_page(name: str, openapi: Mapping[str, Any]) -> str:
    """The API's description as one static page.

    Args:
        name: what the index is called.
        openapi: the OpenAPI 3 document.
    """
    schemas = openapi.get("components", {}).get("schemas", {})
    operations = [
        _operation(method, path, operation, schemas)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    records = [
        _record(title, schema) for title, schema in schemas.items() if schema.get("properties")
    ]
    return _DOCS.substitute(
        title=escape(f"{name} · API"),
        name=escape(name),
        version=escape(str(openapi["info"]["version"])),
        style=_STYLE,
        intro="Requests and answers are JSON. Where the server has a key, send it as "
        "<code>Authorization: Bearer KEY</code>.",
        body="\n".join([*operations, "<h2>Records</h2>", *records]),
    )


def _operation(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    body = _json_schema(operation.get("requestBody", {}))
    parts = [
        f'<h3><span class="verb">{escape(method.upper())}</span>'
        f'<code class="mono">{escape(path)}</code></h3>',
        f"<p>{_prose(operation.get('description') or operation.get('summary', ''))}</p>",
    ]
    if body:
        parts += [f"<h4>Request: {_type(body)}</h4>", _example(method, path, body, schemas)]
    parts += ["<h4>Answers</h4>", _answers(operation.get("responses", {}))]
    return f'<section class="card">{"".join(part for part in parts if part)}</section>'


def _example(method: str, path: str, body: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    examples = schemas.get(_ref_name(body) or "", {}).get("examples", [])
    if not examples:
        return ""
    quoted = json.dumps(examples[0], ensure_ascii=False).replace("'", "'\\''")
    command = (
        f"curl -s -X {method.upper()} http://127.0.0.1:8000{path} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{quoted}'"
    )
    return f"<pre>{escape(command)}</pre>"


def _answers(responses: Mapping[str, Any]) -> str:
    rows = [
        [f"<code>{escape(status)}</code>", escape(answer.get("description", "")), _content(answer)]
        for status, answer in responses.items()
    ]
    return _table(["status", "when", "body"], rows)


def _content(answer: Mapping[str, Any]) -> str:
    schema = _json_schema(answer)
    if schema:
        return _type(schema)
    return ", ".join(escape(kind) for kind in answer.get("content", {}) if "json" not in kind)


def _record(title: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", []))
    rows = [
        [
            f"<code>{escape(name)}</code>",
            _type(field),
            "required" if name in required else _default(field),
            _prose(field.get("description", "")),
        ]
        for name, field in schema["properties"].items()
    ]
    return (
        f'<section class="card" id="{escape(title)}"><h3>{escape(title)}</h3>'
        f"<p>{_prose(schema.get('description', ''))}</p>"
        f"{_table(['field', 'type', 'default', 'meaning'], rows)}</section>"
    )


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field or field["default"] is None:
        return ""
    return f"<code>{escape(json.dumps(field['default']))}</code>"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to records."""
    name = _ref_name(schema)
    if name is not None:
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(choice) for choice in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]:g}" for key, word in _BOUNDS.items() if key in schema]
    return escape(" ".join([_WORDS.get(schema.get("type", ""), "any JSON"), *bounds]))


_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
    "null": "null",
}
_BOUNDS = {"minimum": "from", "maximum": "to"}


def _ref_name(schema: Mapping[str, Any]) -> str | None:
    reference = schema.get("$ref")
    return None if reference is None else str(reference).rpartition("/")[2]


def _json_schema(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = (
        holder.get("content", {}).get("application/json", {}).get("schema", {})
    )
    return schema


def _prose(text: str) -> str:
    """Docstring text: escaped, double backticks become code."""
    pieces = escape(" ".join(text.split())).split("``")
    return "".join(
        f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)
    )


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{word}</th>" for word in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
