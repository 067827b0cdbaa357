"""``from jsarag import ...``: the names are there, cheap, and refuse what cannot be done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jsarag
from jsarag import Example, Run, Turn, load_data, resolve_settings, save_data
from jsarag.errors import CheckpointError, ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two passages and one row a split."""
    passages = [{"id": "a", "text": "red"}, {"id": "b", "text": "blue"}]
    row = {"id": "q", "question": "which", "answers": ["red"], "gold_passages": ["a"]}
    made = tmp_path / "data"
    made.mkdir()
    for name, rows in {"kb": passages, "train": [row], "dev": [row]}.items():
        (made / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return made


def test_every_name_is_there_and_none_other() -> None:
    for name in jsarag.__all__:
        assert getattr(jsarag, name) is not None
        assert name in dir(jsarag)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        jsarag.fit  # noqa: B018


def test_neither_the_names_nor_reading_data_load_torch() -> None:
    code = (
        "import sys; from jsarag import Run, load_data, save_data, resolve_settings, Example\n"
        "load_data('demo'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd="/").returncode == 0


def test_data_are_read_and_written(folder: Path, tmp_path: Path) -> None:
    data = load_data(folder)
    assert [passage.id for passage in data.kb] == ["a", "b"]
    saved = save_data(data, tmp_path / "copy")
    assert load_data(saved).digest == data.digest
    with pytest.raises(DataError, match=r"expected kb\.jsonl"):
        load_data(folder, splits=("test",))
    with pytest.raises(DataError, match="there is no such folder"):
        load_data("nonesuch")
    with pytest.raises(DataError, match="expected no folder"):
        save_data(data, folder)


class TestSettings:
    def test_they_come_before_the_recipe_and_keep_their_source(self, tmp_path: Path) -> None:
        resolved = resolve_settings(
            "demo", settings={"train.max_steps": 7, "output.output_dir": tmp_path / "run"}
        )
        assert resolved.config.train.max_steps == 7
        assert resolved.sources["train.max_steps"] == "settings['train.max_steps']"
        assert resolved.config.output.output_dir == tmp_path / "run"
        assert resolved.sources["objective.k"] == "recipe demo"

    def test_a_group_may_be_switched_off(self) -> None:
        config = resolve_settings(recipe="nq", settings={"generator.lora": None}).config
        assert config.generator.lora is None

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            (
                {"train.max_step": 3},
                r"settings\['train.max_step'\].*did you mean 'train.max_steps'",
            ),
            ({"train": 3}, "is a group of settings"),
            ({"train.max_steps": -1}, "train.max_steps"),
            ({"objective.support": "all"}, "prior, union, batch"),
        ],
    )
    def test_wrong_ones_are_named(self, settings: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            resolve_settings("demo", settings=settings)
        with pytest.raises(ConfigError, match=says):
            Run.train("demo", settings=settings)

    def test_nothing_to_run(self) -> None:
        with pytest.raises(ConfigError, match="nothing to run"):
            Run.train()


def test_a_run_is_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no run\.json"):
        Run(tmp_path)
    with pytest.raises(CheckpointError, match="expected a run to resume"):
        Run.train("demo", output_dir=tmp_path / "none", resume=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the toy world."""
    from jsarag_bench.end_to_end import toy_world

    data, encoder = (tmp_path_factory.mktemp(name) for name in ("toy", "encoder"))
    toy_world.write_data(data)
    toy_world.write_encoder(encoder)
    settings = {**toy_world.SETTINGS, "retriever.model": encoder, "train.max_steps": 2}
    return Run.train(data, settings=settings, output_dir=tmp_path_factory.mktemp("run") / "r")


class TestTrained:
    def test_training_leaves_its_scores(self, run: Run) -> None:
        assert run.result is not None
        assert run.result.steps == 2
        after = run.result.after["retrieval"]["prior"]
        assert run.evaluate("dev").retrieval["prior"] == after
        assert Run(run.path).result is None

    def test_another_split_is_read_when_it_is_asked_for(self, run: Run) -> None:
        again = Run(run.path)
        assert again.evaluate("train").to_json()["retrieval"]["prior"]["n"] == 72
        assert again.evaluate().to_json()["retrieval"]["prior"]["n"] == 24
        with pytest.raises(DataError, match=r"test\.jsonl"):
            again.evaluate("test")

    def test_search_finds_as_evaluation_does(self, run: Run) -> None:
        rows = load_data(run.opened.config.data.dataset).splits["dev"]
        found = run.search_many(rows, k=3)
        predicted = run.evaluate("dev").predictions
        assert [[hit.id for hit in hits] for hits in found] == [
            [passage["id"] for passage in row["passages"][:3]] for row in predicted
        ]
        question = rows[0].question
        assert question is not None
        alone = run.search(question, k=3)
        assert [(hit.id, hit.rank) for hit in alone] == [(h.id, h.rank) for h in found[0]]
        spoken = Example("d", ("",), history=(Turn("user", question),))
        assert sorted(hit.id for hit in run.search(spoken, k=100)) == [
            f"n{number:02d}" for number in range(24)
        ]
        without = Example("e", ("",), question=question, exclude_passages=(alone[0].id,))
        assert alone[0].id not in [hit.id for hit in run.search(without, k=24)]

    def test_search_refuses_nothing_to_search_for(self, run: Run) -> None:
        with pytest.raises(ConfigError, match="empty text"):
            run.search(" ")
        with pytest.raises(ConfigError, match="expected at least 1, found 0"):
            run.search("the thing", k=0)
        assert run.search_many([]) == []

    def test_export_is_the_command_lines(self, run: Run, tmp_path: Path) -> None:
        done = run.export(tmp_path / "prior", part="prior")
        assert done.parts == ("prior",)
        assert (tmp_path / "prior" / "modules.json").is_file()
        with pytest.raises(ConfigError, match="--to: expected one of"):
            run.export(tmp_path / "other", to="onnx")
        with pytest.raises(ConfigError, match="language model"):
            run.export(tmp_path / "other", to="hf")
