"""A tiny server to talk to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from jsarag.serve.app import create_app
from jsarag.types import Passage

# Test folders are no packages (importlib mode), so helpers are found by path.
sys.path.insert(0, str(Path(__file__).parent))

from serve_parts import TEXTS, LetterEncoder, PlainIndex, embed_letters


@pytest.fixture
def encoder() -> LetterEncoder:
    return LetterEncoder()


@pytest.fixture
def index() -> PlainIndex:
    return PlainIndex(embed_letters(TEXTS))


@pytest.fixture
def passages() -> list[Passage]:
    return [Passage(f"p{row}", text, f"Title {row}") for row, text in enumerate(TEXTS)]


@pytest.fixture
def make_app(
    index: PlainIndex,
    encoder: LetterEncoder,
    passages: list[Passage],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., FastAPI]:
    """``make_app(api_key=..., limits=..., ...)``."""
    monkeypatch.delenv("JSARAG_API_KEY", raising=False)

    def make(**settings: Any) -> FastAPI:
        return create_app(index, encoder, passages, "tiny", **settings)

    return make
