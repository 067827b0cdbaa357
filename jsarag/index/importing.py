"""Vectors made elsewhere, as an index of ours: matched with passages, proven, and written.

Proven: a keyed sample of passages is embedded again and must agree. What an encoder is, and which
other ways of using it are worth trying, is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jsarag.errors import DataError
from jsarag.index.interfaces import KnowledgeBaseLike, Progress
from jsarag.index.manifest import Manifest
from jsarag.index.rows import some_of
from jsarag.index.sources import VectorSource
from jsarag.index.streaming import write_index
from jsarag.randomness import generator
from jsarag.types import Passage

AGREES = 0.9999
_LISTED = 3
_LONGEST = 4
_UNIT_TOLERANCE = 1e-3


class NamedPassages(KnowledgeBaseLike, Protocol):
    """A knowledge base whose passages are found by id."""

    source: str

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, by row."""

    def row_of(self, passage_id: str, /) -> int:
        """The row of an id."""

    def __contains__(self, passage_id: object, /) -> bool:
        """Whether a passage has this id."""


Embed = Callable[[Sequence[Passage]], Tensor]
"""Passages to vectors f32 [n, D]."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Another way in which the vectors may have been made.

    says: what differs, in words. fix: what to change then. embed: passages to vectors.
    """

    says: str
    fix: str
    embed: Embed


@dataclass(frozen=True, slots=True)
class Proof:
    """Passages embedded again, and the smallest cosine with their given vectors."""

    samples: int
    least_cosine: float


def match(source: VectorSource, kb: NamedPassages, ids: Sequence[str] | None) -> NDArray[np.int64]:
    """The row of each vector's passage, int64 [N].

    Args:
        source: the vectors.
        kb: their passages.
        ids: given beside the file; None takes the file's own, or the order of ``kb``.

    Raises:
        DataError: not exactly one vector for each passage; names ids.
    """
    ids = source.ids if ids is None else ids
    if ids is None:
        if source.count != len(kb):
            raise DataError(
                f"expected {len(kb):,} vectors, one for each passage of {kb.source} in its order, "
                f"found {source.count:,}; give --ids FILE with the passage of every vector",
                path=source.path,
            )
        return np.arange(source.count, dtype=np.int64)
    if len(ids) != source.count:
        raise DataError(
            f"expected an id for each of {source.count:,} vectors, found {len(ids):,} ids",
            path=source.path,
        )
    unknown = [one for one in ids if one not in kb]
    if unknown:
        raise DataError(
            f"{len(unknown):,} ids are of no passage of {kb.source}: {some_of(unknown)}; give the "
            "knowledge base the vectors were made of, or take these vectors out",
            path=source.path,
        )
    rows = np.fromiter((kb.row_of(one) for one in ids), dtype=np.int64, count=len(ids))
    counts = np.bincount(rows, minlength=len(kb))
    twice = np.flatnonzero(counts > 1)
    if twice.size:
        raise DataError(
            f"{twice.size:,} ids come more than once: {some_of([kb.ids[row] for row in twice])}; "
            "keep one vector of each",
            path=source.path,
        )
    missing = np.flatnonzero(counts == 0)
    if missing.size:
        raise DataError(
            f"{missing.size:,} of {len(kb):,} passages of {kb.source} have no vector: "
            f"{some_of([kb.ids[row] for row in missing])}; import without these passages and add "
            "them with `jsarag index insert`, which embeds them",
            path=source.path,
        )
    return rows


def prove(
    source: VectorSource,
    rows: NDArray[np.int64],
    kb: NamedPassages,
    embed: Embed,
    width: int,
    *,
    model: str,
    variants: Sequence[Variant] = (),
    samples: int = 32,
    seed: int = 0,
) -> Proof:
    """Embed a sample again and compare directions; of it, the longest passages show truncation.

    Args:
        source, rows, kb: the vectors, their passages' rows, the passages.
        embed: the encoder as it will be used.
        width: of its vectors.
        model: what messages call it.
        variants: tried where the sample does not agree, to name the cause.
        samples: passages to embed.
        seed: picks them.

    Raises:
        DataError: another width, or a cosine below ``AGREES``; shows the worst passages.
    """
    if source.width != width:
        raise DataError(
            f"expected vectors of {width} numbers, as {model} gives, found {source.width}; name "
            "the encoder they were made with (--encoder)",
            path=source.path,
        )
    places = _sample(rows, kb, samples, seed)
    passages = [kb[int(rows[place])] for place in places]
    given = torch.from_numpy(source.take(places))
    _require_usable(given, lambda one: passages[one].id, source.path)
    cosines = functional.cosine_similarity(given, embed(passages).float().cpu(), dim=-1)
    if bool((cosines >= AGREES).all()):
        return Proof(len(places), float(cosines.min()))
    worst = cosines.argsort().tolist()
    cause = _cause(given, passages, worst, variants)
    shown = ", ".join(f"{passages[one].id!r} {float(cosines[one]):.4f}" for one in worst[:_LISTED])
    raise DataError(
        f"not what {model} gives: {int((cosines < AGREES).sum())} of {len(places)} passages "
        f"embedded again differ (cosine {AGREES} expected; worst: {shown}). {cause}",
        path=source.path,
    )


