"""The chain store forgets nothing, across visits and across a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jsarag.em.chains import ChainStore
from jsarag.errors import CheckpointError
from jsarag.io.tensors import load_tensors, save_tensors


def test_unknown_examples_have_no_state() -> None:
    chains = ChainStore()
    assert chains.get(["a", "b"]).tolist() == [-1, -1]
    chains.put(["b", "c"], torch.tensor([7, -1]))
    assert chains.get(["a", "b", "c"]).tolist() == [-1, 7, -1]
    chains.put(["b"], torch.tensor([9]))
    assert chains.get(["b"]).tolist() == [9]
    chains.put(["b"], torch.tensor([-1]))  # no new state is no reason to lose the old one
    assert chains.get(["b"]).tolist() == [9]
    chains.forget()
    assert chains.get(["b"]).tolist() == [-1]


@pytest.mark.parametrize("ids", [["b", "", "ä/1", "日本", "b\n"], []])
def test_state_survives_a_checkpoint(tmp_path: Path, ids: list[str]) -> None:
    chains = ChainStore()
    chains.put(ids, torch.arange(len(ids)) + 3)
    save_tensors(tmp_path / "chains.safetensors", chains.state())
    other = ChainStore()
    other.put(["stranger"], torch.tensor([1]))
    other.load(load_tensors(tmp_path / "chains.safetensors"))
    assert other.get([*ids, "stranger"]).tolist() == [*range(3, 3 + len(ids)), -1]
    assert len(other) == len(ids)


def test_state_does_not_depend_on_the_order_of_visits() -> None:
    one, other = ChainStore(), ChainStore()
    one.put(["a", "b"], torch.tensor([1, 2]))
    other.put(["b"], torch.tensor([2]))
    other.put(["a"], torch.tensor([1]))
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[name])


@pytest.mark.parametrize("damage", ["missing", "rows", "bytes"])
def test_a_damaged_state_is_refused(damage: str) -> None:
    chains = ChainStore()
    chains.put(["a", "bc"], torch.tensor([1, 2]))
    state = chains.state()
    if damage == "missing":
        del state["rows"]
    elif damage == "rows":
        state["rows"] = state["rows"][:1]
    else:
        state["id_bytes"] = state["id_bytes"][:-1]
    with pytest.raises(CheckpointError, match="chains"):
        ChainStore().load(state)
