"""``index insert``, ``update``, ``delete``, ``rebuild`` on the packaged encoder, while served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.models.encoder import TextEncoder
from jsarag_cli.serving import open_engine

Cli = Callable[..., Any]


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every passage text that was embedded, from here on."""
    texts: list[str] = []
    embed = TextEncoder.embed

    def remembering(self: TextEncoder, some: Any, role: Any, *values: Any, **more: Any) -> Any:
        if role == "passage":
            texts.extend(some)
        return embed(self, some, role, *values, **more)

    monkeypatch.setattr(TextEncoder, "embed", remembering)
    return texts


def write(name: str, *rows: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


@pytest.fixture
def index(cli: Cli) -> str:
    kb = write(
        "notes.jsonl",
        {"id": "clock", "title": "Tower", "text": "The tower clock needs oil every spring."},
        {"id": "river", "text": "Rivers freeze in winter."},
        {"id": "bread", "text": "Bread rises in a warm oven."},
    )
    assert cli("index", "build", "--kb", kb, "--output", "idx").code == 0
    return "idx"


def test_only_what_is_new_is_embedded_and_a_server_takes_it_over(
    cli: Cli, index: str, embedded: list[str]
) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from jsarag.serve.app import create_app

    engine = open_engine(Path(index), "cpu", "exact", print)[0]
    app = create_app(
        engine.index,
        engine.encoder,
        engine.passages,
        "notes",
        admin_key="admin",
        reload=lambda: open_engine(Path(index), "cpu", "exact", print)[0],
    )
    with TestClient(app, base_url="http://localhost") as client:

        def search(text: str) -> tuple[int, str]:
            answer = client.post("/v1/search", json={"queries": text, "k": 1}).json()
            return answer["index"]["generation"], answer["results"][0][0]["id"]

        def reload() -> Any:
            key = {"Authorization": "Bearer admin"}
            return client.post("/v1/index/reload", headers=key).json()

        honey = {"id": "honey", "text": "Bees make honey all summer."}
        added = cli("index", "insert", index, write("new.jsonl", honey), "--json")
        assert added.code == 0, added.err
        assert (added.json["count"], added.json["generation"]) == (4, 1)
        assert embedded == ["Bees make honey all summer."]
        assert search("what do bees make?")[0] == 0  # until it is told
        told = reload()
        assert (told["previous_generation"], told["index"]["generation"]) == (0, 1)
        assert search("what do bees make?") == (1, "honey")

        embedded.clear()
        rows = write(
            "changed.jsonl",
            {"id": "river", "text": "Rivers freeze in winter.", "meta": {"page": 7}},
            {"id": "bread", "text": "The ferry leaves when the tide is high."},
        )
        assert cli("index", "update", index, rows).code == 0
        assert embedded == ["The ferry leaves when the tide is high."]
        Path("gone.txt").write_text("honey\n", encoding="utf-8")
        assert cli("index", "delete", index, "gone.txt").code == 0
        told = reload()
        assert (told["previous_generation"], told["index"]["generation"]) == (1, 3)
        assert search("when does the boat leave?") == (3, "bread")

    shown = cli("index", "info", index)
    assert "3 (delete of 1, 0 embedded); kept: 2" in shown.out
    kept = cli("index", "info", index, "--json").json["generations"]
    assert [(one["generation"], one["count"], one["in_use"]) for one in kept] == [
        (2, 4, False),
        (3, 3, True),
    ]
    # What was copied and embedded piece by piece is what embedding all of it gives.
    assert cli("index", "verify", index, "--deep", "--json").json["sound"] is True
    embedded.clear()
    again = cli("index", "rebuild", index, "--json")
    assert again.code == 0, again.err
    assert len(embedded) == 3
    assert again.json["generation"] == 4
    assert again.json["extra"]["change"] == {"operation": "rebuild", "rows": 3, "embedded": 3}


def test_what_does_not_fit_changes_nothing(cli: Cli, index: str, embedded: list[str]) -> None:
    clock = write("clock.jsonl", {"id": "clock", "text": "It stopped."})
    absent = write("absent.jsonl", {"id": "absent", "text": "Not there."})
    for command, says in (
        (("insert", clock), "are in the index already"),
        (("update", absent), "are not in the index"),
        (("delete", absent), "are not in the index"),
    ):
        ended = cli("index", command[0], index, command[1])
        assert ended.code == 3
        assert says in ended.err
    same = write("same.jsonl", {"id": "river", "text": "Rivers freeze in winter."})
    ended = cli("index", "update", index, same)
    assert ended.code == 0
    assert "nothing differs" in ended.err
    assert cli("index", "info", index, "--json").json["generation"] == 0
    assert embedded == []
    refused = cli("index", "rebuild", index, "--output", "other")
    assert refused.code == 2
    assert "--output" in refused.err


def test_an_encoder_that_changed_is_refused(cli: Cli, index: str) -> None:
    from jsarag.io.records import read_record, write_record

    manifest = Path(index) / "manifest.json"
    head = read_record(manifest, fix="")
    head["encoder"]["weights_digest"] = "another"
    write_record(manifest, head)
    ended = cli("index", "insert", index, write("new.jsonl", {"id": "new", "text": "New."}))
    assert ended.code == 4
    assert "weights_digest" in ended.err
    assert "jsarag index rebuild" in ended.err


def test_an_index_of_a_run_is_not_changed(cli: Cli) -> None:
    import torch

    from jsarag.data.knowledge_base import KnowledgeBase
    from jsarag.index.flat import FlatIndex
    from jsarag.types import Passage

    FlatIndex(torch.eye(2)).save(
        "gen-0", KnowledgeBase([Passage("a", "A."), Passage("b", "B.")]), {"run": "one"}
    )
    Path("gone.txt").write_text("a", encoding="utf-8")
    ended = cli("index", "delete", "gen-0", "gone.txt")
    assert ended.code == 2
    assert "belongs to a run ('one')" in ended.err
