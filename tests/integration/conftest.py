"""The toy world of ``jsarag_bench.end_to_end.toy_world`` as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.train.run import TrainResult
from jsarag_bench.end_to_end import toy_world


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kb.jsonl, train.jsonl, dev.jsonl."""
    folder = tmp_path_factory.mktemp("toy")
    toy_world.write_data(folder)
    return folder


@pytest.fixture(scope="session")
def toy_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world's encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    toy_world.write_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def toy_language_model(tmp_path_factory: pytest.TempPathFactory, toy_encoder: Path) -> Path:
    """A tiny causal language model of the toy world."""
    folder = tmp_path_factory.mktemp("language-model")
    toy_world.write_language_model(folder, toy_encoder)
    return folder


@pytest.fixture
def train_toy(
    toy_folder: Path, toy_encoder: Path, toy_language_model: Path, tmp_path: Path
) -> Callable[..., TrainResult]:
    """train_toy(name, {"group.key": value, ...}, **run_training's) -> TrainResult.

    The generator 'tiny' is the toy world's language model.
    """

    def run(name: str, settings: dict[str, Any] | None = None, **options: Any) -> TrainResult:
        settings = dict(settings or {})
        if settings.get("generator.model") == "tiny":
            settings["generator.model"] = str(toy_language_model)
        return toy_world.train(toy_folder, toy_encoder, tmp_path / name, settings, **options)

    return run
