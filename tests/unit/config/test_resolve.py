"""Precedence, sources and the run file: what a user writes is what the run gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jsarag.config.load import (
    Setting,
    flag,
    json_schema,
    load_run_config,
    parse_set,
    resolve,
    resolve_run,
)
from jsarag.config.recipes import list_recipes, recipe_text
from jsarag.config.schema import Config
from jsarag.errors import ConfigError


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_schemas() -> None:
    resolved = resolve(environment={})
    assert resolved.config == Config()
    assert resolved.changed() == []
    assert set(resolved.sources.values()) == {"default"}


def test_each_layer_beats_the_one_before(tmp_path: Path) -> None:
    file = write(tmp_path, "recipe: demo\ntrain:\n  seed: 2\n  max_steps: 20\n  batch_size: 3\n")
    environment = {"JSARAG_TRAIN__SEED": "3", "JSARAG_MAX_STEPS": "30"}
    resolved = resolve(
        file=file, environment=environment, overrides=[flag("train.seed", "4", "flag --seed")]
    )
    train = resolved.config.train
    assert (train.seed, train.max_steps, train.batch_size) == (4, 30, 3)
    assert resolved.config.retriever.max_context_tokens == 64  # the recipe's
    assert resolved.sources["train.seed"] == "flag --seed"
    assert resolved.sources["train.max_steps"] == "environment JSARAG_MAX_STEPS"
    assert resolved.sources["train.batch_size"] == f"{file}:5"
    assert resolved.sources["retriever.max_context_tokens"] == "recipe demo"
    assert resolved.sources["train.clip_norm"] == "default"


def test_a_later_override_wins() -> None:
    settings = [parse_set("train.seed=5"), flag("train.seed", "6", "flag --seed")]
    assert resolve(environment={}, overrides=settings).config.train.seed == 6


def test_the_callers_recipe_beats_the_files(tmp_path: Path) -> None:
    file = write(tmp_path, "recipe: demo\ntrain:\n  seed: 2\n")
    resolved = resolve(recipe="sktod", file=file, environment={})
    assert resolved.config.data.dataset == "sktod"
    assert resolved.config.train.seed == 2


def test_paths_resolve_against_the_file_and_against_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs, elsewhere = tmp_path / "configs", tmp_path / "elsewhere"
    configs.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    text = "data:\n  dataset: ./mine\n  data_dir: official\nretriever:\n  model: owner/name\n"
    text += "generator:\n  model: models/tiny.gguf\n"
    file = write(configs, text)
    resolved = resolve(
        file=file, environment={}, overrides=[flag("output.output_dir", "out", "flag --output-dir")]
    )
    assert resolved.config.data.dataset == str(configs / "mine")
    assert resolved.config.data.data_dir == configs / "official"
    assert resolved.config.retriever.model == "owner/name"  # a hub id is no path
    assert resolved.config.generator.model == str(configs / "models" / "tiny.gguf")
    assert resolved.config.output.output_dir == elsewhere / "out"


@pytest.mark.parametrize("recipe", list_recipes())
def test_the_run_file_reads_back_exactly(recipe: str, tmp_path: Path) -> None:
    first = resolve(recipe=recipe, environment={})
    again = load_run_config(write(tmp_path, first.to_yaml()))
    assert again.config == first.config
    assert "# default" in first.to_yaml()
    assert f"# recipe {recipe}" in first.to_yaml()


def test_awkward_values_survive_the_run_file(tmp_path: Path) -> None:
    overrides = [
        Setting("generator.template", "{title}: # {passage}\n\t{context} é \u2028 'x' \"y\" ", "t"),
        Setting("retriever.query_prefix", "query: ", "t"),
        Setting("retriever.passage_prefix", "no", "t"),
        Setting("generator.model", "null", "t"),
        Setting("data.map", {"answers": "on", "id": "1:30", "text": "none"}, "t"),
        Setting("index.rebuild_every", "0-1000:100,1000-:500", "t"),
        Setting("train.freeze", [], "t"),
        Setting("train.learning_rate", 1e-7, "t"),
        Setting("train.max_seconds", 12.5, "t"),
        Setting("generator.lora.target_modules", ["q", "null"], "t"),
        Setting("objective.k", 10, "t"),
    ]
    first = resolve(environment={}, overrides=overrides)
    again = load_run_config(write(tmp_path, first.to_yaml()))
    assert again.config == first.config
    assert again.config.data.map == {"answers": "on", "id": "1:30", "text": "none"}
    assert again.config.train.learning_rate == 1e-7


def test_a_finished_run_does_not_read_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JSARAG_SEED", "99")
    file = write(tmp_path, resolve(environment={}).to_yaml())
    assert load_run_config(file).config.train.seed == 1
    assert resolve().config.train.seed == 99  # but a new run does


def test_changed_lists_only_what_was_set() -> None:
    resolved = resolve(environment={}, overrides=[parse_set("objective.k=3")])
    assert resolved.changed() == [Setting("objective.k", 3, "--set objective.k")]


# ---------------------------------------------------------------- flags and --set


def test_set_takes_dashes_lists_pairs_and_none() -> None:
    overrides = [
        parse_set("train.batch-size=4"),
        parse_set("train.freeze=passages, prior"),
        parse_set("data.map=answers=Answer,id=qid"),
        parse_set("generator.lora.rank=4"),
        parse_set("train.max_seconds=none"),
        parse_set("train.betas=0.8,0.9"),
        parse_set("train.bf16=true"),
    ]
    config = resolve(recipe="demo", environment={}, overrides=overrides).config
    assert config.train.batch_size == 4
    assert config.train.freeze == ["passages", "prior"]
    assert config.data.map == {"answers": "Answer", "id": "qid"}
    assert config.generator.lora is not None
    assert config.generator.lora.rank == 4
    assert config.train.max_seconds is None
    assert config.train.betas == (0.8, 0.9)
    assert config.train.bf16 is True


@pytest.mark.parametrize(
    "text", ["passages,prior", "[passages, prior]", '["passages", "prior"]', "['passages','prior']"]
)
def test_a_list_may_be_written_as_in_yaml_or_json(text: str) -> None:
    assert parse_set(f"train.freeze={text}").value == ["passages", "prior"]


def test_none_empties_a_list_and_unsets_an_optional_one() -> None:
    overrides = [parse_set("train.freeze=none"), parse_set("generator.lora.target_modules=none")]
    config = resolve(environment={}, overrides=overrides).config
    assert config.train.freeze == []
    assert config.generator.lora is not None
    assert config.generator.lora.target_modules is None


def test_a_group_can_be_switched_off_and_on_again() -> None:
    off = resolve(recipe="nq", environment={}, overrides=[parse_set("generator.lora=none")])
    assert off.config.generator.lora is None
    again = resolve(
        recipe="nq",
        environment={},
        overrides=[parse_set("generator.lora=none"), parse_set("generator.lora.rank=2")],
    )
    assert again.config.generator.lora is not None
    assert again.config.generator.lora.rank == 2
    assert again.config.generator.lora.alpha == 16.0


def test_spaces_of_a_text_flag_are_kept() -> None:
    setting = flag("retriever.query_prefix", "query: ", "flag --query-prefix")
    assert resolve(environment={}, overrides=[setting]).config.retriever.query_prefix == "query: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.seed", "expected group.key=value"),
        ("train.sede=1", "did you mean 'train.seed'"),
        ("objectiv.mis_steps=1", "did you mean 'objective.mis_steps'"),
        ("learning_rate=1", "did you mean 'train.learning_rate'"),
        ("zzz=1", "lists all settings"),
        ("data.map=answers", "name=value pairs"),
        ("generator.lora=5", "is a group of settings"),
        ("train=5", "is a group of settings"),
    ],
)
def test_a_wrong_set_is_refused_with_advice(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_set(text)
    assert "--set" in str(caught.value)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.max_steps", "ten", "expected a whole number, got 'ten'"),
        ("train.max_steps", "1.5", "expected a whole number"),
        ("train.max_seconds", "soon", "expected a number, or none"),
        ("retriever.temperature", "0", "more than 0"),
        ("retriever.temperature", "nan", "a number"),
        ("train.learning_rate", "inf", "a number"),
        ("objective.k", "5000", "at most 2048"),
        ("guards.min_distinct_ratio", "2", "at most 1"),
        ("objective.support", "unoin", "did you mean 'union'"),
        ("train.bf16", "maybe", "true or false"),
        ("train.freeze", "pasages", "did you mean 'passages'"),
        ("train.betas", "0.9", "a list"),
    ],
)
def test_a_wrong_value_names_setting_source_and_fix(key: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resolve(environment={}, overrides=[flag(key, value, "flag --x")])
    assert f"flag --x: {key}" in str(caught.value)


def test_all_wrong_values_are_told_at_once() -> None:
    overrides = [parse_set("train.max_steps=x"), parse_set("objective.k=0")]
    with pytest.raises(ConfigError, match="2 settings are wrong") as caught:
        resolve(environment={}, overrides=overrides)
    assert "train.max_steps" in str(caught.value)
    assert "objective.k" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        ["objective.name=rag", "objective.support=union"],
        ["index.rebuild_every=0-:10", "train.freeze=passages"],
    ],
)
def test_settings_that_contradict_each_other_say_where_each_was_set(settings: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(environment={}, overrides=[parse_set(text) for text in settings])
    assert "--set" in str(caught.value)


# ---------------------------------------------------------------- the environment


def test_a_short_name_in_the_environment_must_be_unambiguous() -> None:
    assert resolve(environment={"JSARAG_MIS_STEPS": "7"}).config.objective.mis_steps == 7
    with pytest.raises(ConfigError, match="JSARAG_OBJECTIVE__K, JSARAG_EVAL__K"):
        resolve(environment={"JSARAG_K": "7"})


def test_foreign_variables_are_noted_and_our_switches_are_not() -> None:
    environment = {
        "JSARAG_FLAVOUR": "x",
        "JSARAG_API_KEY": "secret",
        "JSARAG_BACKEND": "cpu",
        "JSARAG_REQUIRE": "cuda",
        "PATH": "/bin",
    }
    resolved = resolve(environment=environment)
    assert resolved.notes == ("environment JSARAG_FLAVOUR is no setting and was ignored",)
    assert resolved.config == Config()


def test_a_misspelt_full_name_in_the_environment_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"JSARAG_TRAIN__SEDE.*did you mean 'train.seed'"):
        resolve(environment={"JSARAG_TRAIN__SEDE": "1"})


# ---------------------------------------------------------------- runs named by a data set


def test_a_recipes_name_is_a_data_sets_name() -> None:
    resolved = resolve_run(dataset="demo", environment={})
    assert resolved.config.data.dataset == "demo"
    assert resolved.sources["data.dataset"] == "recipe demo"
    assert resolved.notes == ()


def test_another_recipe_on_a_data_set_keeps_the_data_set() -> None:
    resolved = resolve_run(dataset="demo", recipe="sktod", environment={})
    assert resolved.config.data.dataset == "demo"
    assert resolved.config.generator.max_response_tokens == 64


def test_a_folder_with_a_recipes_name_uses_it_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "sktod"
    folder.mkdir()
    resolved = resolve_run(dataset=str(folder), environment={})
    assert resolved.config.data.dataset == str(folder)
    assert resolved.config.generator.max_response_tokens == 64
    assert "shipped recipe 'sktod'" in resolved.notes[0]
    other = resolve_run(dataset=str(folder), recipe="demo", environment={})
    assert other.config.data.dataset == str(folder)
    assert other.config.generator.max_response_tokens == 32
    assert other.notes == ()


def test_a_file_decides_over_a_folders_name(tmp_path: Path) -> None:
    folder = tmp_path / "sktod"
    folder.mkdir()
    file = write(tmp_path, "train:\n  seed: 8\n")
    resolved = resolve_run(dataset=str(folder), file=file, environment={})
    assert resolved.config.generator.model == Config().generator.model
    assert resolved.config.train.seed == 8


def test_an_unknown_data_set_gets_the_defaults_and_a_note() -> None:
    resolved = resolve_run(dataset="nonesuch", environment={})
    assert resolved.config.data.dataset == "nonesuch"
    assert "the defaults apply" in resolved.notes[0]


def test_nothing_to_run_lists_the_recipes() -> None:
    with pytest.raises(ConfigError, match=r"--dataset.*demo"):
        resolve_run(environment={})


# ---------------------------------------------------------------- recipes and schema


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        resolve(recipe="dmeo", environment={})


def test_the_shipped_recipes() -> None:
    assert list_recipes() == sorted(
        [
            *("demo", "doc2dial", "doqa", "doqa_cooking", "msmarco", "nq", "orquac", "sktod"),
            *("triviaqa", "wow"),
        ]
    )
    for name in list_recipes():
        config = resolve(recipe=name, environment={}).config
        assert config.data.dataset == name
        assert config.objective.support == "kb"
        assert "passages" in config.train.freeze
        assert "#" in recipe_text(name)


@pytest.mark.parametrize("recipe", list_recipes())
def test_recipes_say_why(recipe: str) -> None:
    # A number without a reason is one nobody dares to change.
    settled = re.findall(r"^ +(\w+): [^#\n]+?( # .+)?$", recipe_text(recipe), flags=re.MULTILINE)
    bare = [name for name, reason in settled if not reason]
    assert len(settled) > 15
    assert set(bare) <= {"dataset"}


def test_the_schema_is_for_editors() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert "demo" in schema["properties"]["recipe"]["enum"]
    assert set(Config.model_fields) < set(schema["properties"])


def test_a_language_model_in_place_of_an_offline_generator_brings_its_own_settings() -> None:
    plain = resolve(recipe="sktod", environment={})
    assert plain.config.objective.mstep_passages == 0
    model = parse_set("generator.model=smollm2")
    found = resolve(recipe="sktod", environment={}, overrides=[model])
    assert found.config.objective.mstep_passages > 0
    assert found.config.train.generator_warmup_steps == 0
    assert found.config.generator.template.startswith("{context}")
    assert "for language models" in found.sources["objective.mstep_passages"]
    # Below the user's own choices, whatever their order.
    mine = [parse_set("objective.mstep_passages=5"), model]
    assert (
        resolve(recipe="sktod", environment={}, overrides=mine).config.objective.mstep_passages == 5
    )
    # A recipe made for a language model says itself what it wants.
    other = resolve(recipe="nq", environment={}, overrides=[model])
    assert (
        other.config.generator.template
        == resolve(recipe="nq", environment={}).config.generator.template
    )


def test_recipes_and_models_agree_on_what_an_offline_generator_is() -> None:
    from jsarag.config.recipes import OFFLINE_GENERATORS
    from jsarag.models.load_generator import OFFLINE

    # Two homes, because models must not know the configuration.
    assert OFFLINE_GENERATORS == OFFLINE
