"""The names read off the schema."""

from __future__ import annotations

import pytest

from jsarag.config.keys import group_names, known_keys, nearest, optional_groups, short_names
from jsarag.config.schema import Config


def test_every_leaf_of_the_schema_is_a_key() -> None:
    keys = known_keys()
    assert keys["train.seed"].kind == "int"
    assert keys["train.max_seconds"].optional
    assert keys["objective.support"].choices == ("prior", "union", "batch", "kb")
    assert keys["data.map"].kind == "mapping"
    assert keys["generator.lora.rank"].default == 8
    for name, key in keys.items():
        if name.startswith("generator.lora."):
            continue
        value: object = Config()
        for part in name.split("."):
            value = getattr(value, part)
        assert value == key.default


def test_groups() -> None:
    assert "generator.lora" in group_names()
    assert optional_groups() == {"generator.lora"}
    assert short_names()["k"] == ("objective.k", "eval.k")
    assert short_names()["seed"] == ("train.seed",)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("train.batchsize", "train.batch_size"),
        ("train.lerning_rate", "train.learning_rate"),
        ("mis_step", "objective.mis_steps"),
        ("index.batch_sise", "index.batch_size"),
        ("qqqqqqqq", None),
    ],
)
def test_nearest(written: str, meant: str | None) -> None:
    assert nearest(written, known_keys()) == meant
