"""What ``serve-index`` searches: a run's prior and index, or an index folder and its encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsarag_cli.output import note_choice

if TYPE_CHECKING:
    from jsarag.index.flat import FlatIndex
    from jsarag.index.interfaces import Encoder
    from jsarag.serve.engine import Passages, SearchEngine


@dataclass(frozen=True, slots=True)
class Source:
    """Everything a server needs."""

    index: FlatIndex
    encoder: Encoder
    passages: Passages
    name: str


def open_source(folder: Path, device: str | None, *, check: bool = True) -> Source:
    """Open a run folder or an index folder.

    Args:
        folder: which.
        device: where encoders go; None: a run's own, else 'auto'.
        check: compare vectors and texts with their checksums.

    Raises:
        CheckpointError: it is neither, or it is damaged.
    """
    from jsarag.index.generations import current_folder, is_index
    from jsarag.index.store import PassageStore
    from jsarag.io.run_dir import RunDir

    if is_index(folder):
        from jsarag_cli.indexing import open_folder

        folder = current_folder(folder)  # once: vectors and passages of one generation
        index, encoder, name = open_folder(folder, device or "auto", check=check)
        return Source(index, encoder, PassageStore(folder, check=check), name)
    RunDir(folder).identity()
    from jsarag.config.load import flag
    from jsarag.runs import open_run

    unchecked = [] if check else [flag("index.verify", "never", "flag --no-verify")]
    opened = open_run(folder, device=device, overrides=unchecked)
    note_choice(opened)
    parts = opened.parts
    return Source(
        parts.prior_index, parts.retrievers.prior, parts.dataset.kb, folder.resolve().name
    )


def open_engine(
    folder: Path,
    device: str | None,
    engine: str,
    tell: Callable[[str], None],
    *,
    check: bool = True,
) -> tuple[SearchEngine, str]:
    """A source searched by a named engine, and what it is called.

    Args:
        folder: a run or an index.
        device: of a run's encoder; None: its own.
        engine: how the vectors are searched (:mod:`jsarag.index.engines`).
        tell: hears how an engine that is not the index itself compares with exact search.
        check: compare vectors and texts with their checksums.

    Raises:
        CheckpointError: neither run nor index, or damaged. ConfigError, DtypeError,
            BackendUnavailableError: the engine does not fit.
    """
    from jsarag.index.engines import EXACT, make_engine, measure_recall
    from jsarag.serve.engine import SearchEngine

    opened = open_source(folder, device, check=check)
    index = make_engine(engine, opened.index)
    if engine != EXACT:
        tell(f"engine {engine}: {measure_recall(index, opened.index)}")
    return SearchEngine(index, opened.encoder, opened.passages), opened.name
