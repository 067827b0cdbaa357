"""Checkpoints: every number a run needs to continue exactly, checked when read, never pickled.

``checkpoints/step-N/`` holds one safetensors file per module, ``optimizer.safetensors`` and
``state.json`` with each file's size and checksum, and one of its own. What the state means is the
training loop's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jsarag.errors import CheckpointError
from jsarag.io.atomic import COMPLETE, is_complete, remove_folder, to_json, write_folder, write_text
from jsarag.io.digests import FileRecord
from jsarag.io.optimizer_state import flatten_optimizer, restore_optimizer
from jsarag.io.records import CHECKSUM, read_json, read_record, read_text, write_record
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

# Version 1 had no checksum of the state itself, and SHA-256 of the files.
FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)
_OPTIMIZER = "optimizer"
_STATE = "state.json"
_MODULE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FILE_NAME = re.compile(r"[a-z][a-z0-9_]*\.safetensors")
_STEP_FOLDER = re.compile(r"step-(\d+)")
_STEP_BACK = "go back to an earlier checkpoint: remove this one's folder and checkpoints/last"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved after ``step`` optimizer steps.

    modules: module name -> tensor name -> tensor. optimizer: tensors of ``flatten_optimizer``.
    state: JSON types, exactly as given to :func:`save_checkpoint`. note: why it is not the newest
    one, or another than ``last`` should name; None where there is nothing to say.
    """

    step: int
    path: Path
    modules: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    note: str | None = None

    def value(self, *keys: str) -> Any:
        """An entry of the state, by its keys from the outside in.

        Raises:
            CheckpointError: there is none.
        """
        found: Any = self.state
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                raise self.damaged(f"expected 'state.{'.'.join(keys)}', found none")
            found = found[key]
        return found

    def damaged(self, problem: str) -> CheckpointError:
        """The error to raise for a state that is not what its reader expects."""
        return CheckpointError(
            f"{self.path / _STATE}: {problem}; restore the file from a copy, or {_STEP_BACK}"
        )


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
        records = {path.name: FileRecord.of(path).to_json() for path in sorted(folder.iterdir())}
        head = {"format_version": FORMAT_VERSION, "step": step, "files": records}
        write_record(folder / _STATE, {**head, "state": json.loads(text)})
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
    chosen, note = choose_step(run_dir) if step is None else (step, None)
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
    records, state = _read_head(folder, chosen)
    for name, record in records.items():
        problem = record.problem(folder / name)
        if problem is not None:
            raise CheckpointError(f"{problem}; {_alternatives(run_dir, chosen)}")
    tensors = {Path(name).stem: load_tensors(folder / name, check=False) for name in records}
    return Checkpoint(chosen, folder, tensors, tensors.pop(_OPTIMIZER), state, note)


def latest_step(run_dir: RunDir) -> int | None:
    """The step of :func:`choose_step`."""
    return choose_step(run_dir)[0]


def choose_step(run_dir: RunDir) -> tuple[int | None, str | None]:
    """The step to open, and what is to be said about the choice.

    It is the one ``last`` names. A newer one may lie there, of a run that was stopped before it
    could name it, or that was continued from an earlier step. Without ``last`` it is the newest.

    Raises:
        CheckpointError: ``last`` is damaged or names a checkpoint that is not complete, or a
            checkpoint has lost its marker: silently, an older state would be used.
    """
    steps, last = complete_steps(run_dir), run_dir.last_path
    named = _named_step(run_dir)
    if named is None:
        unmarked = [step for step in _all_steps(run_dir) if step not in steps]
        if unmarked:
            raise _unmarked(run_dir, unmarked[-1])
        if not steps:
            return None, None
        return steps[-1], f"{last}: the file is missing; the newest checkpoint is opened"
    if named not in steps:
        if run_dir.checkpoint_path(named).is_dir():
            raise _unmarked(run_dir, named)
        raise CheckpointError(
            f"{last}: names step-{named}, which is not there; {_alternatives(run_dir, named)}. "
            "Restore it from a copy, or remove this file to open the newest one there is"
        )
    if named == steps[-1]:
        return named, None
    return named, f"{last}: step {named} is opened, although there is a step {steps[-1]}"


def complete_steps(run_dir: RunDir) -> list[int]:
    """The steps of all complete checkpoints, ascending."""
    return [step for step in _all_steps(run_dir) if is_complete(run_dir.checkpoint_path(step))]


def _all_steps(run_dir: RunDir) -> list[int]:
    if not run_dir.checkpoints_path.is_dir():
        return []
    matches = [_STEP_FOLDER.fullmatch(entry.name) for entry in run_dir.checkpoints_path.iterdir()]
    return sorted(int(match[1]) for match in matches if match)


def _named_step(run_dir: RunDir) -> int | None:
    """What ``last`` names; None where there is no such file."""
    path = run_dir.last_path
    if not path.exists():
        return None
    fix = "remove this file to open the newest checkpoint"
    text = read_text(path, fix=fix)
    match = _STEP_FOLDER.fullmatch(text.strip())
    if match is None:
        raise CheckpointError(f"{path}: expected 'step-N', found {text[:40]!r}; {fix}")
    return int(match[1])


def _unmarked(run_dir: RunDir, step: int) -> CheckpointError:
    path = run_dir.checkpoint_path(step) / COMPLETE
    return CheckpointError(
        f"{path}: the file is missing, so the checkpoint may not be whole; "
        f"{_alternatives(run_dir, step)}. Restore it from a copy, or {_STEP_BACK}"
    )


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


def _read_head(folder: Path, step: int) -> tuple[dict[str, FileRecord], dict[str, Any]]:
    """The records of a checkpoint's files, and its state."""
    path = folder / _STATE
    fix = f"restore it from a copy, or {_STEP_BACK}"
    version = (head := read_json(path, fix=fix)).get("format_version")
    if version not in _READ_VERSIONS:
        raise CheckpointError(
            f"{path}: expected checkpoint format {FORMAT_VERSION}, found {version!r}; use the "
            "version of jsarag that wrote it"
        )
    if version > 1 and CHECKSUM not in head:
        raise CheckpointError(f"{path}: expected a '{CHECKSUM}', found none; {fix}")
    head = read_record(path, fix=fix)
    if head.get("step") != step:
        raise CheckpointError(f"{path}: expected step {step}, found {head.get('step')!r}; {fix}")
    try:
        records = {name: FileRecord.from_json(found) for name, found in head["files"].items()}
        state = dict(head["state"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: expected 'files' with their sizes and checksums, and a 'state' ({error!r}); "
            f"{fix}"
        ) from error
    if f"{_OPTIMIZER}.safetensors" not in records or not all(map(_is_plain_name, records)):
        raise CheckpointError(
            f"{path}: expected the names of files in this folder, {_OPTIMIZER}.safetensors among "
            f"them, found {', '.join(sorted(records))[:200] or 'none'}; {fix}"
        )
    return records, state


def _is_plain_name(name: str) -> bool:
    return bool(_FILE_NAME.fullmatch(name))


def _alternatives(run_dir: RunDir, step: int) -> str:
    others = [found for found in complete_steps(run_dir) if found != step]
    if not others:
        return "there is no other checkpoint, so the run must start anew"
    return f"complete checkpoints: {', '.join(map(str, others))}"
