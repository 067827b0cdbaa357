"""Where a run stands, and how that is written to and read from a checkpoint.

A checkpoint holds everything the next step depends on: weights, optimizer, chains, the guard's
window, the counts that key data order and random draws, and the generation of the index (whose
vectors lie in ``index/gen-N``). Nothing else does, so a resumed run continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jsarag.assemble import Parts
from jsarag.em.chains import ChainStore
from jsarag.io.checkpoint import Checkpoint, save_checkpoint
from jsarag.io.run_dir import RunDir
from jsarag.train.guards import CollapseGuard
from jsarag.train.optimizer import PartOptimizer

StageName = Literal["warmup", "train", "concat", "done"]
_COUNTERS = {"warmup": "warmup_step", "train": "step", "concat": "concat_step"}


@dataclass(slots=True)
class Progress:
    """Completed optimizer steps of each stage, training seconds, and the index generation.

    ``generator_forwards`` counts (example, passage) pairs that went through the generator during
    training: scored, or computed again on the way back.

    Checkpoints and metrics are numbered by :attr:`total`: warm-up steps come before step 0 of
    training and are not counted; concatenation steps follow it.
    """

    stage: StageName = "warmup"
    warmup_step: int = 0
    step: int = 0
    concat_step: int = 0
    seconds: float = 0.0
    generation: int = 0
    generator_forwards: int = 0

    @property
    def total(self) -> int:
        """Steps since training began."""
        return self.step + self.concat_step

    def of(self, kind: str) -> int:
        """Completed steps of a stage."""
        return int(getattr(self, _COUNTERS[kind]))

    def count(self, kind: str) -> None:
        """One more step of a stage is done."""
        setattr(self, _COUNTERS[kind], self.of(kind) + 1)


def save_state(
    run_dir: RunDir,
    progress: Progress,
    parts: Parts,
    optimizer: PartOptimizer,
    chains: ChainStore,
    guard: CollapseGuard,
    *,
    readings: Sequence[Mapping[str, Any]] = (),
    keep: int,
) -> None:
    """Write a checkpoint of everything the next step depends on.

    ``readings``: what the watch has seen so far (:meth:`jsarag.train.watch.Reading.to_row`).
    """
    tensors, record = optimizer.state()
    save_checkpoint(
        run_dir,
        progress.total,
        modules={
            **parts.retrievers.checkpoint_states(),
            "generator": parts.generator.checkpoint_state(),
            "chains": chains.state(),
        },
        optimizer=tensors,
        state={
            "progress": asdict(progress),
            "optimizer": record,
            "guard": guard.state(),
            "watch": list(readings),
        },
        keep=keep,
    )


def load_state(
    checkpoint: Checkpoint, optimizer: PartOptimizer, chains: ChainStore, guard: CollapseGuard
) -> Progress:
    """Restore what :func:`save_state` wrote, except the weights (``make_parts`` loads those).

    Raises:
        CheckpointError: the state is not what a run of this kind saves.
    """
    optimizer_record, guarded = checkpoint.value("optimizer"), checkpoint.value("guard")
    try:
        optimizer.load(checkpoint.optimizer, optimizer_record)
        chains.load(checkpoint.modules["chains"])
        guard.load(guarded)
        return Progress(**checkpoint.value("progress"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise checkpoint.damaged(f"expected the state of a training run ({error!r})") from error
