"""``draw``: exact categorical draws from the softmax over all passages.

A uniform picks the tile by its cumulative mass, then the passage inside the recomputed tile: no
noise per passage, no truncation, no random state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.backends import native
from jsarag.ops import checks
from jsarag.ops.library import register
from jsarag.ops.reference.draw import draw as reference_draw
from jsarag.ops.reference.scan import compute_dtype
from jsarag.ops.results import DrawResult
from jsarag.ops.scan import choose_scan
from jsarag.ops.tile import tile_count


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
    checks.check_scan_inputs("draw", queries, passages, inv_temperature, scales, exclude)
    shape = (queries.shape[0], tile_count(passages.shape[0]))
    checks.require_dtype("draw", "tile_lse", tile_lse, (torch.float32, torch.float64))
    checks.require_shape("draw", "tile_lse", tile_lse, shape)
    checks.require_dtype("draw", "uniforms", uniforms, (torch.float64, torch.float32))
    checks.require_shape("draw", "uniforms", uniforms, (queries.shape[0], None))
    checks.require_same_device(
        "draw", {"queries": queries, "tile_lse": tile_lse, "uniforms": uniforms}
    )
    ids, logp = torch.ops.jsarag.draw(
        queries.detach(),
        passages.detach(),
        inv_temperature,
        tile_lse.detach(),
        uniforms,
        scales,
        exclude,
        torch.get_num_threads() if threads is None else threads,
    )
    return DrawResult(ids, logp)


def _run(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    tile_lse: Tensor,
    uniforms: Tensor,
    scales: Tensor | None,
    exclude: Tensor | None,
    threads: int,
) -> tuple[Tensor, Tensor]:
    backend = choose_scan("draw", queries, passages).backend
    if backend != "reference":
        inputs = native.ScanInputs(queries, passages, inv_temperature, scales, exclude, threads)
        run = native.draw_cuda if backend == "cuda" else native.draw_cpu
        return run(inputs, tile_lse, uniforms)
    result = reference_draw(queries, passages, inv_temperature, tile_lse, uniforms, scales, exclude)
    return result.ids, result.logp


def _fake(
    queries: Tensor,
    passages: Tensor,
    inv_temperature: float,
    tile_lse: Tensor,
    uniforms: Tensor,
    scales: Tensor | None,
    exclude: Tensor | None,
    threads: int,
) -> tuple[Tensor, Tensor]:
    return (
        queries.new_empty(uniforms.shape, dtype=torch.int64),
        queries.new_empty(uniforms.shape, dtype=compute_dtype(queries, passages)),
    )


register(
    "draw",
    "(Tensor queries, Tensor passages, float inv_temperature, Tensor tile_lse, Tensor uniforms, "
    "Tensor? scales, Tensor? exclude, int threads) -> (Tensor, Tensor)",
    _run,
    _fake,
)
