"""The only module that makes random numbers.

Every stream is a pure function of a tuple of integers and strings (seed, purpose, example id,
visit, ...), so the same numbers reach every backend, batch size and process count, and a resumed
run needs no saved generator state. Counter-based Philox keyed by a BLAKE2 digest of the tuple.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Key = int | str


def digest(*key: Key) -> int:
    """128-bit integer digest of a key tuple; distinct tuples get distinct digests in practice."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*key: Key) -> np.random.Generator:
    """A numpy generator keyed by ``key``; the same key always yields the same stream."""
    return np.random.Generator(np.random.Philox(key=digest(*key)))


def uniforms(seed: int, purpose: str, ids: Sequence[str], visits: Sequence[int], n: int) -> Tensor:
    """Uniforms f64 [B, n] in (0, 1), row b keyed by (seed, purpose, ids[b], visits[b])."""
    import torch

    tiny = np.finfo(np.float64).tiny
    rows = [
        np.maximum(generator(seed, purpose, example, visit).random(n), tiny)
        for example, visit in zip(ids, visits, strict=True)
    ]
    return torch.from_numpy(np.stack(rows) if rows else np.empty((0, n)))


def permutation(seed: int, purpose: str, epoch: int, n: int) -> np.ndarray:
    """A permutation of range(n), int64 [n], keyed by (seed, purpose, epoch)."""
    return generator(seed, purpose, epoch).permutation(n)


def seed_torch(*key: Key) -> None:
    """Seed torch's global generator (dropout, initialisation) from a key."""
    import torch

    torch.manual_seed(digest(*key) % (2**63))
