"""The lists an objective judges once come from whoever ``objective.start`` names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jsarag.errors import CheckpointError
from jsarag.index.bm25 import has_bm25
from jsarag.io.run_dir import RunDir
from jsarag.io.tensors import load_tensors, save_tensors
from jsarag.runs import open_run
from jsarag.train.run import TrainResult
from jsarag.train.start import START_FILE

WRAG = {"objective.name": "wrag", "train.max_steps": 2, "eval.generation": False}


@pytest.mark.skipif(not has_bm25(), reason="needs bm25s")
def test_words_with_the_response_find_what_questions_alone_do_not(
    train_toy: Callable[..., TrainResult],
) -> None:
    found = {}
    for start in ("prior", "bm25", "bm25-with-response"):
        result = train_toy(start, {**WRAG, "objective.start": start, "objective.k": 3})
        rows = load_tensors(RunDir(result.run_dir).path / START_FILE)["rows"]
        data = open_run(result.run_dir).parts.dataset
        train = data.splits["train"]
        assert rows.shape == (len(train), 3)
        gold = torch.tensor([data.kb.row_of(example.gold_passages[0]) for example in train])
        found[start] = float((rows == gold[:, None]).any(dim=1).double().mean())
    # The toy's questions share no word with their notes, its responses share the code.
    assert found["bm25"] < 0.3
    assert found["bm25-with-response"] > 0.8


def test_a_run_that_has_begun_does_not_make_its_lists_anew(
    train_toy: Callable[..., TrainResult],
) -> None:
    result = train_toy("run", WRAG)
    path = RunDir(result.run_dir).path / START_FILE
    kept = load_tensors(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="what was retrieved before training, found no file"):
        train_toy("run", {**WRAG, "train.max_steps": 4}, resume=True)
    save_tensors(path, kept)
    assert train_toy("run", {**WRAG, "train.max_steps": 4}, resume=True).steps == 4
