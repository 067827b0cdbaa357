"""The state a run keeps where that is not its last one, and the record of why.

The last state stays in ``checkpoints/``, so that a run can be continued from where it was; what is
evaluated, asked and served is the kept one, in ``kept/``, named by ``watch.json``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag.io.atomic import remove_folder, write_json
from jsarag.io.checkpoint import Checkpoint, latest_step, load_checkpoint, save_checkpoint
from jsarag.io.run_dir import RunDir

if TYPE_CHECKING:
    from jsarag.assemble import Parts
    from jsarag.train.state import Progress
    from jsarag.train.watch import Decision

RECORD = "watch.json"
_FOLDER = "kept"


def keep_state(run_dir: RunDir, parts: Parts, progress: Progress) -> None:
    """Write the parts' weights as the state to keep; an earlier one is dropped."""
    save_checkpoint(
        _folder(run_dir),
        progress.step,
        modules={
            **parts.retrievers.checkpoint_states(),
            "generator": parts.generator.checkpoint_state(),
        },
        optimizer={},
        state={"progress": asdict(progress)},
        keep=1,
    )


def restore(run_dir: RunDir, parts: Parts) -> None:
    """Put the kept weights into the parts.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    kept = load_checkpoint(_folder(run_dir))
    parts.retrievers.load_checkpoint_states(kept.modules)
    parts.generator.load_checkpoint_state(kept.modules["generator"])


def has_kept_state(run_dir: RunDir) -> bool:
    """Whether a state to keep was written."""
    return latest_step(_folder(run_dir)) is not None


def record_decision(run_dir: RunDir, decision: Decision, last: int) -> None:
    """Write down what is kept, as of the checkpoint ``last``; drop what is no longer needed."""
    if decision.kept == last:
        remove_folder(run_dir.path / _FOLDER)
    write_json(run_dir.path / RECORD, {**asdict(decision), "last": last})


def read_decision(run_dir: RunDir) -> dict[str, Any] | None:
    """``{"kept", "worse", "reason", "last"}``, or None where nothing was decided."""
    path: Path = run_dir.path / RECORD
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def served_checkpoint(run_dir: RunDir) -> Checkpoint:
    """The state to use: the kept one, unless the run went on since or ended best.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    decision = read_decision(run_dir)
    if decision is None or decision["kept"] == decision["last"]:
        return load_checkpoint(run_dir)
    if decision["last"] != latest_step(run_dir):
        return load_checkpoint(run_dir)
    return load_checkpoint(_folder(run_dir))


def _folder(run_dir: RunDir) -> RunDir:
    return RunDir(run_dir.path / _FOLDER)
