"""The HTTP interface: answers, refusals, probes, metrics, and what happens under load."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from serve_parts import TEXTS, LetterEncoder, PlainIndex, connected

from jsarag.errors import ConfigError, DataError, IndexStaleError
from jsarag.serve.app import create_app
from jsarag.serve.server import Limits
from jsarag.types import Passage

MakeApp = Callable[..., FastAPI]
SMALL = Limits(max_batch=2, max_queries=4, queue_capacity=4, max_query_chars=50, max_k=10)


def run(app: FastAPI, talk: Callable[[httpx.AsyncClient], Any]) -> Any:
    async def session() -> Any:
        async with connected(app) as client:
            return await talk(client)

    return asyncio.run(session())


def post(app: FastAPI, body: Any, **keywords: Any) -> httpx.Response:
    """One request to /v1/search."""
    given = {"content": body} if isinstance(body, bytes | str) else {"json": body}
    response = run(app, lambda client: client.post("/v1/search", **given, **keywords))
    assert isinstance(response, httpx.Response)
    return response


async def until_ready(client: httpx.AsyncClient) -> httpx.Response:
    for _ in range(500):
        response = await client.get("/ready")
        if response.status_code == 200:
            return response
        await asyncio.sleep(0.01)
    raise AssertionError("never ready")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("never happened")


class TestSearch:
    def test_each_query_gets_its_own_passages_best_first(self, make_app: MakeApp) -> None:
        response = post(make_app(), {"queries": list(TEXTS), "k": 2})
        assert response.status_code == 200
        body = response.json()
        assert body["index"] == {"name": "tiny", "generation": 3}
        assert [hits[0]["text"] for hits in body["results"]] == list(TEXTS)
        for hits in body["results"]:
            assert [hit["rank"] for hit in hits] == [1, 2]
            assert hits[0]["score"] == pytest.approx(1.0, abs=1e-5)
            assert hits[0]["score"] > hits[1]["score"]
        assert set(body["timings_ms"]) == {"queue", "encode", "search", "total"}
        assert body["timings_ms"]["total"] >= body["timings_ms"]["encode"] > 0

    def test_one_query_may_be_a_string_and_k_may_exceed_the_passages(
        self, make_app: MakeApp
    ) -> None:
        [hits] = post(make_app(), {"queries": TEXTS[1], "k": 99}).json()["results"]
        assert len(hits) == len(TEXTS)
        assert hits[0] == {
            "id": "p1",
            "score": pytest.approx(1.0, abs=1e-5),
            "rank": 1,
            "title": "Title 1",
            "text": TEXTS[1],
            "meta": {},
        }

    def test_texts_are_left_out_on_request(self, make_app: MakeApp) -> None:
        [hits] = post(make_app(), {"queries": "x", "return_text": False}).json()["results"]
        assert set(hits[0]) == {"id", "score", "rank", "title", "meta"}

    def test_a_single_query_may_be_called_query(self, make_app: MakeApp) -> None:
        one, other = (post(make_app(), {name: "oven", "k": 2}) for name in ("query", "queries"))
        assert one.json()["results"] == other.json()["results"]
        assert post(make_app(), {"query": "oven", "queries": "oven"}).status_code == 422

    def test_a_browser_may_ask_in_its_address_line(self, make_app: MakeApp) -> None:
        def get(asked: dict[str, Any]) -> httpx.Response:
            app = make_app(limits=SMALL)
            response = run(app, lambda client: client.get("/v1/search", params=asked))
            assert isinstance(response, httpx.Response)
            return response

        found = post(make_app(), {"queries": "oven", "k": 2}).json()["results"]
        assert get({"q": "oven", "k": 2}).json()["results"] == found
        for asked, says in (({}, "q"), ({"q": " "}, "blank"), ({"q": "a", "k": 0}, "k")):
            refused = get(asked)
            assert refused.status_code == 422
            assert says in refused.json()["error"]

    def test_hits_carry_what_the_passages_carry(
        self, index: PlainIndex, encoder: LetterEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("JSARAG_API_KEY", raising=False)
        meta = {"source": "a.md", "line": 3, "tags": ["x"]}
        passages = [Passage(f"p{row}", text, meta=meta) for row, text in enumerate(TEXTS)]
        [hits] = post(create_app(index, encoder, passages, "tiny"), {"queries": "x"}).json()[
            "results"
        ]
        assert [hit["meta"] for hit in hits] == [meta] * len(hits)

    def test_different_k_share_a_batch(self, make_app: MakeApp, encoder: LetterEncoder) -> None:
        encoder.gate = threading.Event()

        async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
            await until(encoder.entered.is_set)  # the warm-up holds the worker
            asked = [
                asyncio.create_task(client.post("/v1/search", json={"queries": "oven", "k": k}))
                for k in (1, 3)
            ]
            await asyncio.sleep(0.05)
            assert encoder.gate is not None
            encoder.gate.set()
            return await asyncio.gather(*asked)

        answers = run(make_app(), talk)
        assert [len(answer.json()["results"][0]) for answer in answers] == [1, 3]
        assert encoder.batches == [["warm-up"], ["oven", "oven"]]

    def test_a_large_request_is_split_and_keeps_its_order(
        self, make_app: MakeApp, encoder: LetterEncoder
    ) -> None:
        queries = [TEXTS[number % 3] for number in range(100)]
        body = post(make_app(), {"queries": queries, "k": 1}).json()
        assert [hits[0]["text"] for hits in body["results"]] == queries
        assert max(map(len, encoder.batches)) == Limits().max_batch

    def test_concurrent_clients_get_their_own_answers(self, make_app: MakeApp) -> None:
        async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
            return await asyncio.gather(
                *(
                    client.post("/v1/search", json={"queries": TEXTS[number % 3], "k": 1})
                    for number in range(60)
                )
            )

        for number, answer in enumerate(run(make_app(), talk)):
            assert answer.json()["results"][0][0]["id"] == f"p{number % 3}"


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "says"),
        [
            (b"{not json", 400, "not valid JSON"),
            ({"k": 3}, 422, "queries"),
            ({"queries": []}, 422, "at least one query"),
            ({"queries": "  "}, 422, "blank"),
            ({"queries": ["a", 3]}, 422, "queries"),
            ({"queries": "a", "k": 0}, 422, "k: "),
            ({"queries": "a", "k": "3"}, 422, "k: "),
            ({"queries": "a", "k": True}, 422, "k: "),
            ({"queries": "a", "k": 11}, 422, "at most 10"),
            ({"queries": "a", "n": 3}, 422, "n: "),
            (b'{"queries": "\\ud800 half"}', 422, "surrogate"),
            ([1, 2], 422, "body"),
            ({"queries": ["a"] * 5}, 413, "5 queries"),
            ({"queries": "x" * 51}, 413, "51 characters"),
        ],
    )
    def test_a_wrong_request_is_named(
        self, make_app: MakeApp, body: Any, status: int, says: str
    ) -> None:
        response = post(make_app(limits=SMALL), body, headers={"Content-Type": "application/json"})
        assert response.status_code == status
        assert set(response.json()) == {"error", "error_type"}
        assert says in response.json()["error"]

    @pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
    def test_a_missing_content_type_is_named(self, make_app: MakeApp, kind: str | None) -> None:
        headers = {} if kind is None else {"Content-Type": kind}
        response = post(make_app(), b'{"queries": "a"}', headers=headers)
        assert response.status_code == 415
        assert "Content-Type: application/json" in response.json()["error"]

    def test_a_request_is_limited_in_all_it_asks_for(self, make_app: MakeApp) -> None:
        app = make_app(limits=Limits(max_hits=12))
        assert post(app, {"queries": ["a"] * 4, "k": 3}).status_code == 200
        refused = post(app, {"queries": ["a"] * 5, "k": 3})
        assert refused.status_code == 413
        assert "5 queries for 3 passages each; a request may ask for 12" in refused.json()["error"]

    def test_the_input_is_not_echoed(self, make_app: MakeApp) -> None:
        response = post(make_app(), {"queries": "secret words", "k": "seven words"})
        assert "secret" not in response.text
        assert "seven" not in response.text

    def test_unknown_paths_and_methods(self, make_app: MakeApp) -> None:
        async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
            return [await client.get("/nowhere"), await client.put("/v1/search")]

        missing, method = run(make_app(), talk)
        assert (missing.status_code, missing.json()["error_type"]) == (404, "not_found")
        assert (method.status_code, method.json()["error_type"]) == (405, "method_not_allowed")

    def test_a_body_over_the_limit_is_refused_with_and_without_a_length(
        self, make_app: MakeApp, encoder: LetterEncoder
    ) -> None:
        app = make_app(limits=Limits(max_body_bytes=1000))

        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"queries": "'
            for _ in range(100):
                yield b"x" * 100

        assert post(app, b"x" * 1001).status_code == 413

        async def talk(client: httpx.AsyncClient) -> httpx.Response:
            return await client.post(
                "/v1/search", content=pieces(), headers={"Content-Type": "application/json"}
            )

        response = run(app, talk)
        assert response.status_code == 413
        assert response.json()["error_type"] == "payload_too_large"
        assert all(batch == ["warm-up"] for batch in encoder.batches)

    def test_a_full_queue_answers_429_and_recovers(
        self, make_app: MakeApp, encoder: LetterEncoder
    ) -> None:
        encoder.gate = threading.Event()

        async def talk(client: httpx.AsyncClient) -> tuple[Any, Any, Any]:
            await until(encoder.entered.is_set)
            waiting = asyncio.create_task(client.post("/v1/search", json={"queries": ["a"] * 4}))
            await asyncio.sleep(0.05)
            refused = await client.post("/v1/search", json={"queries": "b"})
            assert encoder.gate is not None
            encoder.gate.set()
            return await waiting, refused, await client.post("/v1/search", json={"queries": "b"})

        first, refused, later = run(make_app(limits=SMALL), talk)
        assert first.status_code == 200
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert "4 queries are waiting" in refused.json()["error"]
        assert later.status_code == 200

    def test_a_failing_encoder_is_a_500_without_details_and_the_next_query_works(
        self, make_app: MakeApp, encoder: LetterEncoder
    ) -> None:
        async def talk(client: httpx.AsyncClient) -> tuple[Any, Any]:
            await until_ready(client)
            encoder.failure = RuntimeError("weights at /secret/path are gone")
            failed = await client.post("/v1/search", json={"queries": "a"})
            encoder.failure = None
            return failed, await client.post("/v1/search", json={"queries": "a"})

        failed, later = run(make_app(), talk)
        assert failed.status_code == 500
        assert failed.json()["error_type"] == "internal_error"
        assert "secret" not in failed.text
        assert later.status_code == 200


class TestKey:
    @pytest.mark.parametrize(
        ("header", "status"),
        [
            (None, 401),
            ("Bearer wrong", 401),
            ("secret", 401),
            ("Basic secret", 401),
            ("Bearer", 401),
            ("Bearer sécret", 401),
            ("Bearer secret", 200),
            ("bearer secret", 200),
        ],
    )
    def test_only_the_key_opens(self, make_app: MakeApp, header: str | None, status: int) -> None:
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        response = post(make_app(api_key="secret"), {"queries": "a"}, headers=headers)
        assert response.status_code == status
        if status == 401:
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert set(response.json()) == {"error", "error_type"}

    def test_nothing_of_an_unauthorised_body_is_read(self, make_app: MakeApp) -> None:
        response = post(make_app(api_key="secret"), b"{not json")
        assert response.status_code == 401

    def test_probes_and_pages_are_open_and_data_is_not(self, make_app: MakeApp) -> None:
        async def talk(client: httpx.AsyncClient) -> dict[str, int]:
            await until_ready(client)
            paths = (
                "/",
                "/health",
                "/ready",
                "/docs",
                "/openapi.json",
                "/info",
                "/metrics",
                "/nowhere",
                "//v1/search",
                "/health/",
                "/v1/../info",
            )
            return {path: (await client.get(path)).status_code for path in paths}

        found = run(make_app(api_key="secret"), talk)
        opened = {path for path, status in found.items() if status == 200}
        assert opened == {"/", "/health", "/ready", "/docs", "/openapi.json"}
        assert {status for path, status in found.items() if path not in opened} == {401}

    def test_the_environment_gives_the_key(
        self,
        index: PlainIndex,
        encoder: LetterEncoder,
        passages: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("JSARAG_API_KEY", "from-environment")
        headers = {"Authorization": "Bearer from-environment"}
        for given, status in ((None, 401), (headers, 200)):
            app = create_app(index, encoder, passages, "tiny")
            assert post(app, {"queries": "a"}, headers=given).status_code == status


class TestHost:
    """Without a key, a name that was made to point here must not read the index."""

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
            ("10.0.0.7:80", 200),
            ("Search.Example", 200),
            ("evil.example", 421),
            ("evil.example:8000", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example", 421),
        ],
    )
    def test_only_known_names_are_answered(self, make_app: MakeApp, host: str, status: int) -> None:
        app = make_app(hosts=["search.example"])
        for path in ("/", "/info", "/health"):
            response = run(app, lambda client, p=path: client.get(p, headers={"Host": host}))
            assert response.status_code == status
        if status == 421:
            assert "--allow-host" in response.json()["error"]

    def test_with_a_key_the_name_is_free(self, make_app: MakeApp) -> None:
        app = make_app(api_key="secret")
        headers = {"Host": "evil.example", "Authorization": "Bearer secret"}
        assert run(app, lambda client: client.get("/info", headers=headers)).status_code == 200


class TestLife:
    def test_ready_waits_for_the_warm_up_and_health_does_not(
        self, make_app: MakeApp, encoder: LetterEncoder
    ) -> None:
        encoder.gate = threading.Event()

        async def talk(client: httpx.AsyncClient) -> tuple[Any, Any, Any]:
            await until(encoder.entered.is_set)
            early, health = await client.get("/ready"), await client.get("/health")
            assert encoder.gate is not None
            encoder.gate.set()
            return early, health, await until_ready(client)

        early, health, late = run(make_app(), talk)
        assert early.status_code == 503
        assert early.json()["error_type"] == "unavailable"
        assert health.json() == {"status": "ok"}
        assert late.json() == {"status": "ready"}

    def test_a_failed_warm_up_is_told_and_searches_are_refused(
        self, make_app: MakeApp, encoder: LetterEncoder
    ) -> None:
        encoder.failure = RuntimeError("no such kernel")

        async def talk(client: httpx.AsyncClient) -> tuple[Any, Any]:
            for _ in range(200):
                ready = await client.get("/ready")
                if "no such kernel" in ready.json()["error"]:
                    break
                await asyncio.sleep(0.01)
            return ready, await client.post("/v1/search", json={"queries": "a"})

        ready, search = run(make_app(), talk)
        assert ready.status_code == 503
        assert "RuntimeError: no such kernel" in ready.json()["error"]
        assert search.status_code == 503

    def test_shutting_down_answers_what_was_accepted(
        self, make_app: MakeApp, encoder: LetterEncoder
    ) -> None:
        app = make_app()
        encoder.gate = threading.Event()

        async def session() -> list[httpx.Response]:
            async with connected(app) as client:
                await until(encoder.entered.is_set)
                asked = [
                    asyncio.create_task(client.post("/v1/search", json={"queries": text, "k": 1}))
                    for text in TEXTS
                ]
                await asyncio.sleep(0.05)
                assert encoder.gate is not None
                threading.Timer(0.1, encoder.gate.set).start()
            return await asyncio.gather(*asked)

        answers = asyncio.run(session())
        assert [answer.json()["results"][0][0]["id"] for answer in answers] == ["p0", "p1", "p2"]

    def test_info_describes_index_and_limits(self, make_app: MakeApp) -> None:
        info = run(make_app(limits=SMALL), lambda client: client.get("/info")).json()
        assert info["name"] == "tiny"
        assert (info["count"], info["width"], info["generation"]) == (3, 26, 3)
        assert info["encoder"] == {"model": "letters"}
        assert info["limits"]["max_k"] == 10

    def test_metrics_count_requests_and_queries(self, make_app: MakeApp) -> None:
        async def talk(client: httpx.AsyncClient) -> str:
            await client.post("/v1/search", json={"queries": ["a", "b"]})
            await client.post("/v1/search", json={"queries": []})
            await client.get("/made/up")
            return (await client.get("/metrics")).text

        text = run(make_app(), talk)
        assert 'jsarag_requests_total{path="/v1/search",status="200"} 1.0' in text
        assert 'jsarag_requests_total{path="/v1/search",status="422"} 1.0' in text
        assert 'jsarag_requests_total{path="other",status="404"} 1.0' in text
        assert "jsarag_queries_total 2.0" in text
        assert "/made/up" not in text


class TestMaking:
    def test_an_encoder_of_another_width_is_refused(
        self, index: PlainIndex, encoder: LetterEncoder, passages: Any
    ) -> None:
        encoder.width = 25
        with pytest.raises(IndexStaleError, match="26, the encoder gives 25"):
            create_app(index, encoder, passages, "tiny")

    def test_missing_passages_are_refused(
        self, index: PlainIndex, encoder: LetterEncoder, passages: Any
    ) -> None:
        with pytest.raises(DataError, match="as many passages as vectors"):
            create_app(index, encoder, passages[:2], "tiny")

    def test_more_passages_than_a_search_can_find_are_refused(self, make_app: MakeApp) -> None:
        make_app(limits=Limits(max_k=2048))
        with pytest.raises(ConfigError, match="--k 5000: expected at most 2048"):
            make_app(limits=Limits(max_k=5000))

    def test_limits_that_contradict_each_other_are_refused(self, make_app: MakeApp) -> None:
        with pytest.raises(ConfigError, match="queue_capacity"):
            make_app(limits=Limits(max_queries=10, queue_capacity=9))
