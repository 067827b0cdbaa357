"""Opening a finished (or half finished) run folder for use: evaluate, ask, serve, resume.

Decides which checkpoint and which index generation belong together; building the objects is
``assemble``'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jsarag.assemble import (
    OpenIndex,
    Parts,
    make_device,
    make_encoder,
    make_parts,
    make_retrievers,
)
from jsarag.config.load import Setting, load_run_config
from jsarag.config.schema import Config
from jsarag.data.registry import Dataset
from jsarag.errors import IndexStaleError
from jsarag.index.flat import FlatIndex
from jsarag.index.interfaces import Progress, index_spec
from jsarag.io.run_dir import RunDir
from jsarag.models.retrievers import PartName, RetrieverParts
from jsarag.train.kept import served_checkpoint
from jsarag.train.probe import PROBE_FILE, Probe


@dataclass
class OpenRun:
    """A run folder opened for use: its configuration and its parts, trained or as they began.

    ``step`` is the checkpoint's, None for parts as they were before training. ``note``: that
    another state than the expected one was opened, and why.
    """

    run_dir: RunDir
    config: Config
    parts: Parts
    step: int | None
    note: str | None = None


def index_folder(run_dir: RunDir, part: PartName, generation: int) -> Path:
    """Where a run keeps one generation of one passage encoder's index."""
    folder = run_dir.index_path(generation)
    return folder if part == "passages" else folder.with_name(f"posterior-{folder.name}")


def saved_index(
    run_dir: RunDir, generation: int, *, may_lag: bool = False, check: bool = True
) -> OpenIndex:
    """Opens a run's index of a generation, where it exists and belongs to the models at hand.

    Args:
        run_dir: the run.
        generation: of the index.
        may_lag: accept vectors that an earlier state of the same passage encoder made, as they are
            between two rebuilds; a run that is continued must find exactly those.
        check: compare the vectors with their checksums.
    """

    def find(part: PartName, retrievers: RetrieverParts, dataset: Dataset) -> FlatIndex | None:
        folder = index_folder(run_dir, part, generation)
        if not folder.is_dir():
            return None
        expected = index_spec(retrievers.parts()[part], dataset.kb.digest)
        if may_lag:
            expected.pop("weights_digest")
        try:
            return FlatIndex.open(folder, expected, check=check)
        except IndexStaleError:
            return None

    return find


def open_encoders(path: Path | str, *, device: str = "auto") -> RetrieverParts:
    """The encoders of a run's kept state, without its data, generator and index.

    Args:
        path: a run folder.
        device: where they go.

    Raises:
        CheckpointError: no run, or no complete checkpoint.
    """
    run_dir = RunDir(path)
    run_dir.identity()
    config = load_run_config(run_dir.check_config()).config
    checkpoint = served_checkpoint(run_dir)
    retrievers = make_retrievers(config, make_encoder(config))
    retrievers.load_checkpoint_states(checkpoint.modules)
    return retrievers.to(make_device(device)).eval()


def open_run(
    path: Path | str,
    *,
    untrained: bool = False,
    split: str | None = None,
    device: str | None = None,
    overrides: Iterable[Setting] = (),
    progress: Progress | None = None,
) -> OpenRun:
    """Open a run folder: the state it keeps, or its parts as they were before training.

    Args:
        path: a run folder that ``jsarag train`` wrote.
        untrained: leave every part as it starts.
        split: the data split to read; None takes ``eval.split``.
        device: overrides ``train.device``.
        overrides: settings to change (decoding, say); they must not change the models.
        progress: told about passages embedded where no stored index fits.

    Raises:
        CheckpointError: no run, or no complete checkpoint.
    """
    run_dir = RunDir(path)
    run_dir.identity()
    config = load_run_config(run_dir.check_config(), overrides).config
    checkpoint = None if untrained else served_checkpoint(run_dir)
    generation = 0 if checkpoint is None else int(checkpoint.value("progress", "generation"))
    parts = make_parts(
        config,
        splits=(split or config.eval.split,),
        checkpoint=checkpoint,
        open_index=saved_index(run_dir, generation, check=config.index.verify == "open"),
        generation=generation,
        progress=progress,
        device=device,
    )
    probe = run_dir.path / PROBE_FILE
    if config.train.bf16 is None and probe.is_file():
        parts.generator.bf16 = Probe.load(probe).precision.bf16
    parts.retrievers.eval()
    parts.generator.eval()
    if checkpoint is None:
        return OpenRun(run_dir, config, parts, None)
    return OpenRun(run_dir, config, parts, checkpoint.step, checkpoint.note)
