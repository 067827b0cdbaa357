"""``index import``, on the packaged encoder and files as numpy, pyarrow and FAISS write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jsarag.models.encoder import TextEncoder, load_encoder
from jsarag.types import Passage

Cli = Callable[..., Any]

PASSAGES = [
    Passage("clock", "The tower clock needs oil every spring.", "Tower"),
    Passage("river", "Rivers freeze in winter."),
    Passage("bread", "Bread rises in a warm oven.", "Kitchen"),
    Passage("ferry", "The ferry leaves when the tide is high.", "Harbour"),
    Passage("honey", "Bees make honey all summer. " * 40 + "In autumn they are fed.", "Garden"),
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_encoder("minilm")


@pytest.fixture
def kb(tmp_path: Path) -> str:
    rows = [{"id": one.id, "text": one.text, "title": one.title} for one in PASSAGES]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "kb.jsonl").write_text(text, encoding="utf-8")
    return "kb.jsonl"


@pytest.fixture
def vectors(encoder: TextEncoder) -> Any:
    return embed(encoder)


def embed(encoder: TextEncoder, text: str = "", **settings: Any) -> Any:
    """All passages as another program would have embedded them."""
    from dataclasses import replace

    other = TextEncoder(encoder.model, encoder.tokenizer, replace(encoder.spec, **settings))
    texts = [
        text.format(title=one.title, text=one.text)
        if text
        else (f"{one.title}: {one.text}" if one.title else one.text)
        for one in PASSAGES
    ]
    return other.embed(texts, "passage").numpy()


class TestImport:
    def test_the_index_is_the_one_that_would_have_been_built(
        self, cli: Cli, kb: str, vectors: Any
    ) -> None:
        np.save("v.npy", vectors)
        ended = cli("index", "import", "v.npy", "--kb", kb, "--output", "idx", "--json")
        assert ended.code == 0, ended.err
        assert "5 passages embedded again agree (smallest cosine 1.0000" in ended.err
        assert "embed passages" not in ended.err
        cli("index", "build", "--kb", kb, "--output", "built")
        built = cli("index", "info", "built", "--json").json
        for name in ("count", "width", "dtype", "generation", "encoder"):
            assert ended.json[name] == built[name]
        assert ended.json["extra"]["encoder"] == built["extra"]["encoder"]
        assert ended.json["extra"]["imported"] == {"file": "v.npy", "samples": 5}
        assert cli("index", "verify", "idx", "--deep", "--json").json["sound"] is True
        from jsarag.serve.engine import Query
        from jsarag_cli.serving import open_engine

        [answer] = open_engine(Path("idx"), "cpu", "exact", print)[0].answer(
            [Query("what does the clock need?", 2)]
        )
        assert answer.hits[0].id == "clock"

    def test_ids_beside_the_file_and_unscaled_vectors(
        self, cli: Cli, kb: str, vectors: Any
    ) -> None:
        order = [3, 0, 4, 1, 2]
        np.save("v.npy", vectors[order] * 7)
        Path("ids.txt").write_text("".join(f"{PASSAGES[row].id}\n" for row in order), "utf-8")
        wrong = cli("index", "import", "v.npy", "--kb", kb, "--output", "idx")
        assert wrong.code == 3
        assert "rows in another order (--ids)" in wrong.err
        right = cli("index", "import", "v.npy", "--kb", kb, "--output", "idx", "--ids", "ids.txt")
        assert right.code == 0, right.err
        assert "5 vectors were scaled to length 1" in right.err
        assert cli("index", "verify", "idx", "--deep", "--json").json["sound"] is True

    def test_parquet_and_faiss(self, cli: Cli, kb: str, vectors: Any) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        faiss = pytest.importorskip("faiss")
        from pyarrow import parquet

        ids = [one.id for one in PASSAGES]
        parquet.write_table(
            pyarrow.table({"doc": ids[::-1], "floats": vectors[::-1].tolist()}), "v.parquet"
        )
        columns = ("--id-column", "doc", "--vector-column", "floats", "--dtype", "bf16")
        done = cli("index", "import", "v.parquet", "--kb", kb, "--output", "p", *columns)
        assert done.code == 0, done.err
        assert "bf16" in done.out
        index = faiss.IndexFlatIP(384)
        index.add(vectors)
        faiss.write_index(index, "v.faiss")
        assert cli("index", "import", "v.faiss", "--kb", kb, "--output", "f").code == 0
        for folder in ("p", "f"):
            assert cli("index", "verify", folder, "--deep", "--json").json["sound"] is True

    def test_what_is_exported_is_imported_again(self, cli: Cli, kb: str, vectors: Any) -> None:
        np.save("v.npy", vectors)
        assert cli("index", "import", "v.npy", "--kb", kb, "--output", "idx").code == 0
        done = cli("index", "export", "idx", "out.npy", "--to", "npy", "--json")
        assert done.json == {"files": ["out.npy", "out.npy.ids.json"]}
        refused = cli("index", "export", "idx", "out.npy", "--to", "npy")
        assert refused.code == 2
        assert "--force" in refused.err
        back = ("--ids", "out.npy.ids.json", "--output", "again")
        assert cli("index", "import", "out.npy", "--kb", kb, *back).code == 0
        np.testing.assert_allclose(np.load("out.npy"), vectors, atol=1e-6)

    @pytest.mark.parametrize(
        ("made", "says"),
        [
            ({"passage_prefix": "passage: "}, "--passage-prefix 'passage: '"),
            pytest.param({"pooling": "cls"}, "--pooling cls", marks=pytest.mark.slow),
            pytest.param(
                {"max_passage_tokens": 256}, "--max-passage-tokens 256", marks=pytest.mark.slow
            ),
            pytest.param(
                {"text": "{text}"}, "the text alone of each passage", marks=pytest.mark.slow
            ),
            ({"text": "{title} {text}", "max_passage_tokens": 512}, "'title text' of each"),
        ],
    )
    def test_what_would_fit_is_named(
        self, cli: Cli, kb: str, encoder: TextEncoder, made: dict[str, Any], says: str
    ) -> None:
        np.save("v.npy", embed(encoder, **made))
        ended = cli("index", "import", "v.npy", "--kb", kb, "--output", "idx")
        assert ended.code == 3
        assert "v.npy: not what minilm gives" in ended.err
        assert "They agree with" in ended.err
        assert says in ended.err
        assert not Path("idx").exists()

    def test_what_was_named_is_then_accepted(self, cli: Cli, kb: str, encoder: TextEncoder) -> None:
        made = {"passage_prefix": "passage: ", "max_passage_tokens": 256}
        np.save("v.npy", embed(encoder, **made))
        flags = ("--passage-prefix", "passage: ", "--max-passage-tokens", "256")
        ended = cli("index", "import", "v.npy", "--kb", kb, "--output", "idx", *flags, "--json")
        assert ended.code == 0, ended.err
        assert ended.json["encoder"]["passage_prefix"] == "passage: "
        assert ended.json["encoder"]["max_passage_tokens"] == 256

    def test_another_model_s_vectors_are_refused(self, cli: Cli, kb: str) -> None:
        np.save("v.npy", np.random.default_rng(0).normal(size=(5, 384)).astype(np.float32))
        ended = cli("index", "import", "v.npy", "--kb", kb, "--output", "idx")
        assert ended.code == 3
        assert "variants" in ended.err
        assert "none fits" in ended.err
        np.save("v.npy", np.ones((5, 768), np.float32))
        ended = cli("index", "import", "v.npy", "--kb", kb, "--output", "idx")
        assert ended.code == 3
        assert "expected vectors of 384 numbers, as minilm gives, found 768" in ended.err

    def test_an_index_is_not_replaced_in_silence(self, cli: Cli, kb: str, vectors: Any) -> None:
        np.save("v.npy", vectors)
        command = ("index", "import", "v.npy", "--kb", kb, "--output", "idx")
        assert cli(*command).code == 0
        refused = cli(*command)
        assert refused.code == 2
        assert "--force" in refused.err
        assert cli(*command, "--force").code == 0
