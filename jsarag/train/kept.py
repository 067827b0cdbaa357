"""The state a run keeps where that is not its last one, and the record of why.

The last state stays in ``checkpoints/``, so that a run can be continued from where it was; what is
evaluated, asked and served is the kept one, in ``kept/``, named by ``watch.json``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag.errors import CheckpointError
from jsarag.io.atomic import remove_folder
from jsarag.io.checkpoint import Checkpoint, latest_step, load_checkpoint, save_checkpoint
from jsarag.io.records import read_record, write_record
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
    write_record(run_dir.path / RECORD, {**asdict(decision), "last": last})


def read_decision(run_dir: RunDir) -> dict[str, Any] | None:
    """``{"kept", "worse", "reason", "last"}``, or None where nothing was decided.

    Raises:
        CheckpointError: the record is damaged.
    """
    path: Path = run_dir.path / RECORD
    if not path.exists():
        return None
    found = read_record(path, fix=_decide_again(run_dir))
    if not isinstance(found.get("kept"), int):
        raise CheckpointError(f"{path}: expected the step 'kept'; {_decide_again(run_dir)}")
    return found


def served_checkpoint(run_dir: RunDir) -> Checkpoint:
    """The state to use: the kept one, unless the run went on since or ended best.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    decision = read_decision(run_dir)
    if decision is None:
        return _undecided(run_dir)
    if decision.get("last") in (decision["kept"], None) or decision["last"] != latest_step(run_dir):
        return load_checkpoint(run_dir)
    kept = load_checkpoint(_folder(run_dir))
    if kept.step != decision["kept"]:
        raise CheckpointError(
            f"{kept.path}: expected step {decision['kept']}, which {run_dir.path / RECORD} says is "
            f"kept; {_decide_again(run_dir)}"
        )
    return kept


def _undecided(run_dir: RunDir) -> Checkpoint:
    """The last state of a run without a record of which it keeps."""
    last = load_checkpoint(run_dir)
    if not has_kept_state(run_dir):
        return last
    path = run_dir.path / RECORD
    if last.value("progress", "stage") == "done":
        raise CheckpointError(
            f"{path}: the file is missing, and with it which state the run keeps; "
            f"{_decide_again(run_dir)}"
        )
    note = f"{path}: not written yet; the last state, step {last.step}, is opened"
    return replace(last, note=last.note or note)


def _decide_again(run_dir: RunDir) -> str:
    return (
        "restore it from a copy, or remove it and decide again with `jsarag train --resume "
        f"--output-dir {run_dir.path}`"
    )


def _folder(run_dir: RunDir) -> RunDir:
    return RunDir(run_dir.path / _FOLDER)
