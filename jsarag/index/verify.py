"""Is an index folder what its manifest says? Every problem found, in words; nothing is repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from jsarag.errors import CheckpointError, DataError, DtypeError
from jsarag.index import shards
from jsarag.index.generations import belongs, current_folder
from jsarag.index.manifest import NAME, Manifest
from jsarag.index.store import PASSAGES, PassageStore, passage_of, read_offsets
from jsarag.io.atomic import COMPLETE, is_complete
from jsarag.randomness import generator
from jsarag.types import Passage

_CHUNK_ROWS = 65_536
_MAX_LISTED = 3


def verify(
    folder: Path | str,
    deep: bool = True,
    *,
    embed: Callable[[Sequence[Passage]], Tensor] | None = None,
    samples: int = 16,
    seed: int = 0,
) -> list[str]:
    """Check an index folder.

    Args:
        folder: the index folder.
        deep: also read every byte: checksums, finite vectors, unit norms, passages that parse.
        embed: re-embeds passages -> [n, D]; given, ``samples`` rows are compared with it.
        samples: how many.
        seed: picks the rows.

    Returns:
        One sentence per problem; empty where the index is sound.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder}: no such folder"]
    try:
        folder = current_folder(folder)
    except CheckpointError as error:
        return [str(error)]
    problems = [] if is_complete(folder) else [f"{folder}: not marked {COMPLETE}"]
    try:
        manifest = Manifest.read(folder)
        dtype = shards.dtype_of(manifest.dtype)
    except (CheckpointError, DtypeError) as error:
        return [*problems, str(error)]
    problems += _file_problems(folder, manifest, deep)
    try:
        shards.check_layout(folder, manifest.shards, manifest.count, manifest.width, dtype)
        offsets = read_offsets(folder)
    except (CheckpointError, DataError) as error:
        return problems if problems else [str(error)]
    if len(offsets) - 1 != manifest.count:
        problems.append(
            f"{folder / PASSAGES}: expected {manifest.count} passages, found {len(offsets) - 1}"
        )
    # Mapped: an index is also verified where it does not fit in memory.
    vectors = shards.read_shards(
        folder, manifest.shards, manifest.width, dtype, check=False, in_memory=False
    )
    if deep:
        problems += _vector_problems(folder, manifest, vectors)
        problems += _passage_problems(folder)
    if embed is not None and not problems:
        problems += _embedding_problems(folder, vectors, embed, samples, seed)
    return problems


def _file_problems(folder: Path, manifest: Manifest, deep: bool) -> list[str]:
    records = {shard.file: shard.record for shard in manifest.shards} | dict(manifest.files)
    found = [record.problem(folder / name, deep=deep) for name, record in records.items()]
    known = {*records, NAME, COMPLETE}
    names = {entry.name for entry in folder.iterdir()}
    strangers = sorted(name for name in names - known if not belongs(name))
    return [
        *(problem for problem in found if problem is not None),
        *(f"{folder}: the manifest does not list {name}" for name in strangers[:_MAX_LISTED]),
    ]


def _vector_problems(folder: Path, manifest: Manifest, vectors: Tensor) -> list[str]:
    broken, long = 0, 0
    # Rounding each component by eps/2 changes the norm of a unit vector by no more than that.
    tolerance = 1e-3 + torch.finfo(vectors.dtype).eps
    for start in range(0, len(vectors), _CHUNK_ROWS):
        part = vectors[start : start + _CHUNK_ROWS].float()
        finite = part.isfinite().all(dim=1)
        broken += int((~finite).sum())
        long += int(((part[finite].norm(dim=1) - 1).abs() > tolerance).sum())
    problems = []
    if broken:
        problems.append(f"{folder}: {broken} vectors hold NaN or infinity")
    if long and manifest.encoder.get("normalise"):
        problems.append(f"{folder}: {long} vectors are not of length 1, but the encoder normalises")
    return problems


def _passage_problems(folder: Path) -> list[str]:
    path, problems = folder / PASSAGES, []
    first: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                passage = passage_of(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                problems.append(f"{path}:{number}: not a passage ({error!r})")
                continue
            if first.setdefault(passage.id, number) != number:
                problems.append(
                    f"{path}:{number}: id {passage.id!r} already stands in line {first[passage.id]}"
                )
    if len(problems) > _MAX_LISTED:
        rest = len(problems) - _MAX_LISTED
        problems = [*problems[:_MAX_LISTED], f"{path}: {rest} more lines like these"]
    return problems


def _embedding_problems(
    folder: Path,
    vectors: Tensor,
    embed: Callable[[Sequence[Passage]], Tensor],
    samples: int,
    seed: int,
) -> list[str]:
    if len(vectors) == 0:
        return []
    store = PassageStore(folder)
    picks = generator(seed, "verify", len(vectors)).choice(
        len(vectors), size=min(samples, len(vectors)), replace=False
    )
    rows = sorted(int(pick) for pick in picks)
    fresh = embed([store[row] for row in rows]).float().cpu()
    stored = vectors[torch.tensor(rows)].float()
    if fresh.shape != stored.shape:
        given, held = fresh.shape[-1], stored.shape[-1]
        return [
            f"{folder}: the encoder gives vectors of width {given}, the index holds width {held}"
        ]
    # Padding to another batch moves an f32 embedding by about 1e-6; storage rounds on top.
    scale = fresh.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    error = (fresh - stored).norm(dim=1) / scale
    wrong = [
        row for row, e in zip(rows, error.tolist(), strict=True) if not e <= _tolerance(vectors)
    ]
    if not wrong:
        return []
    problem = (
        f"{folder}: {len(wrong)} of {len(rows)} re-embedded passages differ from their stored "
        f"vectors (rows {wrong[:_MAX_LISTED]}, largest relative error {float(error.max()):.2g}); "
        "another encoder or another passage text was used. Rebuild the index"
    )
    return [problem]


def _tolerance(vectors: Tensor) -> float:
    return 1e-3 + torch.finfo(vectors.dtype).eps
