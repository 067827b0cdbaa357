"""The knowledge base spread over the processes: each holds some rows, all answer for all of them.

A :class:`~jsarag.index.flat.FlatIndex` of a process's own rows whose answers are merged. Shards are
whole tiles, in order, so tiles' masses are those of one index bit for bit; the best rows are merged
by score, then by row; a draw picks the shard by its mass and the row within it from what is left of
the same uniform. Every call is a meeting: the processes bring their queries, look through their own
rows for all of them, and take the answers to their own home.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jsarag.errors import JsaragError
from jsarag.index.flat import FlatIndex, IndexDraws, IndexScan
from jsarag.index.interfaces import KnowledgeBaseLike
from jsarag.index.manifest import Manifest
from jsarag.ops.reference.draw import pick
from jsarag.ops.tile import TILE, tile_count
from jsarag.parallel.team import Team

_SCAN, _DRAW, _PARTITION, _VECTORS = "scan", "draw", "log_partition", "vectors"
Words = Sequence[Mapping[str, Any] | None]


class _Asked(NamedTuple):
    """All processes' queries [n, D], their exclusions as rows of this shard, and which are ours."""

    queries: Tensor
    exclude: Tensor | None
    own: slice


class ShardedIndex(FlatIndex):
    """An index of which this process holds a part.

    Every method that searches is to be called by all processes at once; those that wait for
    process 0 instead take part by :meth:`help`. ``embeddings`` are this process's rows only.

    Args:
        whole: the index to take a part of; its vectors may be mapped from a file.
        team: the processes, in the order of their rows.
        label: tells it from another index of the same team; calls carry it.
    """

    def __init__(self, whole: FlatIndex, team: Team, label: str = "passages") -> None:
        self.label = label
        tiles = tile_count(len(whole))
        self._borders = [tiles * rank // team.size for rank in range(team.size + 1)]
        self._first = self._borders[team.rank] * TILE
        self._count, self._team = len(whole), team
        own = whole.embeddings[self._first : self._borders[team.rank + 1] * TILE]
        super().__init__(own.clone(), whole.generation, whole.spec)

    def __len__(self) -> int:
        return self._count

    def scan(
        self,
        queries: Tensor,
        k: int,
        inv_temperature: float,
        tile_lse: bool = True,
        exclude: Tensor | None = None,
    ) -> IndexScan:
        """See :meth:`FlatIndex.scan`; the same bits."""
        told = {"k": k, "inv_temperature": inv_temperature, "tile_lse": tile_lse}
        words = self._meet(_SCAN, queries, exclude, **told)
        return self._scan(words, queries, exclude)

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
        """See :meth:`FlatIndex.draw`; ids are the same unless rounding moves a border across a
        uniform, ``logp`` is to rounding."""
        self.require_generation(generation)
        told = {"inv_temperature": inv_temperature, "draws": uniforms.shape[1]}
        words = self._meet(_DRAW, queries, exclude, **told)
        return self._draw(words, queries, tile_lse, uniforms, exclude)

    def log_partition(
        self, queries: Tensor, inv_temperature: float, exclude: Tensor | None = None
    ) -> Tensor:
        """See :meth:`FlatIndex.log_partition`; to rounding. Its gradient is made in the same
        meeting, so that the way back meets nobody."""
        gradient = torch.is_grad_enabled() and queries.requires_grad
        told = {"inv_temperature": inv_temperature, "gradient": gradient}
        words = self._meet(_PARTITION, queries, exclude, **told)
        return self._log_partition(words, queries, exclude)

    def vectors(self, rows: Tensor) -> Tensor:
        """See :meth:`FlatIndex.vectors`."""
        told = {"index": self.label, "rows": len(rows)}
        return self._vectors(self._team.meet(_VECTORS, told).words, rows)

    def drift(self, other: FlatIndex) -> float:
        """Mean distance between the vectors of this process's rows here and in another index."""
        mine, theirs = self.embeddings.float(), other.embeddings.float()
        return float((mine - theirs).norm(dim=1).mean()) if len(mine) else 0.0

    def save(
        self,
        folder: Path | str,
        kb: KnowledgeBaseLike,
        manifest: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Manifest:
        """Refused: no process has all rows.

        Raises:
            JsaragError: always.
        """
        raise JsaragError(
            f"{folder}: a process of several holds a part of the index; save it whole"
        )

    def help(self, name: str, words: Words) -> bool:
        """Take part in a call of process 0's that was heard of; False where it is none of ours."""
        queries = self.embeddings.new_empty((0, self.width), dtype=torch.float32)
        none = queries.new_empty((0, 0), dtype=torch.float64)
        calls: dict[str, Callable[[], object]] = {
            _SCAN: lambda: self._scan(words, queries, None),
            _DRAW: lambda: self._draw(words, queries, none, none, None),
            _PARTITION: lambda: self._log_partition(words, queries, None),
            _VECTORS: lambda: self._vectors(words, queries.new_empty(0, dtype=torch.int64)),
        }
        if name not in calls or _first_told(words)["index"] != self.label:
            return False
        calls[name]()
        return True

    # ---- what happens at a meeting ---------------------------------------------------------

    def _scan(self, words: Words, queries: Tensor, exclude: Tensor | None) -> IndexScan:
        told, asked = _first_told(words), self._gather(words, queries, exclude)
        found = super().scan(
            asked.queries, told["k"], told["inv_temperature"], told["tile_lse"], asked.exclude
        )
        ids = torch.cat(self._answers(_shifted(found.ids, self._first), asked), dim=1)
        scores = torch.cat(self._answers(found.scores, asked), dim=1)
        # Stable: shards come in the order of their rows, so of equal scores the smaller row stays
        # in front.
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        kept = slice(told["k"])
        ids, scores = ids.gather(1, order)[:, kept], scores[:, kept].contiguous()
        lse = None
        if found.tile_lse is not None:
            lse = torch.cat(self._answers(found.tile_lse, asked, self._tiles()), dim=1)
        return IndexScan(ids.contiguous(), scores, lse, self.generation)

    def _draw(
        self,
        words: Words,
        queries: Tensor,
        tile_lse: Tensor,
        uniforms: Tensor,
        exclude: Tensor | None,
    ) -> IndexDraws:
        told, asked = _first_told(words), self._gather(words, queries, exclude)
        counts = [0 if word is None else word["queries"] for word in words]
        tiles, draws = sum(self._tiles()), told["draws"]

        def all_of(own: Tensor, width: int) -> Tensor:
            own = own.double().reshape(len(own), width if len(own) else 0)
            return torch.cat(self._team.gather(own, [(count, width) for count in counts]))

        log_mass, coins = all_of(tile_lse, tiles), all_of(uniforms, draws)
        shards = torch.stack(
            [_logsumexp(part) for part in torch.split(log_mass, self._tiles(), dim=1)], dim=1
        )
        peak = shards.amax(dim=1, keepdim=True)
        shard, rest = pick((shards - peak).exp(), coins)
        mine, tiny = shard == self._team.rank, torch.finfo(torch.float64).tiny
        start, end = self._borders[self._team.rank : self._team.rank + 2]
        found = super().draw(
            asked.queries,
            told["inv_temperature"],
            log_mass[:, start:end].to(torch.promote_types(asked.queries.dtype, torch.float32)),
            rest.where(mine, 0.5).clamp(min=tiny),  # what falls elsewhere is drawn for nothing
            asked.exclude,
        )
        ids = torch.stack(self._answers(_shifted(found.ids, self._first), asked))
        logp = torch.stack(self._answers(found.logp, asked))
        own, whole = shard[asked.own], shards[asked.own].logsumexp(dim=1, keepdim=True)
        ids, logp = (found.gather(0, own[None])[0] for found in (ids, logp))
        total = logp.double() + shards[asked.own].gather(1, own) - whole
        dead = peak[asked.own] == -torch.inf
        broken = ~peak[asked.own].isfinite() & ~dead
        total = total.masked_fill(dead, -torch.inf).masked_fill(broken, torch.nan)
        ids = ids.masked_fill(dead | broken, -1)
        return IndexDraws(ids, total.to(logp.dtype), self.generation)

    def _log_partition(self, words: Words, queries: Tensor, exclude: Tensor | None) -> Tensor:
        told, asked = _first_told(words), self._gather(words, queries, exclude)
        wanted = any(word is not None and word["gradient"] for word in words)
        with torch.set_grad_enabled(wanted):
            leaf = asked.queries.requires_grad_(wanted)
            part = super().log_partition(leaf, told["inv_temperature"], asked.exclude)
        parts = torch.stack(self._team.gather(part.detach(), [tuple(part.shape)] * self._team.size))
        whole = parts.logsumexp(dim=0)
        own = whole[asked.own]
        if not wanted:
            return own
        (gradient,) = torch.autograd.grad(part.sum(), leaf)
        # A shard counts by its mass; where nothing is left there is no gradient either.
        share = (part.detach() - whole).exp().nan_to_num(nan=0.0)
        gradient = gradient * share[:, None]
        self._team.add_up(gradient)
        partition: Tensor = _Known.apply(queries, own, gradient[asked.own])  # type: ignore[no-untyped-call]
        return partition

    def _vectors(self, words: Words, rows: Tensor) -> Tensor:
        counts = [0 if word is None else word["rows"] for word in words]
        device = self.embeddings.device
        wanted = (
            torch.cat(self._team.gather(rows.to(device), [(count,) for count in counts]))
            - self._first
        )
        here = (wanted >= 0) & (wanted < len(self.embeddings))
        dtype = torch.promote_types(self.embeddings.dtype, torch.float32)
        found = torch.zeros(len(wanted), self.width, dtype=dtype, device=device)
        found[here] = super().vectors(wanted[here])
        self._team.add_up(found)  # one process has a row, the others add zero
        start = sum(counts[: self._team.rank])
        return found[start : start + len(rows)]

    def _meet(self, name: str, queries: Tensor, exclude: Tensor | None, **told: object) -> Words:
        excluded = 0 if exclude is None else exclude.shape[1]
        head = {"index": self.label, "queries": len(queries), "excluded": excluded}
        return self._team.meet(name, {**head, **told}).words

    def _gather(self, words: Words, queries: Tensor, exclude: Tensor | None) -> _Asked:
        counts = [0 if word is None else word["queries"] for word in words]
        width = max(0 if word is None else word["excluded"] for word in words)
        device, dtype = self.embeddings.device, torch.promote_types(queries.dtype, torch.float32)
        every = self._team.gather(
            queries.detach().to(device, dtype), [(count, self.width) for count in counts]
        )
        banned = None
        if width:
            own = torch.full((len(queries), width), -1, dtype=torch.int64, device=device)
            if exclude is not None:
                own[:, : exclude.shape[1]] = exclude.to(device)
            rows = torch.cat(self._team.gather(own, [(count, width) for count in counts]))
            rows = rows - self._first
            banned = rows.masked_fill((rows < 0) | (rows >= len(self.embeddings)), -1)
        start = sum(counts[: self._team.rank])
        return _Asked(torch.cat(every), banned, slice(start, start + len(queries)))

    def _answers(
        self, found: Tensor, asked: _Asked, widths: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Every shard's answer to our own queries."""
        widths = widths or [found.shape[1]] * self._team.size
        every = self._team.gather(found, [(len(found), width) for width in widths])
        return [each[asked.own] for each in every]

    def _tiles(self) -> list[int]:
        """Tiles of each shard."""
        return [b - a for a, b in zip(self._borders, self._borders[1:], strict=False)]


class _Known(torch.autograd.Function):
    """A number [B] whose gradient in the queries [B, D] is known already."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grads[0][:, None] * gradient, None, None


def _first_told(words: Words) -> Mapping[str, Any]:
    """What process 0 told, which never waits."""
    assert words[0] is not None
    return words[0]


def _shifted(ids: Tensor, first: int) -> Tensor:
    return (ids + first).masked_fill(ids < 0, -1)


def _logsumexp(part: Tensor) -> Tensor:
    """Of [n, tiles]; -inf where a shard has no tiles."""
    if part.shape[1] == 0:
        return part.new_full((len(part),), -torch.inf)
    return part.logsumexp(dim=1)
