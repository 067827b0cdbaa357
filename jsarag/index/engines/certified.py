"""Exact answers at a quarter of the memory traffic: search int8 rows, prove, look up the few left.

Beside the float32 vectors lie the same rows in int8, with a bound on how far each was rounded. A
scan of the int8 rows leaves the passages that could be among the best; these are scored from the
float32 vectors (``scan(certify=True)``). Ids and scores are those of exact search, bit for bit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, float32

from jsarag import ops
from jsarag.errors import DtypeError
from jsarag.index.engines import refuse_options
from jsarag.index.flat import FlatIndex, IndexScan
from jsarag.index.interfaces import SearchIndex


class CertifiedIndex:
    """The search of a float32 index through int8 rows; takes a quarter of its memory besides.

    Args:
        index: the vectors; read again for the passages that are left.

    Raises:
        DtypeError: the index does not hold float32.
    """

    def __init__(self, index: FlatIndex) -> None:
        vectors = index.embeddings
        if vectors.dtype != float32:
            raise DtypeError(
                "--engine certified: expected an index of f32 vectors, which its answers are "
                f"proven against; found {str(vectors.dtype).removeprefix('torch.')}; use --engine "
                "exact, or build the index with --dtype f32"
            )
        self._index = index
        self._rows = ops.quantise_rows(vectors)
        self._errors = ops.row_errors(self._rows.values, vectors, self._rows.scales)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def generation(self) -> int:
        """The index's."""
        return self._index.generation

    @property
    def spec(self) -> dict[str, Any]:
        """The index's."""
        return self._index.spec

    @property
    def width(self) -> int:
        """D."""
        return self._index.width

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> IndexScan:
        """What ``FlatIndex.search`` returns, bit for bit."""
        result = ops.scan(
            queries,
            self._rows.values,
            k,
            1.0,
            scales=self._rows.scales,
            exclude=exclude,
            certify=True,
            exact_passages=self._index.embeddings,
            row_errors=self._errors,
        )
        return IndexScan(result.ids, result.scores, None, self.generation)


def build(index: FlatIndex, options: str) -> SearchIndex:
    """A :class:`CertifiedIndex`.

    Raises:
        ConfigError: options were given. DtypeError: the index does not hold float32.
    """
    refuse_options("certified", options)
    return CertifiedIndex(index)
