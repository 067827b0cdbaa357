"""What YAML does to values, and what a faulty file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from jsarag.config.load import resolve
from jsarag.config.schema import Config
from jsarag.config.yaml_file import read_yaml
from jsarag.errors import ConfigError


def load(text: str, folder: Path) -> Config:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return resolve(file=path, environment={}).config


def test_lines_and_recipe_are_kept() -> None:
    recipe, entries = read_yaml("recipe: demo\n\ntrain:\n  # why\n  seed: 3\n", "f")
    assert recipe == "demo"
    assert [(entry.key, entry.line) for entry in entries] == [("train.seed", 5)]


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("generator: {model: no}", "generator.model", "no"),
        ("retriever: {query_prefix: 12:30}", "retriever.query_prefix", "12:30"),
        ("data: {dataset: 2024-01-01}", "data.dataset", "2024-01-01"),
        ("index: {rebuild_every: 1000:50}", "index.rebuild_every", "1000:50"),
        ("train: {seed: 010}", "train.seed", 10),
        ("train: {learning_rate: 1e-4}", "train.learning_rate", 1e-4),
        ("train: {learning_rate: 2E-5}", "train.learning_rate", 2e-5),
        ("train: {bf16: yes}", "train.bf16", True),
        ("train: {bf16: off}", "train.bf16", False),
        ('train: {seed: "7"}', "train.seed", 7),
        ("data: {map: {answers: on, id: 7}}", "data.map", {"answers": "on", "id": "7"}),
        (
            "generator: {lora: {target_modules: [no, y]}}",
            "generator.lora.target_modules",
            ["no", "y"],
        ),
        ("train: {max_seconds: none}", "train.max_seconds", None),
        ("train: {max_seconds: ~}", "train.max_seconds", None),
        ("output: {output_dir: none}", "output.output_dir", None),
        ("generator: {lora: none}", "generator.lora", None),
        ("generator: {lora: }", "generator.lora", None),
        ("train: {betas: [0.8, 1e-1]}", "train.betas", (0.8, 0.1)),
        ("train:", "train.seed", 1),
        ("", "train.seed", 1),
        ("# nothing", "train.seed", 1),
        ("\ufefftrain: {seed: 4}", "train.seed", 4),
    ],
)
def test_values(text: str, path: str, value: object, tmp_path: Path) -> None:
    text = text if "rebuild_every" not in text else text + "\ntrain: {freeze: []}"
    found: object = load(text, tmp_path)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_windows_line_ends_and_block_texts(tmp_path: Path) -> None:
    text = 'generator:\r\n  template: "{title}\\n{passage} {context}"\r\ntrain:\r\n  seed: 2\r\n'
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode())
    config = resolve(file=path, environment={}).config
    assert config.generator.template == "{title}\n{passage} {context}"
    assert config.train.seed == 2


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = "train: &t {seed: 5, max_steps: 9}\n"
    assert load(text, tmp_path).train.max_steps == 9
    merged = "data: &d {context_turns: 2}\nretriever: {max_context_tokens: &n 32}\n"
    merged += "generator: {max_context_tokens: *n}\n"
    assert load(merged, tmp_path).generator.max_context_tokens == 32


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("train:\n  sede: 3\n", 2, "did you mean 'train.seed'"),
        ("trian:\n  seed: 3\n", 1, "unknown setting 'trian'"),
        ("train:\n  seed: 3\n  seed: 4\n", 3, "set twice, first on line 2"),
        ("train:\n  seed: 3\ntrain:\n  k: 4\n", 3, "'train' is set twice"),
        ("train: 3\n", 1, "must hold 'setting: value' lines"),
        ("- train\n", 1, "must hold 'setting: value' lines"),
        ("train:\n  seed: 3\n bad: 4\n", 3, "check indentation"),
        ("train:\n\tseed: 3\n", 2, "check indentation"),
        ("train: {seed: 3\n", 2, "expected YAML"),
        ("a: 1\n---\nb: 2\n", 2, "expected YAML"),
        ("data:\n  dataset: !!python/name:os.system x\n", 2, "expected YAML"),
        ("1: 2\n", 1, "unknown setting '1'"),
        ("train:\n  seed: [1, 2]\n", 2, "train.seed: expected a whole number"),
        ("train:\n  seed: null\n", 2, "train.seed: expected a whole number"),
        ("train:\n  freeze: passages\n", 2, "a list of prior, posterior, passages, generator"),
        ("data:\n  map: [a]\n", 2, "pairs"),
        ("generator:\n  model: {a: 1}\n", 2, "expected text"),
    ],
)
def test_a_faulty_file_names_the_line(text: str, line: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    assert f"run.yaml:{line}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        resolve(file=tmp_path / "none.yaml", environment={})
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        resolve(file=tmp_path, environment={})
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"data: {dataset: caf\xe9}\n")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        resolve(file=latin, environment={})


def test_an_alias_that_holds_itself_ends(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load("data:\n  map: &m {a: *m}\n", tmp_path)
