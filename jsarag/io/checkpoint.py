"""Checkpoints: every number a run needs to continue exactly, checked when read, never pickled.

``checkpoints/step-N/`` holds one safetensors file per module, ``optimizer.safetensors`` and
``state.json`` with each file's size and digest. What the state means is the training loop's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jsarag.errors import CheckpointError
from jsarag.io.atomic import is_complete, remove_folder, to_json, write_folder, write_text
from jsarag.io.digests import FileRecord
from jsarag.io.optimizer_state import flatten_optimizer, restore_optimizer
from jsarag.io.run_dir import RunDir
from jsarag.io.tensors import load_tensors, save_tensors

__all__ = [
    "Checkpoint",
    "complete_steps",
    "flatten_optimizer",
    "latest_step",
    "load_checkpoint",
    "restore_optimizer",
    "save_checkpoint",
]

FORMAT_VERSION = 1
_OPTIMIZER = "optimizer"
_STATE = "state.json"
_MODULE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_STEP_FOLDER = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved after ``step`` optimizer steps.

    modules: module name -> tensor name -> tensor. optimizer: tensors of ``flatten_optimizer``.
    state: JSON types, exactly as given to :func:`save_checkpoint`.
    """

    step: int
    path: Path
    modules: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run_dir: RunDir,
    step: int,
    *,
    modules: Mapping[str, Mapping[str, Tensor]],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``checkpoints/step-N``, name it in ``last``, then drop all but the newest ``keep``.

    Args:
        run_dir: the run.
        step: optimizer steps done.
        modules: name (``prior``, ``posterior``, ``generator``, ``chains``, ...) -> state dict.
        optimizer: tensors of :func:`jsarag.io.optimizer_state.flatten_optimizer`; may be empty.
        state: JSON types without NaN; restored unchanged.
        keep: how many checkpoints up to this step stay, at least 1. Later steps, left by a run
            that was then resumed further back, are not touched.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: a module's name is not usable, or the state is no plain JSON.
    """
    _check_names(modules)
    text = _state_text(run_dir, state)
    target = run_dir.checkpoint_path(step)
    with write_folder(target) as folder:
        for name, tensors in (*modules.items(), (_OPTIMIZER, optimizer)):
            save_tensors(folder / f"{name}.safetensors", tensors)
        records = {path.name: asdict(FileRecord.of(path)) for path in sorted(folder.iterdir())}
        head = {"format_version": FORMAT_VERSION, "step": step, "files": records}
        write_text(folder / _STATE, to_json({**head, "state": json.loads(text)}, indent=2) + "\n")
    write_text(run_dir.last_path, target.name + "\n")
    older = [found for found in complete_steps(run_dir) if found < step]
    for found in older[: len(older) - max(keep - 1, 0)]:
        remove_folder(run_dir.checkpoint_path(found))
    return target


def load_checkpoint(run_dir: RunDir, step: int | None = None) -> Checkpoint:
    """Read a checkpoint and check every file against its recorded size and digest.

    Args:
        run_dir: the run.
        step: which one; None takes the one ``last`` names, else the newest complete one.

    Raises:
        CheckpointError: there is none, it is unfinished, or a file is damaged; names the file and
            the steps that could be used instead.
    """
    chosen = latest_step(run_dir) if step is None else step
    if chosen is None:
        raise CheckpointError(
            f"{run_dir.checkpoints_path}: expected a complete checkpoint, found none; start the "
            "run without --resume"
        )
    folder = run_dir.checkpoint_path(chosen)
    if not is_complete(folder):
        raise CheckpointError(
            f"{folder}: expected a complete checkpoint; {_alternatives(run_dir, chosen)}"
        )
    head = _read_head(folder, chosen)
    for name, record in head["files"].items():
        problem = FileRecord(**record).problem(folder / name)
        if problem is not None:
            raise CheckpointError(f"{problem}; {_alternatives(run_dir, chosen)}")
    tensors = {Path(name).stem: load_tensors(folder / name) for name in head["files"]}
    optimizer = tensors.pop(_OPTIMIZER)
    return Checkpoint(chosen, folder, tensors, optimizer, head["state"])


def latest_step(run_dir: RunDir) -> int | None:
    """The step to resume from: what ``last`` names, else the newest complete one, else None."""
    if run_dir.last_path.is_file():
        named = run_dir.last_path.read_text(encoding="utf-8").strip()
        match = _STEP_FOLDER.fullmatch(named)
        if match and is_complete(run_dir.checkpoints_path / named):
            return int(match[1])
    steps = complete_steps(run_dir)
    return steps[-1] if steps else None


def complete_steps(run_dir: RunDir) -> list[int]:
    """The steps of all complete checkpoints, ascending."""
    if not run_dir.checkpoints_path.is_dir():
        return []
    matches = [
        (_STEP_FOLDER.fullmatch(entry.name), entry) for entry in run_dir.checkpoints_path.iterdir()
    ]
    return sorted(int(match[1]) for match, entry in matches if match and is_complete(entry))


def _check_names(modules: Mapping[str, Any]) -> None:
    for name in modules:
        if not _MODULE_NAME.fullmatch(name) or name == _OPTIMIZER:
            raise CheckpointError(
                f"module name {name!r}: expected lower-case letters, digits and '_', and not "
                f"'{_OPTIMIZER}', because it becomes a file name"
            )


def _state_text(run_dir: RunDir, state: Mapping[str, Any]) -> str:
    try:
        return to_json(state, strict=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{run_dir.path}: expected a checkpoint state of plain JSON without NaN; {error}. "
            "Put tensors into modules"
        ) from error


def _read_head(folder: Path, step: int) -> dict[str, Any]:
    path = folder / _STATE
    try:
        head: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected the checkpoint's state; {error}") from error
    if head.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected checkpoint format {FORMAT_VERSION}, found "
            f"{head.get('format_version')!r}; use the version of jsarag that wrote it"
        )
    if head.get("step") != step:
        raise CheckpointError(f"{path}: expected step {step}, found {head.get('step')!r}")
    return head


def _alternatives(run_dir: RunDir, step: int) -> str:
    others = [found for found in complete_steps(run_dir) if found != step]
    if not others:
        return "there is no other checkpoint, so the run must start anew"
    return f"complete checkpoints: {', '.join(map(str, others))}"
