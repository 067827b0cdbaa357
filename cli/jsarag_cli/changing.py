"""Index folders that change: rows in and out, all of it embedded anew; each the next generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jsarag.index.changes import Change
    from jsarag.index.manifest import Manifest
    from jsarag.models.encoder import TextEncoder
    from jsarag.train.reporting import Reporter
    from jsarag.types import Passage
    from jsarag_cli.indexing import EncoderChoice

Operation = Literal["insert", "update", "delete"]


def change_folder(
    folder: Path,
    operation: Operation,
    file: Path,
    *,
    keep: int,
    batch_size: int,
    device: str,
    reporter: Reporter,
) -> None:
    """Put a file's rows into an index, in place of those of the same ids, or take ids out.

    Raises:
        DataError: the file cannot be read, or its ids do not fit the operation.
        IndexStaleError: the encoder is no longer the one the index was built with.
        ConfigError: the index is a run's. CheckpointError: no index, or a damaged one.
    """
    from jsarag.data.knowledge_base import KnowledgeBase
    from jsarag.index.changes import changing, write_generation

    rows: Sequence[Any] = (
        _read_ids(file) if operation == "delete" else KnowledgeBase.read(file).passages
    )
    reporter.stage("read index", None)
    with changing(folder) as (current, manifest):
        choice = _require_own(folder, manifest)
        old = _passages(current)
        change = _change(operation, old, rows)
        if list(change.passages) == old:
            reporter.event("nothing differs; the index stays as it is")
            return
        kb = KnowledgeBase(change.passages, source=str(folder))
        fresh = [kb[row] for row in change.fresh]
        vectors = _fresh_vectors(folder, manifest, choice, fresh, batch_size, device, reporter)
        note = {"operation": operation, "rows": len(rows), "embedded": len(fresh)}
        reporter.stage("write generation", None)
        written = write_generation(folder, kb, change.origins, vectors, note=note, keep=keep)
    reporter.event(
        f"generation {written.generation}: {operation} of {len(rows):,}, "
        f"{len(fresh):,} passages embedded, {written.count - len(fresh):,} vectors kept"
    )


def rebuild_folder(
    folder: Path, *, keep: int, device: str, reporter: Reporter, batch_size: int = 64
) -> None:
    """Embed all passages of an index anew with its encoder as it is now.

    Raises:
        ConfigError: the index is a run's. CheckpointError: no index, or its passages are damaged.
        MemoryForecastError: it would not fit.
    """
    from jsarag.data.knowledge_base import KnowledgeBase
    from jsarag.index.changes import changing, write_generation
    from jsarag.index.interfaces import index_spec
    from jsarag.index.memory import available_memory_bytes, forecast_index, require_memory

    with changing(folder, vectors=False) as (current, manifest):
        choice = _require_own(folder, manifest)
        kb = KnowledgeBase(_passages(current), source=str(folder))
        reporter.stage("load encoder", None)
        encoder = choice.load(device).passages
        require_memory(
            forecast_index(len(kb), encoder.width, manifest.dtype), available_memory_bytes()
        )
        vectors = _vectors(encoder, kb.passages, batch_size, reporter)
        note = {"operation": "rebuild", "rows": len(kb), "embedded": len(kb)}
        reporter.stage("write generation", None)
        write_generation(
            folder,
            kb,
            [-1] * len(kb),
            vectors,
            note=note,
            spec=index_spec(encoder, kb.digest),
            keep=keep,
        )


def _change(operation: Operation, old: Sequence[Passage], rows: Sequence[Any]) -> Change:
    from jsarag.index import changes
    from jsarag.models.prompts import passage_text

    if operation == "insert":
        return changes.insert(old, rows)
    if operation == "update":
        return changes.update(old, rows, passage_text)
    return changes.delete(old, rows)


def _fresh_vectors(
    folder: Path,
    manifest: Manifest,
    choice: EncoderChoice,
    passages: Sequence[Passage],
    batch_size: int,
    device: str,
    reporter: Reporter,
) -> Any:
    """Vectors f32 [n, D] of what is new; no encoder is loaded where nothing is."""
    import torch

    from jsarag.index.interfaces import index_spec

    if not passages:
        return torch.empty(0, manifest.width)
    reporter.stage("load encoder", None)
    encoder = choice.load(device).passages
    manifest.require(index_spec(encoder), folder)
    return _vectors(encoder, passages, batch_size, reporter)


def _vectors(
    encoder: TextEncoder, passages: Sequence[Passage], batch_size: int, reporter: Reporter
) -> Any:
    from jsarag.data.knowledge_base import KnowledgeBase
    from jsarag.index.rebuild import embed_knowledge_base
    from jsarag.models.prompts import passage_text

    reporter.stage("embed passages", len(passages))
    vectors = embed_knowledge_base(
        encoder,
        KnowledgeBase(passages),
        passage_text=passage_text,
        batch_size=batch_size,
        progress=lambda done, _: reporter.advance(done),
    )
    for line in encoder.truncation.summary().splitlines():
        reporter.event(line)
    return vectors


def _require_own(folder: Path, manifest: Manifest) -> EncoderChoice:
    """How to load the encoder of an index that may change."""
    from jsarag.errors import ConfigError
    from jsarag_cli.indexing import encoder_choice

    choice = encoder_choice(manifest)
    if choice is None:
        raise ConfigError(
            f"{folder}: this index belongs to a run ('{manifest.extra.get('run', 'unknown')}'), "
            "which needs exactly these vectors; make one of your own with `jsarag index build "
            "--encoder RUN`, which may change"
        )
    return choice


def _passages(current: Path) -> list[Passage]:
    from jsarag.index.store import PassageStore

    store = PassageStore(current)
    return [store[row] for row in range(len(store))]


def _read_ids(file: Path) -> list[str]:
    """The ids of a ``.jsonl`` file's rows, or of a plain list, each once."""
    from jsarag.data.rows import ReadStats, read_rows
    from jsarag.index.sources import read_ids

    if file.suffix != ".jsonl":
        found = read_ids(file)
    else:
        rows = read_rows(file, ("id",), field_map={}, stats=ReadStats())
        found = [row.identity("id") for row in rows]
    return list(dict.fromkeys(found))
