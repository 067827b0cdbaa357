"""Other servers' shapes, and reloading behind the admin key."""

from __future__ import annotations

import base64
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from serve_parts import TEXTS, LetterEncoder, PlainIndex, embed_letters, local_client

from jsarag.errors import CheckpointError, ConfigError
from jsarag.serve.engine import SearchEngine
from jsarag.serve.server import Limits
from jsarag.types import Passage

MakeApp = Callable[..., FastAPI]


@pytest.fixture
def client(make_app: MakeApp) -> Iterator[TestClient]:
    with local_client(make_app(compat=["search-r1"], limits=Limits(max_queries=4))) as client:
        yield client


class TestEmbeddings:
    def test_vectors_are_the_encoders_in_order(self, client: TestClient) -> None:
        body = client.post("/v1/embeddings", json={"input": list(TEXTS), "model": "any"}).json()
        assert body["object"] == "list"
        assert body["model"] == "letters"
        assert [item["index"] for item in body["data"]] == [0, 1, 2]
        expected = embed_letters(TEXTS).tolist()
        for item, vector in zip(body["data"], expected, strict=True):
            assert item["object"] == "embedding"
            assert item["embedding"] == pytest.approx(vector)

    def test_base64_holds_the_same_numbers(self, client: TestClient) -> None:
        request = {"input": TEXTS[0], "encoding_format": "base64"}
        [item] = client.post("/v1/embeddings", json=request).json()["data"]
        numbers = struct.unpack("<26f", base64.b64decode(item["embedding"]))
        assert list(numbers) == embed_letters([TEXTS[0]])[0].tolist()

    def test_embedding_alone_does_not_search(
        self, client: TestClient, index: PlainIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert client.post("/v1/search", json={"queries": "a"}).status_code == 200
        monkeypatch.setattr(index, "search", None)
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"input": []}, 422),
            ({"input": " "}, 422),
            ({"input": [[1, 2]]}, 422),
            ({"input": "a", "encoding_format": "hex"}, 422),
            ({"input": "a", "dimensions": 3}, 422),
            ({"input": ["a"] * 5}, 413),
        ],
    )
    def test_a_wrong_request_is_refused(
        self, client: TestClient, body: dict[str, Any], status: int
    ) -> None:
        response = client.post("/v1/embeddings", json=body)
        assert response.status_code == status
        assert set(response.json()) == {"error", "error_type"}


class TestSearchR1:
    def test_documents_have_title_and_text(self, client: TestClient) -> None:
        body = client.post("/retrieve", json={"queries": list(TEXTS), "topk": 2}).json()
        assert [len(found) for found in body["result"]] == [2, 2, 2]
        assert body["result"][1][0] == {"id": "p1", "contents": f'"Title 1"\n{TEXTS[1]}'}

    def test_scores_come_when_asked_for(self, client: TestClient) -> None:
        request = {"queries": [TEXTS[0]], "topk": 1, "return_scores": True}
        [[found]] = client.post("/retrieve", json=request).json()["result"]
        assert found["document"]["id"] == "p0"
        assert found["score"] == pytest.approx(1.0, abs=1e-5)

    def test_three_passages_are_the_default(self, client: TestClient) -> None:
        for request in ({"queries": ["a"]}, {"queries": ["a"], "topk": None}):
            [found] = client.post("/retrieve", json=request).json()["result"]
            assert len(found) == 3

    def test_it_is_only_there_when_asked_for(self, make_app: MakeApp) -> None:
        with local_client(make_app()) as client:
            assert client.post("/retrieve", json={"queries": ["a"]}).status_code == 404
        with pytest.raises(ConfigError, match="search-r1"):
            make_app(compat=["elastic"])


