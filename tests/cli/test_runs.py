"""``eval``, ``ask``, ``index`` and ``serve-index`` on a small real encoder and real folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jsarag.config.schema import Config
from jsarag.errors import ConfigError
from jsarag.io.run_dir import RunDir
from jsarag_cli.answering import choose_generator, make_example

Cli = Callable[..., Any]

PASSAGES = (
    {"id": "clock", "title": "Tower", "text": "The tower clock needs oil every spring."},
    {"id": "river", "text": "Rivers freeze in winter."},
    {"id": "bread", "text": "Bread rises in a warm oven."},
)


PREDICTION = {
    "id": "q",
    "context": "what needs oil?",
    "answers": ["the clock"],
    "prediction": "bread",
    "gold_passages": ["clock"],
    "passages": [{"id": row["id"], "title": "", "text": row["text"]} for row in PASSAGES[::-1]],
    "metrics": {"generation": {"F1": 0.0}},
}


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PASSAGES), encoding="utf-8")
    return path


class TestEval:
    @pytest.fixture
    def opened(
        self, tmp_path: Path, replace: Callable[..., None], make_scores: Callable[..., Any]
    ) -> dict[str, Any]:
        """Replaces opening and scoring; holds what they were given."""
        from jsarag.eval.evaluate import Evaluation

        given: dict[str, Any] = {}

        def open_run(path: Path, **settings: Any) -> Any:
            given.update(settings, path=path)
            config = SimpleNamespace(eval=SimpleNamespace(split="dev"))
            return SimpleNamespace(run_dir=RunDir(path), config=config, note=None)

        def evaluate_run(run: Any, split: str | None, *, engine: str, progress: Any) -> Evaluation:
            given["engine"] = engine
            progress("search prior", 1, 2)
            result = make_scores(0.25)
            return Evaluation(
                result["retrieval"], result["generation"], "the signature", [PREDICTION], ("left",)
            )

        replace("jsarag.runs", open_run=open_run)
        replace("jsarag.train.evaluation", evaluate_run=evaluate_run)
        (tmp_path / "run").mkdir()
        return given

    def test_json_has_the_stable_keys(self, cli: Cli, opened: dict[str, Any]) -> None:
        ended = cli("eval", "run", "--split", "test", "--json")
        result = ended.json
        assert result["retrieval"]["prior"]["MRR@10"] == 0.25
        assert {"R@1", "R@5", "R@10", "MRR@10"} <= result["retrieval"]["posterior"].keys()
        assert {"EM", "F1", "BLEU-4", "ROUGE-L"} <= result["generation"].keys()
        assert result["signature"] == "the signature"
        assert "search prior (2)" in ended.err

    def test_flags_reach_the_run(self, cli: Cli, opened: dict[str, Any]) -> None:
        cli(
            "eval", "run", "--untrained", "--device", "cpu", "--k", "20", "--no-generation",
            "--set", "eval.bootstrap_samples=100", "--engine", "faiss:Flat",
        )  # fmt: skip
        assert opened["engine"] == "faiss:Flat"
        assert opened["untrained"] is True
        assert opened["device"] == "cpu"
        changed = {setting.key: setting.value for setting in opened["overrides"]}
        assert changed == {
            "eval.k": "20",
            "eval.generation": False,
            "eval.bootstrap_samples": "100",
        }

    @pytest.mark.parametrize(
        ("flags", "folder"),
        [
            ([], "run/eval/dev"),
            (["--split", "test"], "run/eval/test"),
            (["--untrained"], "run/eval/dev-untrained"),
            (["--output", "elsewhere"], "elsewhere"),
        ],
    )
    def test_predictions_are_written_and_the_place_is_told(
        self, cli: Cli, opened: dict[str, Any], flags: list[str], folder: str
    ) -> None:
        ended = cli("eval", "run", *flags)
        assert (Path(folder) / "metrics.json").is_file()
        assert f"{folder}/predictions.jsonl" in ended.out
        assert "the signature" in ended.out
        assert "note: left" in ended.err

    def test_an_unknown_engine_is_refused_before_loading(self, cli: Cli) -> None:
        for command in ("eval", "serve-index"):
            ended = cli(command, "absent", "--engine", "hnsw")
            assert ended.code == 2
            assert "expected one of certified, exact, faiss" in ended.err

    def test_failures_are_shown_where_they_are_asked_for(
        self, cli: Cli, opened: dict[str, Any]
    ) -> None:
        assert "what needs oil?" not in cli("eval", "run").out
        text = cli("eval", "run", "--show-failures").out
        assert "what needs oil?" in text
        assert "clock, at place 3" in text
        record = cli("eval", "run", "--show-failures", "--json").json
        assert [(row["id"], row["rank"]) for row in record["failures"]] == [("q", 3)]
        assert "failures" not in cli("eval", "run", "--json").json

    def test_scores_without_a_value_have_their_row(self, cli: Cli, opened: dict[str, Any]) -> None:
        [line] = [line for line in cli("eval", "run").out.splitlines() if "BLEU-4" in line]
        assert line.split()[-1] == "-"


class TestAsk:
    def test_a_question_alone_is_a_question(self) -> None:
        example = make_example("why?", [])
        assert example.question == "why?"
        assert example.history == ()

    @pytest.mark.parametrize(
        ("history", "speakers"),
        [
            (["Which model?"], ["system", "user"]),
            (["It broke.", "Which model?"], ["user", "system", "user"]),
        ],
    )
    def test_turns_alternate_so_that_the_user_asks(
        self, history: list[str], speakers: list[str]
    ) -> None:
        example = make_example("The red one.", history)
        assert [turn.speaker for turn in example.history] == speakers
        assert [turn.text for turn in example.history] == [*history, "The red one."]
        assert example.question is None

    def test_a_json_list_keeps_its_speakers(self) -> None:
        turns = [{"speaker": "apprentice", "text": "Hi"}, {"speaker": "wizard", "text": "Yes?"}]
        example = make_example("Tell me.", [json.dumps(turns)])
        assert [turn.speaker for turn in example.history] == ["apprentice", "wizard", "apprentice"]

    def test_a_malformed_list_is_named(self, cli: Cli) -> None:
        ended = cli("ask", "run", "why?", "--history", '[{"speaker": "a"}]')
        assert ended.code == 2
        assert "--history" in ended.err

    def test_the_answer_and_its_passages_are_shown(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = {
            "question": "what needs [oil]?",
            "answer": "the [clock]",
            "generator": "smollm2",
            "trained_here": False,
            "logp": None,
            "decoding": "top1",
            "passages": [
                {
                    "id": "clock", "title": "Tower", "text": "word " * 400, "rank": 1,
                    "score": 0.5, "probability": 0.75,
                }
            ],
        }  # fmt: skip
        monkeypatch.setattr("jsarag_cli.answering.answer_question", lambda *a, **k: answer)
        text = cli("ask", "run", "what needs [oil]?").out
        for part in ("what needs [oil]?", "the [clock]", "Tower", "p 0.75", "score 0.500", "..."):
            assert part in text
        assert "answered by smollm2, not trained on this" in text
        assert len(text) < 1500
        assert cli("ask", "run", "what needs [oil]?", "--json").json == answer


class TestWhoAnswers:
    @pytest.fixture
    def loaded(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
        """Names and settings of the generators that were loaded, none of which is real."""
        calls: list[tuple[str, dict[str, Any]]] = []

        class Loaded:
            def to(self, device: str) -> Loaded:
                return self

            def eval(self) -> str:
                return "loaded"

        def load(name: str, **settings: Any) -> Loaded:
            calls.append((name, settings))
            return Loaded()

        monkeypatch.setattr("jsarag.models.load_generator.load_generator", load)
        monkeypatch.setattr("jsarag.models.hub.has_chat_template", lambda name: name != "plain")
        monkeypatch.setattr("jsarag.models.hub.needs_conversion", lambda name: name == "smollm2")
        return calls

    def choose(self, wanted: str, own: str = "copy") -> Any:
        config = Config.model_validate({"generator": {"model": own, "max_passage_tokens": 99}})
        parts = SimpleNamespace(generator="own", device="cpu")
        return choose_generator(SimpleNamespace(config=config, parts=parts), wanted)  # type: ignore[arg-type]

    @pytest.mark.parametrize("there", [True, False])
    def test_auto_prefers_a_language_model(
        self,
        loaded: list[tuple[str, dict[str, Any]]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        there: bool,
    ) -> None:
        monkeypatch.setattr("jsarag.models.gguf.can_convert", lambda: there)
        monkeypatch.setattr(
            "jsarag.models.packaged.PackagedModel.find", lambda self: Path("x") if there else None
        )
        assert self.choose("auto", "owner/model") == "own"
        assert loaded == []
        assert self.choose("auto", "query-likelihood") == ("loaded" if there else "own")
        assert [name for name, _ in loaded] == (["smollm2"] if there else [])
        assert ("converting smollm2" in capsys.readouterr().err) == there

    def test_run_is_the_run_s_own(self, loaded: list[tuple[str, dict[str, Any]]]) -> None:
        assert self.choose("run") == "own"
        assert loaded == []

    def test_a_name_is_asked_as_it_is_used_to(
        self, loaded: list[tuple[str, dict[str, Any]]]
    ) -> None:
        assert self.choose("owner/instruct") == "loaded"
        assert self.choose("plain") == "loaded"
        assert [settings["template"] == "chat" for _, settings in loaded] == [True, False]
        assert {settings["max_passage_tokens"] for _, settings in loaded} == {99}

    def test_generators_made_for_a_run_need_theirs(self) -> None:
        with pytest.raises(ConfigError, match=r"--generator: .*found 'copy'.*--generator run"):
            self.choose("copy")


class TestIndex:
    @pytest.fixture
    def built(self, cli: Cli, kb: Path) -> dict[str, Any]:
        ended = cli("index", "build", "--kb", str(kb), "--output", "idx", "--json")
        assert ended.code == 0, ended.err
        assert "embed passages (3)" in ended.err
        return dict(ended.json)

    def test_it_is_described_verified_and_searched(
        self, cli: Cli, built: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert (built["count"], built["width"], built["dtype"]) == (3, 384, "f32")
        assert built["encoder"]["model"] == "minilm"
        assert cli("index", "info", "idx", "--json").json == built
        assert "minilm" in cli("index", "info", "idx").out
        assert cli("index", "verify", "idx", "--deep", "--json").json["sound"] is True
        served: dict[str, Any] = {}

        def serve(app: Any, host: str, port: int, **settings: Any) -> None:
            served.update(app=app, host=host, port=port, **settings)
            settings["on_listening"]("http://127.0.0.1:9/")

        monkeypatch.setattr("jsarag.serve.run.serve", serve)
        Path("key").write_text("secret\n", encoding="utf-8")
        ended = cli(
            "serve-index", "idx", "--port", "9", "--api-key-file", "key", "--k", "2",
            "--engine", "certified",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        assert "engine certified: the same 10 best passages as exact search" in ended.err
        assert "serving 'notes' with a key at http://127.0.0.1:9/" in ended.err
        _check_answers(served["app"])

    def test_an_index_is_not_replaced_in_silence(
        self, cli: Cli, built: dict[str, Any], kb: Path
    ) -> None:
        build = ("index", "build", "--kb", str(kb), "--output", "idx")
        refused = cli(*build)
        assert refused.code == 2
        assert "--force" in refused.err
        assert "load encoder" not in refused.err
        assert cli(*build, "--force").code == 0

    def test_a_damaged_index_is_named_and_ends_with_4(
        self, cli: Cli, built: dict[str, Any]
    ) -> None:
        [vectors] = Path("idx").glob("vectors-*")
        content = bytearray(vectors.read_bytes())
        content[100] ^= 0xFF
        vectors.write_bytes(content)
        ended = cli("index", "verify", "idx", "--deep")
        assert ended.code == 4
        assert vectors.name in ended.err
        assert cli("index", "verify", "idx", "--json").json["sound"] is True  # sizes still fit

    def test_what_cannot_be_built_is_refused_first(self, cli: Cli, kb: Path) -> None:
        build = ("index", "build", "--output", "idx", "--kb")
        absent = cli(*build, "absent.jsonl")
        assert absent.code == 3
        assert "absent.jsonl" in absent.err
        dtype = cli(*build, str(kb), "--dtype", "fp16")
        assert dtype.code == 2
        assert "f16" in dtype.err
        model = cli(*build, str(kb), "--encoder", "./no-such-model")
        assert model.code == 2
        assert not Path("idx").exists()

    def test_an_index_that_does_not_fit_ends_with_5(
        self, cli: Cli, kb: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jsarag.index.memory.available_memory_bytes", lambda: 1000)
        ended = cli("index", "build", "--kb", str(kb), "--output", "idx")
        assert ended.code == 5
        assert "embed passages" not in ended.err


class TestServe:
    def test_neither_run_nor_index_ends_with_4(self, cli: Cli, tmp_path: Path) -> None:
        ended = cli("serve-index", str(tmp_path))
        assert ended.code == 4
        assert "run.json" in ended.err

    def test_a_public_address_without_a_key_is_refused_before_loading(self, cli: Cli) -> None:
        ended = cli("serve-index", "absent", "--host", "0.0.0.0")
        assert ended.code == 2
        assert "--insecure" in ended.err

    def test_an_index_of_a_run_names_the_run(self, cli: Cli, kb: Path, tmp_path: Path) -> None:
        import torch

        from jsarag.data.knowledge_base import KnowledgeBase
        from jsarag.index.flat import FlatIndex

        folder = tmp_path / "runs" / "one" / "index" / "gen-0"
        folder.parent.mkdir(parents=True)
        (tmp_path / "runs" / "one" / "run.json").write_text("{}", encoding="utf-8")
        FlatIndex(torch.eye(3)).save(folder, KnowledgeBase.read(kb), {"run": "one"})
        ended = cli("serve-index", str(folder))
        assert ended.code == 2
        assert str(tmp_path / "runs" / "one") in ended.err


def _check_answers(app: Any) -> None:
    from fastapi.testclient import TestClient

    with TestClient(app, base_url="http://localhost") as client:
        client.headers["Authorization"] = "Bearer secret"
        body = {"queries": "what does the clock need?", "k": 2}
        answer = client.post("/v1/search", json=body).json()
        assert answer["index"]["name"] == "notes"
        assert answer["results"][0][0]["id"] == "clock"
        assert client.post("/v1/search", json={**body, "k": 3}).status_code == 422
        client.headers.pop("Authorization")
        assert client.post("/v1/search", json=body).status_code == 401
