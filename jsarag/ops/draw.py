"""``draw``: exact categorical draws from the softmax over all passages.

A uniform picks the tile by its cumulative mass, then the passage inside the recomputed tile: no
noise per passage, no truncation, no random state.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from jsarag.backends.native import draw as native
from jsarag.errors import ShapeError
from jsarag.ops.checks import Signature, Sized
from jsarag.ops.library import register
from jsarag.ops.reference.draw import draw as reference_draw
from jsarag.ops.reference.scan import compute_dtype
from jsarag.ops.results import DrawResult
from jsarag.ops.search import Search, require_rows
from jsarag.ops.tile import tile_count


class Uniforms(NamedTuple):
    """What picks the passages; see :func:`draw`."""

    tile_lse: Annotated[Tensor, Sized("B tiles", (torch.float32, torch.float64))]
    uniforms: Annotated[Tensor, Sized("B M", (torch.float64, torch.float32))]


def draw(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    tile_lse: Tensor,
    uniforms: Tensor,
    *,
    scales: Tensor | None = None,
    exclude: Tensor | None = None,
    threads: int | None = None,
) -> DrawResult:
    """Draw passages with probability proportional to exp(score · inv_temperature).

    Args:
        queries: [B, D], as scanned.
        passages: [N, D], as scanned, with ``scales``.
        inv_temperature: as scanned.
        tile_lse: f32 [B, ceil(N / TILE)] of :func:`jsarag.ops.scan` with the same arguments.
        uniforms: f64 (or f32) [B, M] in (0, 1).
        exclude: int64 [B, E], as scanned.
        threads: of the CPU kernel; the result does not depend on it.

    Returns:
        :class:`DrawResult`: ``logp`` is log(mass of the tile / total) + log(share in the tile),
        the density really drawn from, computed in f64. A query without mass gets id -1 and logp
        -inf; one whose ``tile_lse`` holds NaN or +inf gets id -1 and logp NaN.

    Raises:
        ShapeError, DtypeError: an argument is not as above.
    """
    workers = torch.get_num_threads() if threads is None else threads
    search = Search(queries, passages, inv_temperature, scales, exclude, workers)
    arguments = _SIGNATURE.checked(search, Uniforms(tile_lse, uniforms))
    require_rows("draw", passages, scales)
    tiles = tile_count(passages.shape[0])
    if tile_lse.shape[1] != tiles:
        raise ShapeError(
            f"draw: tile_lse expected {tiles} tiles of {passages.shape[0]:,} passages, found "
            f"{tile_lse.shape[1]}; scan the same passages"
        )
    ids, logp = _draw(*arguments)
    return DrawResult(ids, logp)


def _run(search: Search, given: Uniforms) -> tuple[Tensor, Tensor]:
    if search.backend("draw") != "reference":
        return native.draw(search.inputs(), *given)
    queries, passages, inv_temperature, scales, exclude, _ = search
    return reference_draw(queries, passages, inv_temperature, *given, scales, exclude)


def _fake(search: Search, given: Uniforms) -> tuple[Tensor, Tensor]:
    queries, shape = search.queries, given.uniforms.shape
    return (
        queries.new_empty(shape, dtype=torch.int64),
        queries.new_empty(shape, dtype=compute_dtype(queries, search.passages)),
    )


_SIGNATURE = Signature("draw", Search, Uniforms)
_draw = register(_SIGNATURE, 2, _run, _fake)
