"""Vectors that were there before: imported, trained against and searched, and no passage embedded.

The last test runs docs/your-vectors.md as it stands.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.errors import ConfigError, IndexStaleError
from jsarag.index.flat import FlatIndex
from jsarag.io.run_dir import RunDir
from jsarag.models.encoder import TextEncoder, load_encoder
from jsarag.models.prompts import passage_text
from jsarag.train.problem import LiveEmbedder
from jsarag.train.run import TrainResult
from jsarag_cli.main import run as run_here

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your-vectors.md"
SHORT = {"train.max_steps": 3, "eval.generation": False}


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passages every call embeds, for an index or live in a step, from here on.

    Not the few texts the memory probe sends through the prior, whose vectors nobody reads.
    """
    counts: list[int] = []
    embed, live = TextEncoder.embed, LiveEmbedder.__call__

    def counting(self: TextEncoder, texts: Any, role: Any, *values: Any, **more: Any) -> Any:
        if role == "passage":
            counts.append(len(texts))
        return embed(self, texts, role, *values, **more)

    def counting_live(self: LiveEmbedder, rows: Any) -> Any:
        counts.append(len(rows))
        return live(self, rows)

    monkeypatch.setattr(TextEncoder, "embed", counting)
    monkeypatch.setattr(LiveEmbedder, "__call__", counting_live)
    return counts


@pytest.fixture
def toy_index(toy_folder: Path, toy_encoder: Path, tmp_path: Path) -> Path:
    """The toy world's notes, embedded 'elsewhere' and imported."""
    kb = KnowledgeBase.read(toy_folder / "kb.jsonl")
    encoder = load_encoder(str(toy_encoder), max_passage_tokens=24, max_query_tokens=24)
    array = encoder.embed([passage_text(passage) for passage in kb], "passage").numpy()
    np.save(tmp_path / "v.npy", array)
    folder = tmp_path / "index"
    command = ["index", "import", str(tmp_path / "v.npy"), "--kb", str(toy_folder / "kb.jsonl")]
    command += [
        "--encoder",
        str(toy_encoder),
        "--max-passage-tokens",
        "24",
        "--max-context-tokens",
        "24",
    ]
    assert run_here([*command, "--output", str(folder), "--quiet"]) == 0
    return folder


def test_a_run_embeds_nothing_and_trains_the_queries(
    train_toy: Callable[..., TrainResult], toy_index: Path, embedded: list[int]
) -> None:
    result = train_toy("kept", {**SHORT, "index.path": str(toy_index)})
    assert embedded == []
    run_dir = RunDir(result.run_dir)
    assert "24 vectors used as they are, none embedded" in run_dir.events_path.read_text("utf-8")
    kept, given = FlatIndex.open(run_dir.index_path(0)), FlatIndex.open(toy_index)
    assert torch.equal(kept.embeddings, given.embeddings)
    assert kept.generation == 0
    # The same steps with an index of its own come out the same, and there it is embedded.
    own = train_toy("own", SHORT)
    assert sum(embedded) == 24
    assert own.after["retrieval"] == result.after["retrieval"]
    # It goes on from its own copy.
    shutil.rmtree(toy_index)
    embedded.clear()
    more = train_toy("kept", {**SHORT, "train.max_steps": 4, "index.path": str(toy_index)})
    assert more.steps == 4
    assert embedded == []


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (
            {"retriever.max_passage_tokens": 20},
            IndexStaleError,
            "max_passage_tokens is 24, the run's 20 .set retriever.max_passage_tokens",
        ),
        ({"index.dtype": "bf16"}, ConfigError, "expected bf16 vectors, found f32; --set index.dt"),
        ({"train.freeze": "none"}, ConfigError, "index.path: the passage encoder is trained"),
    ],
)
def test_an_index_of_something_else_is_refused(
    train_toy: Callable[..., TrainResult],
    toy_index: Path,
    embedded: list[int],
    settings: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        train_toy("other", {**SHORT, "index.path": str(toy_index), **settings})
    assert embedded == []


def test_an_index_of_other_passages_is_refused(
    train_toy: Callable[..., TrainResult], toy_index: Path, toy_folder: Path
) -> None:
    kb = KnowledgeBase.read(toy_folder / "kb.jsonl")
    index = FlatIndex.open(toy_index)
    other = KnowledgeBase(reversed(kb.passages))
    spec = {**index.spec, "kb_digest": other.digest}
    FlatIndex(index.embeddings.clone(), 0, spec).save(toy_index, other)
    with pytest.raises(IndexStaleError, match=r"kb_digest .*the passages, or their order"):
        train_toy("other", {**SHORT, "index.path": str(toy_index)})


def blocks(language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def page_commands() -> list[list[str]]:
    return [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if line]


@pytest.mark.slow
def test_every_command_of_the_page_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    embedded: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("semantic_text_splitter")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    build, bring, train, serve, *changes, info, export = page_commands()
    assert run_here(build[1:]) == 0
    [program] = blocks("python")
    exec(compile(program, str(PAGE), "exec"), {})
    embedded.clear()
    assert run_here(bring[1:]) == 0
    assert sum(embedded) == 32
    embedded.clear()
    assert run_here(train[1:]) == 0
    assert embedded == []
    assert serve[:2] == ["jsarag", "serve-index"]
    from jsarag.serve.engine import Query
    from jsarag_cli.serving import open_engine

    engine = open_engine(Path(serve[2]), "cpu", "exact", print)[0]
    [answer] = engine.answer([Query("Do I get my money back?", 3)])
    assert any("Returning an order" in hit.title for hit in answer.hits)
    assert embedded == []
    [first, second, *_] = KnowledgeBase.read(tmp_path / "fernly" / "kb.jsonl").passages
    row = {"id": "new", "text": "The sensor may be painted, the vent may not."}
    (tmp_path / "new.jsonl").write_text(json.dumps(row), encoding="utf-8")
    row = {"id": first.id, "text": "Something else."}
    (tmp_path / "changed.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "gone.txt").write_text(second.id, encoding="utf-8")
    for command in changes:
        assert run_here(command[1:]) == 0
    assert embedded == [1, 1]
    capsys.readouterr()
    assert run_here(info[1:]) == 0
    assert "3 (delete of 1, 0 embedded); kept: 2" in capsys.readouterr().out
    assert run_here(export[1:]) == 0
    assert np.load("fernly.npy").shape[1] == 384
