"""A tiny index and an encoder that can be slow, broken or counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from torch import Tensor

from jsarag.index.flat import IndexScan

TEXTS = ("the clock tower needs oil", "rivers freeze in winter", "bread rises in the oven")


@dataclass(frozen=True)
class Spec:
    """The field of an encoder's spec the server shows."""

    model: str = "letters"


@dataclass
class LetterEncoder:
    """Counts letters; waits for ``gate`` and raises ``failure`` if told to.

    A batch whose first text says 'slow' takes ``slow_s`` seconds.
    """

    width: int = 26
    spec: Spec = field(default_factory=Spec)
    batches: list[list[str]] = field(default_factory=list)
    gate: threading.Event | None = None
    failure: Exception | None = None
    slow_s: float = 0.0
    entered: threading.Event = field(default_factory=threading.Event)

    def weights_digest(self) -> str:
        return "w0"

    def embed(
        self,
        texts: Sequence[str],
        role: Any,
        batch_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        assert role == "query"
        self.batches.append(list(texts))
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(20)
        if "slow" in texts[0]:
            time.sleep(self.slow_s)
        if self.failure is not None:
            raise self.failure
        return embed_letters(texts)


def embed_letters(texts: Sequence[str]) -> Tensor:
    counts = torch.zeros(len(texts), 26)
    for row, text in enumerate(texts):
        for letter in text.lower():
            if "a" <= letter <= "z":
                counts[row, ord(letter) - 97] += 1
    return torch.nn.functional.normalize(counts, dim=1)


class PlainIndex:
    """Exact search in plain torch: serving is tested here, not the index."""

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings
        self.generation = 3
        self.spec: dict[str, Any] = {"model": "letters"}

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    @property
    def width(self) -> int:
        return self.embeddings.shape[1]

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> IndexScan:
        scores, ids = (queries @ self.embeddings.T).topk(min(k, len(self)), dim=1)
        missing = k - ids.shape[1]
        ids = torch.nn.functional.pad(ids, (0, missing), value=-1)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
        return IndexScan(ids, scores, None, self.generation)


@asynccontextmanager
async def connected(app: FastAPI, *, ready: bool = False) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running application (start-up and shut-down included), once it is ready."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        while ready and (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.01)
        yield client


def local_client(app: FastAPI, **options: Any) -> TestClient:
    """A client that asks for ``localhost``: the server refuses other names."""
    return TestClient(app, base_url="http://localhost", **options)
