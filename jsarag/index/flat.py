"""The exact index: all passage embeddings of one generation, searched by ``ops``.

Owns the vectors, their generation and their folder. How they are made is ``rebuild.py``'s, what
the numbers of a search mean is ``em``'s and ``serve``'s.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from jsarag import ops
from jsarag.errors import CheckpointError, DataError, DtypeError, IndexStaleError, ShapeError
from jsarag.index import shards
from jsarag.index.generations import current_folder
from jsarag.index.interfaces import KnowledgeBaseLike
from jsarag.index.manifest import Manifest
from jsarag.index.memory import available_memory_bytes
from jsarag.index.store import write_store
from jsarag.io.atomic import COMPLETE, is_complete, recover_folder, write_folder

_DRIFT_ROWS = 65_536
# Of free memory, an index that is opened may fill this much; a larger one is mapped.
_MEMORY_SHARE = 0.75
_DTYPES = (*shards.DTYPES.values(), torch.float64)


class IndexScan(NamedTuple):
    """One pass over the index, and the generation it was made with.

    ids int64 [B, k] rows by score descending (-1 where there are fewer than k passages), scores
    f32 [B, k] inner products (-inf there), tile_lse f32 [B, ceil(N / TILE)] or None.
    """

    ids: Tensor
    scores: Tensor
    tile_lse: Tensor | None
    generation: int


class IndexDraws(NamedTuple):
    """Draws from the softmax over the whole index: ids int64 [B, M], logp f32 [B, M] in nats."""

    ids: Tensor
    logp: Tensor
    generation: int


class FlatIndex:
    """Passage embeddings with exact inner-product search; immutable, one object per generation.

    Args:
        embeddings: [N, D] f32, bf16 or f16 (f64 for tests; it cannot be saved), row = passage row.
        generation: counts rebuilds; results of different generations must not be mixed.
        spec: identity of the vectors (:func:`jsarag.index.interfaces.index_spec`).

    Raises:
        ShapeError, DtypeError: ``embeddings`` is something else.
    """

    def __init__(
        self, embeddings: Tensor, generation: int = 0, spec: Mapping[str, Any] | None = None
    ) -> None:
        if embeddings.dim() != 2:
            raise ShapeError(
                f"FlatIndex embeddings: expected [N, D], found shape {tuple(embeddings.shape)}"
            )
        if embeddings.dtype not in _DTYPES:
            raise DtypeError(
                f"FlatIndex embeddings: expected f32, bf16 or f16, found {embeddings.dtype}"
            )
        self.embeddings = embeddings.detach()
        self.generation = generation
        self.spec = dict(spec or {})

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def __repr__(self) -> str:
        return (
            f"FlatIndex(count={len(self)}, width={self.width}, dtype={self.embeddings.dtype}, "
            f"generation={self.generation})"
        )

    @property
    def width(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    def to(self, device: torch.device) -> Self:
        """The same generation on a device: this object where its vectors are there already."""
        vectors = self.embeddings.to(device)
        if vectors is self.embeddings:
            return self
        moved = copy.copy(self)
        moved.embeddings = vectors
        return moved

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> IndexScan:
        """The k best passages of each query.

        Args:
            queries: [B, D].
            k: at least 1; may exceed N.
            exclude: int64 [B, E] rows to leave out, -1 pads.
        """
        return self.scan(queries, k, 1.0, tile_lse=False, exclude=exclude)

    def scan(
        self,
        queries: Tensor,
        k: int,
        inv_temperature: float,
        tile_lse: bool = True,
        exclude: Tensor | None = None,
    ) -> IndexScan:
        """The k best passages and, from the same pass, the log-sum-exp of every tile.

        Args:
            queries: [B, D].
            k: at least 1; may exceed N.
            inv_temperature: factor on the scores inside ``tile_lse``; the scores stay unscaled.
            tile_lse: whether to return it.
            exclude: int64 [B, E] rows to leave out, -1 pads.
        """
        result = ops.scan(
            queries, self.embeddings, k, inv_temperature, exclude=exclude, tile_lse=tile_lse
        )
        return IndexScan(result.ids, result.scores, result.tile_lse, self.generation)

    def draw(
        self,
        queries: Tensor,
        inv_temperature: float,
        tile_lse: Tensor,
        uniforms: Tensor,
        exclude: Tensor | None = None,
        *,
        generation: int | None = None,
    ) -> IndexDraws:
        """Exact categorical draws from the softmax over all passages.

        Args:
            queries: [B, D], as scanned.
            inv_temperature: as scanned.
            tile_lse: [B, ceil(N / TILE)] of :meth:`scan`, with the same ``exclude``.
            uniforms: f64 [B, M] in (0, 1).
            exclude: int64 [B, E], as scanned.
            generation: of the scan, to be checked against this index.

        Raises:
            IndexStaleError: ``tile_lse`` came from another generation.
        """
        self.require_generation(generation)
        result = ops.draw(
            queries, self.embeddings, inv_temperature, tile_lse, uniforms, exclude=exclude
        )
        return IndexDraws(result.ids, result.logp, self.generation)

    def log_partition(
        self, queries: Tensor, inv_temperature: float, exclude: Tensor | None = None
    ) -> Tensor:
        """log sum exp(score · inv_temperature) over all passages [B]; differentiable."""
        return ops.log_partition(queries, self.embeddings, inv_temperature, exclude=exclude)

    def vectors(self, rows: Tensor) -> Tensor:
        """The stored embeddings of rows: int64 [n] -> f32 [n, D] (f64 if stored so)."""
        picked = self.embeddings.index_select(0, rows.to(self.embeddings.device))
        return picked.to(torch.promote_types(picked.dtype, torch.float32))

    def drift(self, other: FlatIndex) -> float:
        """Mean distance between a passage's vectors here and in another generation."""
        if len(self) == 0:
            return 0.0
        total = 0.0
        for start in range(0, len(self), _DRIFT_ROWS):
            mine = self.embeddings[start : start + _DRIFT_ROWS].float()
            total += float((mine - other.embeddings[start : start + _DRIFT_ROWS]).norm(dim=1).sum())
        return total / len(self)

    def require_generation(self, generation: int | None) -> None:
        """Refuse a result that belongs to another generation; None is not checked.

        Raises:
            IndexStaleError: the generations differ.
        """
        if generation is not None and generation != self.generation:
            raise IndexStaleError(
                f"index: expected results of generation {self.generation}, found generation "
                f"{generation}; search again after a rebuild"
            )

    def save(
        self,
        folder: Path | str,
        kb: KnowledgeBaseLike,
        manifest: Mapping[str, Any] | None = None,
        *,
        shard_bytes: int = shards.DEFAULT_SHARD_BYTES,
    ) -> Manifest:
        """Write the index folder: vectors, passages, manifest.

        Args:
            folder: replaced if it holds a complete index, refused if it holds anything else.
            kb: the passages, in the rows' order.
            manifest: further facts to keep beside (a name, the run); JSON types.
            shard_bytes: the largest vector file.

        Raises:
            DataError: ``kb`` is not what the vectors were made of.
        """
        if len(kb) != len(self):
            raise DataError(
                f"index: expected as many passages as vectors ({len(self)}), found {len(kb)}; pass "
                "the knowledge base the index was built from"
            )
        if self.spec.get("kb_digest", kb.digest) != kb.digest:
            raise DataError(
                "index: the knowledge base is not the one the vectors were made of (its digest "
                "differs); pass that one, or rebuild"
            )
        dtype = shards.name_of(self.embeddings.dtype)
        with write_folder(folder) as temporary:
            record = Manifest(
                count=len(self),
                width=self.width,
                dtype=dtype,
                generation=self.generation,
                encoder={**self.spec, "kb_digest": kb.digest},
                shards=shards.write_shards(temporary, self.embeddings, shard_bytes=shard_bytes),
                files=write_store(temporary, kb),
                extra=dict(manifest or {}),
            )
            record.write(temporary)
        return record

    @classmethod
    def open(
        cls,
        folder: Path | str,
        expected: Mapping[str, Any] | None = None,
        *,
        check: bool = True,
    ) -> Self:
        """Read an index folder's vectors: into memory where they fit, else they are mapped.

        The passage store beside them is ``PassageStore``'s.

        Args:
            folder: what :meth:`save` wrote.
            expected: fields the index must have (:func:`~jsarag.index.interfaces.index_spec`).
            check: compare the vectors with their checksums, at 3 to 4 GB/s from the system's cache;
                the manifest and all sizes are compared anyway.

        Raises:
            CheckpointError: no index, unfinished or damaged; names the file.
            IndexStaleError: another encoder or knowledge base; names the fields.
        """
        folder = Path(folder)
        recover_folder(folder)
        folder = current_folder(folder)
        manifest = Manifest.read(folder)
        if not is_complete(folder):
            raise CheckpointError(
                f"{folder / COMPLETE}: the file is missing, so the index may never have been "
                f"finished; {shards.FIX}"
            )
        manifest.require(expected or {}, folder)
        dtype = shards.dtype_of(manifest.dtype)
        shards.check_layout(folder, manifest.shards, manifest.count, manifest.width, dtype)
        size = manifest.count * manifest.width * dtype.itemsize
        embeddings = shards.read_shards(
            folder,
            manifest.shards,
            manifest.width,
            dtype,
            check=check,
            in_memory=size <= _MEMORY_SHARE * available_memory_bytes(),
        )
        return cls(embeddings, manifest.generation, manifest.encoder)
