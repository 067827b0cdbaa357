"""Checkpoints give back every bit, refuse damage, and an optimizer continues exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jsarag.errors import CheckpointError, StorageError
from jsarag.io.atomic import COMPLETE
from jsarag.io.checkpoint import (
    complete_steps,
    flatten_optimizer,
    latest_step,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from jsarag.io.digests import FileRecord
from jsarag.io.records import without_seal
from jsarag.io.run_dir import RunDir


def save(run: RunDir, step: int, keep: int = 5, **state: Any) -> Path:
    modules = {"prior": {"weight": torch.full((2, 3), float(step))}, "chains": {}}
    return save_checkpoint(
        run, step, modules=modules, optimizer={"a::step": torch.tensor(1.0)}, state=state, keep=keep
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    state = {"lr": 0.1 + 0.2, "big": 2**70, "nested": {"a": [1, None, "é"]}}
    folder = save(run, 7, **state)
    assert {entry.name for entry in folder.iterdir()} == {
        "prior.safetensors",
        "chains.safetensors",
        "optimizer.safetensors",
        "state.json",
        COMPLETE,
    }
    checkpoint = load_checkpoint(run)
    assert checkpoint.step == 7
    assert checkpoint.path == folder
    assert checkpoint.state == state
    assert checkpoint.modules.keys() == {"prior", "chains"}
    assert checkpoint.modules["prior"]["weight"].equal(torch.full((2, 3), 7.0))
    assert checkpoint.optimizer.keys() == {"a::step"}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (1, 9, 10, 11):
        save(run, step, keep=2)
    assert complete_steps(run) == [10, 11]
    assert run.last_path.read_text() == "step-11\n"
    # Resumed from 10: step 11 of the abandoned branch is not counted and not touched.
    shutil.rmtree(run.checkpoint_path(10))
    save(run, 5, keep=1)
    assert complete_steps(run) == [5, 11]
    assert latest_step(run) == 5


def test_resume_takes_last_else_the_newest_complete(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert latest_step(run) is None
    with pytest.raises(CheckpointError, match="found none"):
        load_checkpoint(run)
    save(run, 1)
    save(run, 2)
    save(run, 3)
    assert load_checkpoint(run).note is None
    run.last_path.write_text("step-2\n")
    assert load_checkpoint(run).step == 2
    assert "step 2 is opened, although there is a step 3" in str(load_checkpoint(run).note)
    run.last_path.unlink()
    assert load_checkpoint(run).step == 3
    assert "last: the file is missing; the newest" in str(load_checkpoint(run).note)
    assert load_checkpoint(run, 1).step == 1


def test_a_lost_marker_opens_no_older_checkpoint(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (1, 2, 3):
        save(run, step)
    marker = run.checkpoint_path(3) / COMPLETE
    marker.unlink()
    lost = r"step-3/COMPLETE: the file is missing.*complete checkpoints: 1, 2\. Restore it"
    with pytest.raises(CheckpointError, match=lost):
        load_checkpoint(run)
    run.last_path.unlink()
    with pytest.raises(CheckpointError, match=lost):
        latest_step(run)
    with pytest.raises(CheckpointError, match=r"step-3.*complete checkpoints: 1, 2"):
        load_checkpoint(run, 3)
    shutil.rmtree(run.checkpoint_path(3))  # the way out that the message names
    assert load_checkpoint(run).step == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"step-9\n", "names step-9, which is not there; complete checkpoints: 1"),
        (b"step-\xff", "expected UTF-8, found byte 0xff at position 5"),
        (b"", "expected 'step-N', found ''"),
        (b"../step-1", r"expected 'step-N', found '\.\./step-1'"),
    ],
)
def test_bad_bytes_in_last_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    run = RunDir(tmp_path)
    save(run, 1)
    run.last_path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"checkpoints/last: {says}.*remove this file"):
        load_checkpoint(run)
    run.last_path.unlink()
    assert load_checkpoint(run).step == 1


def resealed(head: dict[str, Any], **changes: Any) -> str:
    """A state.json of the earlier format, which has no checksum of its own."""
    return json.dumps({**without_seal(head), "format_version": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"files": {}}, "optimizer.safetensors among them, found none"),
        ({"files": {"../prior.safetensors": {}}}, "sizes and checksums"),
        ({"files": []}, "sizes and checksums"),
        ({"state": None}, "sizes and checksums"),
        ({"step": "2"}, "expected step 2, found '2'"),
    ],
)
def test_a_state_without_its_keys_is_named(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    run = RunDir(tmp_path)
    path = save(run, 2) / "state.json"
    path.write_text(resealed(json.loads(path.read_text()), **changes))
    with pytest.raises(CheckpointError, match=rf"state\.json: .*{says}"):
        load_checkpoint(run)


def test_names_in_a_state_stay_inside_the_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    path = save(run, 2) / "state.json"
    head = json.loads(path.read_text())
    outside = {"../prior.safetensors": head["files"].pop("prior.safetensors")}
    path.write_text(resealed(head, files={**head["files"], **outside}))
    with pytest.raises(CheckpointError, match=r"state\.json: expected the names of files in this"):
        load_checkpoint(run)


def test_a_list_is_no_state(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (save(run, 2) / "state.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"state\.json: expected a JSON object, found a list"):
        load_checkpoint(run)


def test_a_flipped_digit_in_the_state_is_found(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    path = save(run, 2, seconds=12.5) / "state.json"
    path.write_text(path.read_text().replace("12.5", "13.5"))
    with pytest.raises(CheckpointError, match=r"state\.json: expected content with the checksum"):
        load_checkpoint(run)
    path.write_text(resealed(json.loads(path.read_text()), format_version=2))
    with pytest.raises(CheckpointError, match=r"state\.json: expected a 'checksum', found none"):
        load_checkpoint(run)


def test_a_missing_entry_of_the_state_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save(run, 2, progress={"step": 2})
    checkpoint = load_checkpoint(run)
    assert checkpoint.value("progress", "step") == 2
    with pytest.raises(CheckpointError, match=r"state\.json: expected 'state\.progress\.stage'"):
        checkpoint.value("progress", "stage")


def test_checkpoints_of_the_first_format_are_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    folder = save(run, 2, seed=1)
    files = {
        path.name: FileRecord.of(path, "sha256").to_json() for path in folder.glob("*.safetensors")
    }
    assert all(entry.keys() == {"bytes", "sha256"} for entry in files.values())
    head = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(resealed(head, files=files))
    assert load_checkpoint(run).state == {"seed": 1}
    content = bytearray((folder / "prior.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "prior.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"prior\.safetensors: expected sha256"):
        load_checkpoint(run)


def test_an_interrupted_save_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    save(run, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jsarag.io.checkpoint.write_record", fail)
    with pytest.raises(StorageError, match=r"step-2: No space left.*free some space"):
        save(run, 2)
    monkeypatch.undo()
    assert complete_steps(run) == [1]
    assert load_checkpoint(run).step == 1
    assert {entry.name for entry in run.checkpoints_path.iterdir()} == {"step-1", "last"}


@pytest.mark.parametrize("damage", ["flip", "short", "missing"])
def test_damage_names_the_file_and_the_way_out(tmp_path: Path, damage: str) -> None:
    run = RunDir(tmp_path)
    save(run, 1)
    path = save(run, 2) / "prior.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(CheckpointError, match=r"prior\.safetensors.*complete checkpoints: 1"):
        load_checkpoint(run)


def test_a_foreign_format_or_step_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    path = save(run, 2) / "state.json"
    head = json.loads(path.read_text())
    path.write_text(json.dumps({**head, "format_version": 9}))
    with pytest.raises(CheckpointError, match="format 2, found 9"):
        load_checkpoint(run)
    path.write_text(resealed(head, step=3))
    with pytest.raises(CheckpointError, match="expected step 2, found 3"):
        load_checkpoint(run)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json"):
        load_checkpoint(run)


@pytest.mark.parametrize("name", ["optimizer", "../up", "Prior", ""])
def test_module_names_become_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="module name"):
        save_checkpoint(RunDir(tmp_path), 1, modules={name: {}}, optimizer={}, state={}, keep=1)


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_state_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError, match="plain JSON"):
        save(RunDir(tmp_path), 1, value=value)
    assert complete_steps(RunDir(tmp_path)) == []


def build(order: tuple[str, ...] = ("first", "second")) -> tuple[nn.ModuleDict, torch.optim.AdamW]:
    torch.manual_seed(0)
    modules = nn.ModuleDict({"first": nn.Linear(4, 5), "second": nn.Linear(5, 3)})
    parameters = dict(modules.named_parameters())
    decayed = [p for part in order for n, p in parameters.items() if n == f"{part}.weight"]
    plain = [p for part in order for n, p in parameters.items() if n == f"{part}.bias"]
    groups = [{"params": decayed, "lr": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return modules, torch.optim.AdamW(groups, lr=0.003, betas=(0.9, 0.95), weight_decay=0.01)


def advance(modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, start: int, n: int) -> None:
    for step in range(start, start + n):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        modules["second"](modules["first"](inputs).tanh()).square().mean().backward()
        optimizer.step()


def bits(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {k: v.contiguous().reshape(-1).view(torch.uint8).tolist() for k, v in tensors.items()}


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_adamw_continues_bit_for_bit(tmp_path: Path, order: tuple[str, ...]) -> None:
    straight, optimizer = build()
    advance(straight, optimizer, 0, 6)

    modules, optimizer = build()
    advance(modules, optimizer, 0, 3)
    optimizer.param_groups[0]["lr"] = 0.1 / 3
    tensors, record = flatten_optimizer(optimizer, dict(modules.named_parameters()))
    assert list(tensors) == sorted(tensors)
    saved = bits(tensors)
    run = RunDir(tmp_path)
    save_checkpoint(
        run,
        3,
        modules={"model": modules.state_dict()},
        optimizer=tensors,
        state={"optimizer": record},
        keep=1,
    )
    advance(modules, optimizer, 3, 3)

    resumed, fresh = build(order)
    advance(resumed, fresh, 50, 1)
    checkpoint = load_checkpoint(run)
    resumed.load_state_dict(checkpoint.modules["model"])
    named = dict(resumed.named_parameters())
    restore_optimizer(fresh, named, checkpoint.optimizer, checkpoint.state["optimizer"])
    assert fresh.param_groups[0]["lr"] == 0.1 / 3
    assert fresh.param_groups[0]["betas"] == (0.9, 0.95)
    assert fresh.param_groups[1]["weight_decay"] == 0.0
    again, record_again = flatten_optimizer(fresh, named)
    assert bits(again) == saved
    assert record_again == record
    advance(resumed, fresh, 3, 3)
    assert bits(dict(resumed.state_dict())) == bits(dict(modules.state_dict()))
    assert bits(dict(resumed.state_dict())) != bits(dict(straight.state_dict()))  # lr differed


def test_sgd_momentum_and_untouched_parameters() -> None:
    modules, _ = build()
    parameters = dict(modules.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)
    tensors, record = flatten_optimizer(optimizer, parameters)
    assert tensors == {}
    advance(modules, optimizer, 0, 2)
    tensors, record = flatten_optimizer(optimizer, parameters)
    fresh = torch.optim.SGD(parameters.values(), lr=0.5, momentum=0.9)
    restore_optimizer(fresh, parameters, tensors, record)
    assert fresh.param_groups[0]["lr"] == 0.1
    assert bits(flatten_optimizer(fresh, parameters)[0]) == bits(tensors)


def test_a_bf16_parameters_fp32_moments_keep_their_dtype() -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([parameter])
    moments = {key: torch.full((3,), 1 / 3) for key in ("exp_avg", "exp_avg_sq")}
    tensors = {f"p::{key}": value for key, value in moments.items()} | {
        "p::step": torch.tensor(4.0)
    }
    record = flatten_optimizer(optimizer, {"p": parameter})[1]
    restore_optimizer(optimizer, {"p": parameter}, tensors, record)
    assert optimizer.state[parameter]["exp_avg"].dtype == torch.float32
    assert bits(flatten_optimizer(optimizer, {"p": parameter})[0]) == bits(tensors)


def test_optimizer_mismatches_are_named() -> None:
    modules, optimizer = build()
    parameters = dict(modules.named_parameters())
    tensors, record = flatten_optimizer(optimizer, parameters)
    with pytest.raises(CheckpointError, match="no name"):
        flatten_optimizer(optimizer, {"first.weight": parameters["first.weight"]})
    sgd = torch.optim.SGD(parameters.values(), lr=0.1)
    with pytest.raises(CheckpointError, match="expected SGD, found AdamW"):
        restore_optimizer(sgd, parameters, tensors, record)
    one_group = torch.optim.AdamW(parameters.values())
    with pytest.raises(CheckpointError, match="expected 1 parameter groups, found 2"):
        restore_optimizer(one_group, parameters, tensors, record)
    swapped = {**record, "groups": record["groups"][::-1]}
    with pytest.raises(CheckpointError, match=r"group 0.*first\.weight"):
        restore_optimizer(optimizer, parameters, tensors, swapped)
    with pytest.raises(CheckpointError, match="'ghost'"):
        restore_optimizer(optimizer, parameters, {"ghost::step": torch.tensor(1.0)}, record)
