"""``train`` and ``demo``: flags become settings, results go to stdout, ends become exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.config.keys import known_keys
from jsarag.config.load import flag
from jsarag.config.recipes import list_recipes
from jsarag.em.objectives import objective_names
from jsarag.errors import (
    BackendUnavailableError,
    CheckpointError,
    ConfigError,
    DataError,
    GuardError,
    JsaragError,
    MemoryForecastError,
    NumericalError,
    PreemptedError,
)
from jsarag.train.watch import Decision
from jsarag_cli.settings import DEMO_FLAGS, EVAL_FLAGS, TRAIN_FLAGS

Cli = Callable[..., Any]


class TestFlags:
    def test_each_flag_sets_a_setting_that_exists(self) -> None:
        for known in (*TRAIN_FLAGS, *DEMO_FLAGS, *EVAL_FLAGS):
            assert flag(known.key, "none" if not known.switch else True, "test").key == known.key

    def test_the_help_names_every_choice_there_is(self) -> None:
        for known in (*TRAIN_FLAGS, *DEMO_FLAGS, *EVAL_FLAGS):
            choices = known_keys()[known.key].choices
            if known.key == "objective.name":
                choices = objective_names()
            words = set(re.findall(r"[\w-]+", known.help))
            assert set(choices) <= words, known.name

    def test_flags_reach_the_settings_with_their_source(self, cli: Cli, training: Any) -> None:
        ended = cli(
            "train",
            "--dataset",
            "demo",
            "--mis-steps",
            "7",
            "--learning-rate",
            "1e-3",
            "--freeze",
            "prior,passages",
            "--bf16",
            "--set",
            "generator.layers=3",
            "--set",
            "train.seed=9",
        )
        assert ended.code == 0, ended.err
        config, sources = training.resolved.config, training.resolved.sources
        assert config.objective.mis_steps == 7
        assert config.train.learning_rate == 1e-3
        assert config.train.freeze == ["prior", "passages"]
        assert config.train.bf16 is True
        assert config.generator.layers == 3
        assert config.train.seed == 9
        assert sources["objective.mis_steps"] == "flag --mis-steps"
        assert sources["train.bf16"] == "flag --bf16"
        assert sources["generator.layers"] == "--set generator.layers"

    def test_underscores_are_accepted_and_values_keep_theirs(
        self, cli: Cli, training: Any, tmp_path: Path
    ) -> None:
        ended = cli("train", "--dataset", "demo", "--max_steps", "5", "--output_dir", "my_run")
        assert ended.code == 0, ended.err
        assert training.resolved.config.train.max_steps == 5
        assert training.resolved.config.output.output_dir == tmp_path / "my_run"
        assert cli("serve_index", "--help").code == 0

    def test_flag_beats_environment_beats_file_beats_recipe(
        self, cli: Cli, training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "run.yaml"
        file.write_text(
            "recipe: demo\ntrain:\n  seed: 2\n  max_steps: 2\n  batch_size: 2\n", encoding="utf-8"
        )
        monkeypatch.setenv("JSARAG_TRAIN__SEED", "3")
        monkeypatch.setenv("JSARAG_TRAIN__MAX_STEPS", "3")
        assert cli("train", str(file), "--seed", "4").code == 0
        train = training.resolved.config.train
        assert (train.seed, train.max_steps, train.batch_size) == (4, 3, 2)
        assert training.resolved.config.data.dataset == "demo"

    def test_resume_is_handed_on(self, cli: Cli, training: Any) -> None:
        assert cli("train", "--dataset", "demo", "--resume").code == 0
        assert training.resume is True
        assert cli("train", "--dataset", "demo").code == 0
        assert training.resume is False

    def test_resume_reads_the_runs_own_settings(
        self, cli: Cli, training: Any, tmp_path: Path
    ) -> None:
        assert cli("train", "--dataset", "demo", "--k", "3", "--output-dir", "run").code == 0
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        (run / "config.resolved.yaml").write_text(training.resolved.to_yaml(), encoding="utf-8")
        resumed = cli("train", "--resume", "--output-dir", "run", "--max-steps", "7")
        assert resumed.code == 0, resumed.err
        config = training.resolved.config
        assert (config.data.dataset, config.objective.k) == ("demo", 3)
        assert config.train.max_steps == 7
        nothing = cli("train", "--resume", "--output-dir", "elsewhere")
        assert nothing.code == 2
        assert "nothing to run" in nothing.err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--dataset", "demo", "--mis-steps", "many"], "flag --mis-steps"),
            (["--dataset", "demo", "--mis-steps", "0"], "at least 1"),
            (["--dataset", "demo", "--support", "priors"], "did you mean 'prior'"),
            (["--dataset", "demo", "--set", "objective.mis_step=3"], "objective.mis_steps"),
            (["--dataset", "demo", "--set", "objective"], "group.key=value"),
            (["--recipe", "dmo"], "did you mean 'demo'"),
            ([], "nothing to run"),
            (["absent.yaml"], "absent.yaml"),
        ],
    )
    def test_a_wrong_setting_ends_with_2_before_anything_runs(
        self, cli: Cli, training: Any, arguments: list[str], says: str
    ) -> None:
        ended = cli("train", *arguments)
        assert ended.code == 2
        assert ended.out == ""
        assert says in ended.err
        assert training.resolved is None


class TestResults:
    def test_people_get_a_table_and_the_folder(self, cli: Cli, training: Any) -> None:
        ended = cli("train", "--dataset", "demo")
        for text in ("prior R@1", "posterior MRR@10", "0.250", "0.750", "+0.500", "runs/x"):
            assert text in ended.out
        assert "0.70 to 0.80" in ended.out
        assert "4 steps in 1.5 s" in ended.out

    def test_json_is_the_only_thing_on_stdout(self, cli: Cli, training: Any) -> None:
        ended = cli("train", "--dataset", "demo", "--json")
        assert ended.json == {
            "run_dir": "runs/x",
            "before": training.before,
            "after": training.after,
            "seconds": 1.5,
            "steps": 4,
            "generator_forwards": 120,
            "peak_bytes": 1 << 30,
            "kept": None,
        }

    def test_a_run_that_kept_its_start_is_shown_and_fails(self, cli: Cli, training: Any) -> None:
        decision = Decision(kept=0, worse=True, reason="the start is kept; MRR@10 fell")
        training.decision = decision
        ended = cli("train", "--dataset", "demo")
        assert ended.code == 6
        assert "prior R@1" in ended.out
        assert "the start is kept; MRR@10 fell" in ended.err
        assert "Lower --learning-rate" in ended.err
        assert cli("demo").code == 6

    def test_progress_goes_to_stderr_unless_quiet(self, cli: Cli, training: Any) -> None:
        loud = cli("train", "--dataset", "demo", "--json")
        for text in ("embed passages (10)", "index rebuilt", "warning: retrieval collapses"):
            assert text in loud.err
        assert cli("train", "--dataset", "demo", "--json", "--quiet").err == ""

    def test_other_ranks_say_nothing(
        self, cli: Cli, training: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, text in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("MASTER_PORT", "29500")
        assert cli("train", "--dataset", "demo", "--json").err == ""

    def test_demo_gives_before_after_and_seconds(self, cli: Cli, training: Any) -> None:
        ended = cli("demo", "--json", "--max-steps", "3")
        assert ended.json == {
            "before": training.before,
            "after": training.after,
            "seconds": 1.5,
        }
        assert training.resolved.config.data.dataset == "demo"
        assert training.resolved.config.train.max_steps == 3
        assert training.resolved.sources["generator.model"] == "recipe demo"

    def test_demo_shows_the_headline(self, cli: Cli, training: Any) -> None:
        ended = cli("demo")
        for text in ("prior R@1", "prior R@10", "posterior MRR@10", "response F1"):
            assert text in ended.out
        assert "R@5" not in ended.out
        assert "jsarag ask runs/x" in ended.out

    def test_a_run_without_posterior_or_generation_has_its_table(
        self, cli: Cli, training: Any, make_scores: Any
    ) -> None:
        training.before = make_scores(0.5, posterior=False, f1=None)
        training.after = make_scores(0.25, posterior=False, f1=None)
        ended = cli("train", "--dataset", "demo")
        assert ended.code == 0
        assert "-0.250" in ended.out
        assert "posterior" not in ended.out


class TestEnds:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (JsaragError("m"), 1),
            (ConfigError("m"), 2),
            (DataError("m"), 3),
            (BackendUnavailableError("m"), 4),
            (CheckpointError("m"), 4),
            (MemoryForecastError("m"), 5),
            (NumericalError("m"), 6),
            (GuardError("m"), 6),
            (PreemptedError("m"), 75),
            (KeyboardInterrupt(), 130),
        ],
    )
    def test_each_error_has_its_code(
        self, cli: Cli, training: Any, error: BaseException, code: int
    ) -> None:
        training.raises = error
        ended = cli("train", "--dataset", "demo", "--json")
        assert ended.code == code
        assert ended.out == ""
        assert "Traceback" not in ended.err
        last = ended.err.splitlines()[-1]
        assert last == ("warning: interrupted" if code == 130 else "error: m")

    def test_a_bug_is_owned_up_to_and_its_traceback_kept(
        self, cli: Cli, training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        training.raises = RuntimeError("index out of range")
        ended = cli("train", "--dataset", "demo")
        assert ended.code == 1
        assert "error: RuntimeError: index out of range" in ended.err
        assert "Traceback" not in ended.err
        [log] = tmp_path.glob("jsarag-*.log")
        assert str(log) in ended.err
        assert "raise self.raises\nRuntimeError: index out of range" in log.read_text("utf-8")

    @pytest.mark.parametrize("place", [0, 1, 3])
    def test_debug_shows_the_traceback(self, cli: Cli, training: Any, place: int) -> None:
        training.raises = RuntimeError("index out of range")
        arguments = ["train", "--dataset", "demo"]
        arguments.insert(place, "--debug")
        ended = cli(*arguments)
        assert ended.code == 1
        assert "Traceback (most recent call last)" in ended.err


class TestRecipes:
    def test_they_are_listed_with_what_they_want(self, cli: Cli, training: Any) -> None:
        found = {
            item["name"]: item for item in cli("train", "--list-recipes", "--json").json["recipes"]
        }
        assert set(found) == set(list_recipes())
        assert found["sktod"]["retriever"] == "minilm"
        assert "Give the converted folder" in found["sktod"]["about"]
        text = cli("train", "--list-recipes").out
        assert all(name in text for name in list_recipes())
        assert training.resolved is None

    def test_one_without_its_data_says_what_it_wants(self, cli: Cli) -> None:
        ended = cli("train", "--recipe", "sktod", "--dry-run")
        assert ended.code == 3
        assert "SK-TOD" in ended.err
        assert "Give the converted folder: --dataset FOLDER or --data-dir FOLDER" in ended.err
        assert "kb.jsonl" in ended.err


class TestDryRun:
    def test_it_shows_settings_with_sources_and_trains_nothing(
        self, cli: Cli, training: Any
    ) -> None:
        ended = cli("train", "--dataset", "demo", "--seed", "5", "--dry-run")
        assert ended.code == 0, ended.err
        assert "  seed: 5  # flag --seed\n" in ended.out
        assert "# recipe demo" in ended.out
        assert "# default" in ended.out
        assert "1,320" in ended.out
        assert training.resolved is None

    def test_what_it_prints_is_a_configuration(
        self, cli: Cli, training: Any, tmp_path: Path
    ) -> None:
        printed = cli("train", "--dataset", "demo", "--seed", "5", "--dry-run").out
        file = tmp_path / "again.yaml"
        file.write_text(printed, encoding="utf-8")
        assert cli("train", str(file)).code == 0
        assert training.resolved.config.train.seed == 5

    def test_what_is_wrong_with_data_or_models_is_all_that_is_said(
        self, cli: Cli, training: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "bad").mkdir()
        ended = cli("train", "--dataset", "bad", "--dry-run")
        assert (ended.code, ended.out) == (3, "")
        assert "expected kb.jsonl" in ended.err
        ended = cli("train", "--dataset", "demo", "--retriever", "./nowhere", "--dry-run")
        assert (ended.code, ended.out) == (2, "")
        assert "expected a folder with config.json" in ended.err

    def test_settings_that_fit_the_data_are_shown_with_their_reason(
        self, cli: Cli, training: Any, tmp_path: Path
    ) -> None:
        rows = [
            json.dumps({"id": str(n), "question": f"number {n}", "answers": [f"a{n}"]})
            for n in range(68)
        ]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "kb.jsonl").write_text('{"id": "a", "text": "red"}', encoding="utf-8")
        (tmp_path / "mine" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
        given = ("train", "--dataset", "mine", "--generator", "query-likelihood", "--dry-run")
        without = cli(*given)
        assert without.code == 3
        assert "--dev-fraction 0.2" in without.err
        ended = cli(*given, "--dev-fraction", "0.25")
        assert ended.code == 0, ended.err
        assert "  max_steps: 30  # 51 rows\n" in ended.out
        assert "  max_passage_tokens: 8  # 1 passages\n" in ended.out
        assert "train 51, dev 17" in ended.out
        assert "30 steps, 9.4 passes over 51 rows" in ended.err

    def test_json_has_config_sources_and_forecast(self, cli: Cli, training: Any) -> None:
        found = cli("train", "--dataset", "demo", "--dry-run", "--json").json
        assert found["config"]["data"]["dataset"] == "demo"
        assert found["sources"]["generator.model"] == "recipe demo"
        assert found["examples"] == {"train": 700, "dev": 200}
        assert found["forecast"]["vectors_bytes"] == 1320 * 384 * 4
        forecast = found["forecast"]
        assert forecast["available_bytes"] > 0
        assert forecast["chunk_bytes"] > 0
        parts = ("held_bytes", "vectors_bytes", "chunk_bytes")
        counted = sum(forecast[part] for part in parts) + sum(forecast["training_bytes"].values())
        assert forecast["peak_bytes"] == counted

    def test_an_index_that_does_not_fit_ends_with_5(
        self, cli: Cli, training: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jsarag.train.forecast.available_memory_bytes", lambda: 1_200_000)
        ended = cli("train", "--dataset", "demo", "--dry-run")
        assert ended.code == 5
        assert "1,320 passages" in ended.err