class TestReload:
    @pytest.fixture
    def fresh(self) -> SearchEngine:
        index = PlainIndex(embed_letters(["new words"]))
        index.generation = 4
        return SearchEngine(index, LetterEncoder(), [Passage("new", "new words")])

    def test_it_swaps_the_index_and_asks_for_the_admin_key(
        self, make_app: MakeApp, fresh: SearchEngine
    ) -> None:
        app = make_app(api_key="user", admin_key="admin", reload=lambda: fresh)
        with local_client(app, headers={"Authorization": "Bearer user"}) as client:
            assert client.post("/v1/index/reload").status_code == 401
            assert client.get("/info").json()["generation"] == 3
            admin = {"Authorization": "Bearer admin"}
            assert client.get("/info", headers=admin).status_code == 401
            answer = client.post("/v1/index/reload", headers=admin).json()
            assert answer["index"] == {"name": "tiny", "generation": 4}
            assert answer["previous_generation"] == 3
            found = client.post("/v1/search", json={"queries": "new words"}).json()
            assert found["index"]["generation"] == 4
            assert [hit["id"] for hit in found["results"][0]] == ["new"]

    def test_the_old_index_stays_if_the_new_one_is_damaged(self, make_app: MakeApp) -> None:
        def damaged() -> SearchEngine:
            raise CheckpointError("vectors-00000.bin is cut off")

        with local_client(make_app(admin_key="admin", reload=damaged)) as client:
            admin = {"Authorization": "Bearer admin"}
            response = client.post("/v1/index/reload", headers=admin)
            assert response.status_code == 500
            assert "old index stays in use: vectors-00000.bin" in response.json()["error"]
            assert client.post("/v1/search", json={"queries": TEXTS[0]}).status_code == 200
            assert client.post("/v1/index/reload", headers=admin).status_code == 500

    def test_searches_go_on_and_a_second_reload_waits_its_turn(
        self, make_app: MakeApp, fresh: SearchEngine
    ) -> None:
        opening, go = threading.Event(), threading.Event()

        def slow() -> SearchEngine:
            opening.set()
            assert go.wait(20)
            return fresh

        admin = {"Authorization": "Bearer admin"}
        with local_client(make_app(admin_key="admin", reload=slow)) as client:
            answers: list[int] = []

            def ask() -> None:
                answers.append(client.post("/v1/index/reload", headers=admin).status_code)

            thread = threading.Thread(target=ask)
            thread.start()
            assert opening.wait(20)
            assert client.post("/v1/index/reload", headers=admin).status_code == 409
            found = client.post("/v1/search", json={"queries": TEXTS[0]}).json()
            assert found["index"]["generation"] == 3
            go.set()
            thread.join()
            assert answers == [200]

    @pytest.mark.parametrize("generation", [3, 4])
    def test_one_answer_never_mixes_two_indexes(
        self, make_app: MakeApp, encoder: LetterEncoder, fresh: SearchEngine, generation: int
    ) -> None:
        fresh.index.generation = generation  # a folder rewritten in place keeps its number
        app = make_app(admin_key="admin", reload=lambda: fresh, limits=Limits(max_batch=1))
        admin = {"Authorization": "Bearer admin"}
        with local_client(app) as client:
            while client.get("/ready").status_code != 200:
                time.sleep(0.01)
            encoder.entered.clear()
            encoder.gate = threading.Event()
            answers: list[Any] = []

            def ask() -> None:
                request = {"queries": ["oven"] * 3, "k": 1}
                answers.append(client.post("/v1/search", json=request).json())

            thread = threading.Thread(target=ask)
            thread.start()
            assert encoder.entered.wait(20)  # the old engine computes the first batch
            assert client.post("/v1/index/reload", headers=admin).status_code == 200
            encoder.gate.set()
            thread.join()
        assert answers[0]["index"]["generation"] == generation
        assert [hits[0]["id"] for hits in answers[0]["results"]] == ["new"] * 3

    def test_a_failed_start_is_mended(
        self, make_app: MakeApp, encoder: LetterEncoder, fresh: SearchEngine
    ) -> None:
        encoder.failure = RuntimeError("no such kernel")
        with local_client(make_app(admin_key="admin", reload=lambda: fresh)) as client:
            while "no such kernel" not in client.get("/ready").text:
                time.sleep(0.01)
            client.post("/v1/index/reload", headers={"Authorization": "Bearer admin"})
            assert client.get("/ready").status_code == 200
            assert client.post("/v1/search", json={"queries": "a"}).status_code == 200

    @pytest.mark.parametrize("settings", [{}, {"admin_key": "admin"}, {"reload": lambda: None}])
    def test_it_is_not_there_without_key_and_source(
        self, make_app: MakeApp, settings: dict[str, Any]
    ) -> None:
        with local_client(make_app(**settings)) as client:
            admin = {"Authorization": "Bearer admin"}
            assert client.post("/v1/index/reload", headers=admin).status_code == 404
