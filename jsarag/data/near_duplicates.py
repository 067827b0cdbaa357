"""Passages that say nearly the same: MinHash over pairs of words, then the pairs are looked at.

A passage is the set of its pairs of neighbouring words. Thirty-six minima of hashes stand for it
(Broder 1997); passages that agree in one of twelve bands of three are compared word pair by word
pair. At a similarity of 0.7 the bands miss a pair less than once in a hundred times, at 0.8 twice
in ten thousand. Memory: a few hundred bytes a passage, whatever its length.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jsarag import randomness

SIMILAR = 0.7
# A few hundred megabytes; a larger knowledge base is looked at as far as this.
MOST_PASSAGES = 1_000_000
_BANDS, _ROWS = 12, 3
_BLOCK = 1024
_WORD = re.compile(r"\w+")

_Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two passages by place, and the share of word pairs they have in common."""

    later: int
    earlier: int
    similarity: float


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """What was found.

    Attributes:
        count: passages that nearly repeat an earlier one, word for word repetitions left out.
        looked_at: how many passages were compared.
        examples: the first pairs.
    """

    count: int
    looked_at: int
    examples: tuple[Pair, ...]


def near_duplicates(
    texts: Sequence[str], *, examples: int = 3, most: int = MOST_PASSAGES
) -> NearDuplicates:
    """Find texts of which another, earlier one says nearly the same.

    Texts that differ only in case, punctuation and spaces are repetitions: the first of them stands
    for all, and none of them is counted for it.

    Args:
        texts: the passages as retrieval reads them.
        examples: how many pairs to keep.
        most: only the first so many are looked at.
    """
    texts = texts[:most]
    first: dict[int, int] = {}
    places = [
        place
        for place, text in enumerate(texts)
        if first.setdefault(_identity(text), place) == place
    ]
    del first
    bands = _bands(texts, places)
    found: dict[int, Pair] = {}
    for band in range(_BANDS):
        for one, other in _neighbours(bands[:, band]):
            later, earlier = places[max(one, other)], places[min(one, other)]
            if later in found:
                continue
            similarity = _similarity(texts[later], texts[earlier])
            if similarity >= SIMILAR:
                found[later] = Pair(later, earlier, similarity)
    shown = tuple(found[place] for place in sorted(found)[:examples])
    return NearDuplicates(len(found), len(texts), shown)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _identity(text: str) -> int:
    said = " ".join(_words(text)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest())


def _similarity(one: str, other: str) -> float:
    """Jaccard's: word pairs in both, as a share of those in either."""
    first, second = _pairs(one), _pairs(other)
    return len(first & second) / len(first | second)


def _pairs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return set(pairwise(words)) if len(words) > 1 else {tuple(words)}


def _bands(texts: Sequence[str], places: Sequence[int]) -> _Hashes:
    """Hashes uint64 [places, bands]; texts that share one are worth comparing."""
    made = [
        _signatures([texts[place] for place in places[start : start + _BLOCK]])
        for start in range(0, len(places), _BLOCK)
    ]
    return np.concatenate(made) if made else np.empty((0, _BANDS), np.uint64)


def _signatures(texts: Sequence[str]) -> _Hashes:
    hashes = [_pair_hashes(_words(text)) for text in texts]
    starts = np.cumsum([0, *(len(own) for own in hashes[:-1])])
    joined = np.concatenate(hashes)
    factors, shifts = _functions()
    bands = np.zeros((len(texts), _BANDS), np.uint64)
    for place, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
        # Arithmetic modulo 2^64; the minimum is decided by the high bits, which are well mixed.
        minima = np.minimum.reduceat(joined * factor + shift, starts)
        band = place // _ROWS
        bands[:, band] = _mixed(bands[:, band] ^ minima)
    return bands


def _pair_hashes(words: Sequence[str]) -> _Hashes:
    codes = np.array(
        [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words] or [0],
        dtype=np.uint64,
    )
    if len(codes) == 1:
        return _mixed(codes)
    return _mixed((codes[:-1] << np.uint64(32)) | codes[1:])


def _mixed(values: _Hashes) -> _Hashes:
    """The finaliser of SplitMix64: every bit of the result depends on every bit of the value."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def _functions() -> tuple[_Hashes, _Hashes]:
    """Odd factors and shifts of the hash functions, [bands * rows] each."""
    drawn = [randomness.digest("near duplicates", place) for place in range(_BANDS * _ROWS)]
    mask = (1 << 64) - 1
    factors = np.array([value & mask | 1 for value in drawn], dtype=np.uint64)
    return factors, np.array([value >> 64 for value in drawn], dtype=np.uint64)


def _neighbours(band: _Hashes) -> Iterator[tuple[int, int]]:
    """Places with equal hashes, each with the one before it and with the first of them."""
    order = np.argsort(band, kind="stable")
    equal = band[order[1:]] == band[order[:-1]]
    first = -1
    for place in np.flatnonzero(equal).tolist():
        one, other = int(order[place + 1]), int(order[place])
        if place == 0 or not equal[place - 1]:
            first = other
        yield one, other
        if first != other:
            yield one, first
