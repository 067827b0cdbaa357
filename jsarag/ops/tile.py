"""The tile: how many consecutive passages one entry of ``tile_lse`` covers, on every backend."""

from __future__ import annotations

from jsarag.backends import native

TILE = 512
# A compiled module of another build would cut tiles elsewhere: better no kernel than a wrong one.
if native.tile() not in (None, TILE):
    raise ImportError(
        f"jsarag._native was built with TILE = {native.tile()}, this package expects {TILE}; "
        "reinstall jsarag"
    )


def tile_count(passages: int) -> int:
    """Tiles that cover N passages."""
    return -(-passages // TILE)
