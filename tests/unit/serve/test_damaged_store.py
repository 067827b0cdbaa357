"""An index whose files are damaged under a running server: a 503 that names it, never an end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from serve_parts import LetterEncoder, connected, embed_letters

from jsarag.index.flat import FlatIndex
from jsarag.index.store import PassageStore
from jsarag.serve.app import create_app
from jsarag.serve.engine import SearchEngine
from jsarag.types import Passage

COUNT = 2000
ADMIN = {"Authorization": "Bearer admin"}


class Passages(list[Passage]):
    """A knowledge base: passages in order and a digest of them."""

    digest = "d0"


def write_index(folder: Path, generation: int) -> None:
    texts = ["aaa first"] + [f"zzz letters {'z' * 40} {row}" for row in range(1, COUNT - 1)]
    passages = Passages(Passage(f"p{row}", text) for row, text in enumerate([*texts, "bbb last"]))
    vectors = embed_letters([passage.text for passage in passages])
    FlatIndex(vectors, generation).save(folder, passages)


def open_index(folder: Path) -> SearchEngine:
    return SearchEngine(FlatIndex.open(folder), LetterEncoder(), PassageStore(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_index(tmp_path / "index", 1)
    return tmp_path / "index"


@pytest.fixture
def app(folder: Path) -> FastAPI:
    engine = open_index(folder)
    return create_app(
        engine.index,
        engine.encoder,
        engine.passages,
        "tiny",
        admin_key="admin",
        reload=lambda: open_index(folder),
    )


async def search(client: httpx.AsyncClient, query: str) -> httpx.Response:
    return await client.post("/v1/search", json={"queries": query, "k": 1})


def test_a_shortened_store_is_a_503_that_names_it(app: FastAPI, folder: Path) -> None:
    async def talk() -> None:
        async with connected(app, ready=True) as client:
            os.truncate(folder / "passages.jsonl", 70_000)  # in place, as no writer of ours does
            os.truncate(folder / "vectors-00000.bin", 0)
            first, last = await asyncio.gather(search(client, "aaa"), search(client, "bbb"))
            # Its block is whole; who shared a batch with the damaged one is answered.
            assert first.json()["results"][0][0]["id"] == "p0"
            assert last.status_code == 503
            assert last.json()["error_type"] == "unavailable"
            assert (
                "index 'tiny': its passages (passages.jsonl) were damaged" in last.json()["error"]
            )
            assert str(folder) not in last.text
            ready = await client.get("/ready")
            assert ready.status_code == 503
            assert "passages.jsonl" in ready.json()["error"]
            assert (await client.get("/health")).status_code == 200
            # Mended and opened again, it is as before.
            write_index(folder, 2)
            assert (await client.post("/v1/index/reload", headers=ADMIN)).status_code == 200
            assert (await search(client, "bbb")).json()["results"][0][0]["text"] == "bbb last"
            assert (await client.get("/ready")).status_code == 200

    asyncio.run(talk())


@pytest.mark.parametrize("name", ["vectors-00000.bin", "passages.jsonl", "manifest.json"])
def test_a_reload_of_a_damaged_index_leaves_the_old_one_in_use(
    app: FastAPI, folder: Path, name: str
) -> None:
    async def talk() -> None:
        async with connected(app, ready=True) as client:
            write_index(folder, 2)  # renamed into place: the open one is untouched
            path = folder / name
            content = bytearray(path.read_bytes())
            content[4000 if name != "manifest.json" else 20] ^= 1
            path.write_bytes(content)
            refused = await client.post("/v1/index/reload", headers=ADMIN)
            assert refused.status_code == 500
            assert "the old index stays in use" in refused.json()["error"]
            assert name in refused.json()["error"]
            found = (await search(client, "bbb")).json()
            assert found["index"]["generation"] == 1
            assert found["results"][0][0]["id"] == f"p{COUNT - 1}"

    asyncio.run(talk())


def test_zeroed_vectors_are_not_loaded(app: FastAPI, folder: Path) -> None:
    async def talk() -> Any:
        async with connected(app, ready=True) as client:
            path = folder / "vectors-00000.bin"
            path.write_bytes(bytes(path.stat().st_size))
            return await client.post("/v1/index/reload", headers=ADMIN)

    answer = asyncio.run(talk())
    assert answer.status_code == 500
    assert "vectors-00000.bin: expected xxh3_128" in answer.json()["error"]
