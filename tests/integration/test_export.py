"""A trained run's parts load in the tools they are for, with the trainer's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.export import verify, write
from jsarag.export.request import FORMATS
from jsarag.train.run import TrainResult
from jsarag_bench.end_to_end import toy_world
from jsarag_cli.main import run as run_cli

Train = Callable[..., TrainResult]
Trained = Callable[[str], Path]
needs_library = pytest.mark.skipif(
    not verify.has_sentence_transformers(), reason="needs jsarag[export]"
)
SHORT = {"train.max_steps": 2, "eval.generation": False}
LANGUAGE_MODEL = {
    **SHORT,
    "generator.model": "tiny",
    "generator.template": "{context}\\n{title} {passage}\\n",
    "generator.lora.rank": 2,
}


@pytest.fixture(scope="module")
def trained(
    toy_folder: Path, toy_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a run of an objective, trained once."""
    base, known = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def run(objective: str) -> Path:
        if objective not in known:
            support = "prior" if objective == "rag" else "kb"
            settings = {**SHORT, "objective.name": objective, "objective.support": support}
            toy_world.train(toy_folder, toy_encoder, base / objective, settings)
            known[objective] = base / objective
        return known[objective]

    return run


@pytest.fixture
def export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """``export(RUN, "--to", ..., dest=...)``: exit code, JSON, what was said."""

    def call(run: Path, *options: str, dest: str = "out") -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = run_cli(["export", str(run), str(tmp_path / dest), *options, "--json", "--quiet"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else {}, said.err

    return call


def test_a_run_embeds_another_knowledge_base(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb = tmp_path / "other.jsonl"
    kb.write_text(json.dumps({"id": "a", "text": "set the dial"}) + "\n", encoding="utf-8")
    index, run = str(tmp_path / "index"), str(trained("jsa"))
    # The run's own index, by the run's name.
    assert run_cli(["index", "verify", run, "--deep"]) == 0
    capsys.readouterr()
    assert run_cli(["index", "info", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == toy_world.NOTES
    build = ["index", "build", "--kb", str(kb), "--output", index, "--encoder", run, "--quiet"]
    assert run_cli(build) == 0, capsys.readouterr().err
    assert run_cli(["index", "verify", index, "--deep"]) == 0
    assert run_cli([*build, "--query-prefix", "other: ", "--force"]) == 2
    assert "leave --query-prefix out" in capsys.readouterr().err


@needs_library
def test_encoders_load_as_sentence_transformers(
    trained: Trained, tmp_path: Path, export: Any
) -> None:
    run = trained("jsa")
    code, result, said = export(run, "--to", "sentence-transformers", "--verify")
    assert code == 0, said
    assert result["verified"] is True
    assert result["parts"] == ["prior", "posterior", "passages"]
    compared = {check["what"] for check in result["checks"]}
    assert {"prior: trainer", "prior: server", "passages: index"} <= compared
    for check in result["checks"]:
        assert check["limit"] is None or check["value"] >= 0.99999
    card = (tmp_path / "out" / "prior" / "README.md").read_text(encoding="utf-8")
    assert "r_at_1" in card
    assert str(tmp_path) not in card
    assert str(run.parent) not in card
    # Again: not over an earlier export, unless that is meant; never over anything else.
    assert export(run, "--to", "sentence-transformers")[0] == 2
    assert export(run, "--to", "sentence-transformers", "--part", "prior", "--force")[0] == 0
    assert (tmp_path / "out" / "modules.json").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    code, _, said = export(run, "--to", "sentence-transformers", "--force", dest="mine")
    assert code == 2
    assert "which would be lost" in said


@needs_library
def test_an_export_that_gives_other_vectors_is_not_left_behind(
    trained: Trained, tmp_path: Path, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = write.write_encoder

    def wrong(encoder: Any, role: Any, folder: Path) -> None:
        right(encoder, role, folder)
        config = folder / "1_Pooling" / "config.json"
        pooling = json.loads(config.read_text())
        pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
        config.write_text(json.dumps(pooling))

    monkeypatch.setattr(write, "write_encoder", wrong)
    code, result, said = export(trained("jsa"), "--to", "sentence-transformers", "--verify")
    assert code == 1
    assert result["verified"] is False
    assert any(not check["passed"] for check in result["checks"])
    assert "lowest cosine" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named(
    trained: Trained, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "has_sentence_transformers", lambda: False)
    code, _, said = export(trained("jsa"), "--to", "sentence-transformers", "--verify")
    assert code == 4
    assert "pip install 'jsarag[export]'" in said
    code, _, _ = export(trained("jsa"), "--to", "sentence-transformers")
    assert code == 0, "writing needs no library"


def test_a_language_model_loads_in_transformers(
    train_toy: Train, tmp_path: Path, export: Any
) -> None:
    run = Path(train_toy("run", LANGUAGE_MODEL).run_dir)
    for dest, more in (("merged", ()), ("adapter", ("--adapter",))):
        code, result, said = export(run, "--to", "hf", "--verify", *more, dest=dest)
        assert code == 0, said
        assert {check["what"] for check in result["checks"]} >= {
            "generator: token ids",
            "generator: log-likelihoods",
        }
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


@pytest.mark.parametrize("shape", FORMATS)
def test_silver_labels_come_in_the_shapes_of_other_trainers(
    trained: Trained, tmp_path: Path, export: Any, shape: str
) -> None:
    code, result, said = export(
        trained("jsa"), "--to", "silver", "--format", shape, "--verify", dest=shape
    )
    assert code == 0, said
    assert result["verified"] is True
    lines = (tmp_path / shape / "silver.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        weights = [found["weight"] for found in row["passages"]]
        assert sum(weights) == pytest.approx(1)
        assert weights == sorted(weights, reverse=True)
        assert not {found["id"] for found in row["passages"]} & set(row["negatives"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--to", "onnx"), "--to: expected one of sentence-transformers, hf, silver"),
        (("--to", "hf"), "expected a run whose generator is a language model"),
        (("--to", "silver"), "--format: expected one of dpr"),
        (("--to", "hf", "--part", "prior"), "--part prior: expected an encoder with"),
        (("--to", "sentence-transformers", "--adapter"), "leave --adapter out"),
        (("--to", "sentence-transformers", "--part", "posterior"), "trains no posterior"),
        (("--to", "silver", "--format", "dpr"), "trains no posterior"),
    ],
)
def test_what_a_run_cannot_give_is_refused_with_a_way_out(
    trained: Trained, tmp_path: Path, export: Any, options: tuple[str, ...], says: str
) -> None:
    code, _, said = export(trained("rag"), *options)
    assert code == 2
    assert says in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_ir_measures_agrees_with_our_scores(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    capsys.readouterr()
    trec = tmp_path / "trec"
    asked = ["eval", str(trained("jsa")), "--output", str(tmp_path / "scores")]
    assert run_cli([*asked, "--trec", str(trec), "--json", "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)["retrieval"]
    names = {"Success@1": "R@1", "Success@5": "R@5", "Success@10": "R@10", "RR@10": "MRR@10"}
    measures = [ir_measures.parse_measure(name) for name in names]
    qrels = list(ir_measures.read_trec_qrels(str(trec / "qrels.txt")))
    for part in ("prior", "posterior"):
        ranking = list(ir_measures.read_trec_run(str(trec / f"run.{part}.txt")))
        found = ir_measures.calc_aggregate(measures, qrels, ranking)
        for measure in measures:
            assert found[measure] == pytest.approx(scores[part][names[str(measure)]], abs=1e-6)