def import_vectors(
    folder: Path,
    source: VectorSource,
    rows: NDArray[np.int64],
    kb: NamedPassages,
    *,
    dtype: str,
    spec: Mapping[str, Any],
    extra: Mapping[str, Any],
    progress: Progress | None = None,
) -> tuple[Manifest, int]:
    """Write the index folder, block by block.

    Args:
        folder: where.
        source, rows, kb: as matched and proven.
        dtype: storage dtype.
        spec: identity of the encoder the vectors are of.
        extra: kept in the manifest.
        progress: called with (done, total).

    Returns:
        The manifest, and how many vectors were scaled to length 1, as the encoder's are.

    Raises:
        DataError: a vector with NaN, infinity or zeros alone; names its passage.
    """
    scaled = 0

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal scaled
        for first, block in source.blocks():
            here, vectors = rows[first : first + len(block)], torch.from_numpy(block)
            id_of = partial(_id_at, kb, here)
            _require_usable(vectors, id_of, source.path, first)
            if spec.get("normalise"):
                lengths = vectors.norm(dim=1, keepdim=True)
                scaled += int(((lengths - 1).abs() > _UNIT_TOLERANCE).sum())
                vectors = vectors / lengths
            if progress is not None:
                progress(first + len(block), source.count)
            yield torch.from_numpy(here), vectors

    manifest = write_index(
        folder, kb, blocks(), width=source.width, dtype=dtype, spec=spec, extra=extra
    )
    return manifest, scaled


def _sample(rows: NDArray[np.int64], kb: KnowledgeBaseLike, samples: int, seed: int) -> list[int]:
    """Positions: the longest of a larger keyed draw, and the first of it."""
    drawn = generator(seed, "import", len(rows)).choice(
        len(rows), size=min(len(rows), samples * 8), replace=False
    )
    places = [int(place) for place in drawn]
    longest = sorted(places, key=lambda place: -len(kb[int(rows[place])].text))[:_LONGEST]
    return sorted(list(dict.fromkeys([*longest, *places]))[:samples])


def _id_at(kb: KnowledgeBaseLike, rows: NDArray[np.int64], one: int) -> str:
    return kb[int(rows[one])].id


def _require_usable(
    vectors: Tensor, id_of: Callable[[int], str], path: Path, first: int | None = None
) -> None:
    for wrong, what in (
        (~vectors.isfinite().all(dim=1), "NaN or infinity"),
        ((vectors == 0).all(dim=1), "zeros alone"),
    ):
        if bool(wrong.any()):
            one = int(wrong.nonzero()[0])
            where = "" if first is None else f"vector {first + one}, "
            raise DataError(
                f"{where}passage {id_of(one)!r}: expected a direction, found {what}; embed this "
                "passage again, or leave it out",
                path=path,
            )


def _cause(
    given: Tensor, passages: Sequence[Passage], worst: Sequence[int], variants: Sequence[Variant]
) -> str:
    """The first variant all samples agree with, or what is left to look at."""
    for variant in variants:
        # The worst ones first: most variants need no more.
        if all(
            _agree(given[some], variant.embed([passages[one] for one in some]))
            for some in (list(worst[:_LISTED]), list(worst))
        ):
            return f"They agree with {variant.says}: {variant.fix}"
    return (
        "Usual causes: another prompt prefix (--passage-prefix), pooling (--pooling) or token "
        "limit (--max-passage-tokens), another text (jsarag reads 'title: text'), rows in another "
        "order (--ids), rounding to int8, another model (--encoder)"
        + (
            f"; {len(variants)} variants of the first four were tried, none fits"
            if variants
            else ""
        )
    )


def _agree(given: Tensor, found: Tensor) -> bool:
    cosines = functional.cosine_similarity(given, found.float().cpu(), dim=-1)
    return bool((cosines >= AGREES).all())
