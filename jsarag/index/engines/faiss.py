"""FAISS, for one of its approximations: ``faiss:HNSW32``, ``faiss:IVF1024,Flat/nprobe=32``.

FAISS is optional and imported when an engine is made.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jsarag.errors import BackendUnavailableError, ConfigError, ShapeError
from jsarag.index.flat import FlatIndex, IndexScan
from jsarag.index.interfaces import SearchIndex


class FaissIndex:
    """Inner-product search over the same rows as :class:`~jsarag.index.flat.FlatIndex`.

    Args:
        embeddings: f32, bf16 or f16 [N, D].
        generation: as in ``FlatIndex``.
        spec: as in ``FlatIndex``.
        factory: FAISS's factory string; ``Flat`` is exact, ``IVF1024,Flat``, ``HNSW32`` are not.
        parameters: FAISS's parameters of a search, ``nprobe=32`` or ``efSearch=64``.

    Raises:
        BackendUnavailableError: faiss is not installed.
        ConfigError: FAISS does not know the factory string or the parameters, or there are too few
            passages for it.
    """

    def __init__(
        self,
        embeddings: Tensor,
        generation: int = 0,
        spec: Mapping[str, Any] | None = None,
        *,
        factory: str = "Flat",
        parameters: str = "",
    ) -> None:
        if embeddings.dim() != 2:
            raise ShapeError(
                f"FaissIndex embeddings: expected [N, D], found shape {tuple(embeddings.shape)}"
            )
        self._faiss = load_faiss()
        self.generation = generation
        self.spec = dict(spec or {})
        vectors = embeddings.detach().float().cpu().contiguous().numpy()
        try:
            self._index = self._faiss.index_factory(
                embeddings.shape[1], factory, self._faiss.METRIC_INNER_PRODUCT
            )
        except RuntimeError as error:
            raise ConfigError(
                f"FAISS factory {factory!r}: expected a string like 'Flat', 'IVF1024,Flat' or "
                f"'HNSW32'; {_said(error)}"
            ) from error
        try:
            if not self._index.is_trained:
                self._index.train(vectors)
        except RuntimeError as error:
            raise ConfigError(
                f"FAISS factory {factory!r}: it cannot be trained on {len(vectors):,} passages "
                f"({_said(error)}); use fewer lists or codes, or 'HNSW32'"
            ) from error
        self._index.add(vectors)
        if parameters:
            self._set(parameters)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """D."""
        return int(self._index.d)

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> IndexScan:
        """The k best passages FAISS finds for each query.

        Args:
            queries: [B, D].
            k: at least 1; may exceed N.
            exclude: int64 [B, E] rows to leave out, -1 pads; as many more are fetched.

        Returns:
            As ``FlatIndex.search``; equal scores by smaller row, among those FAISS returned.
        """
        if queries.dim() != 2 or queries.shape[1] != self.width:
            raise ShapeError(
                f"FaissIndex queries: expected [B, {self.width}], found {tuple(queries.shape)}"
            )
        excluded = 0 if exclude is None else exclude.shape[1]
        wanted = max(min(k + excluded, len(self)), 1)
        found = self._index.search(queries.detach().float().cpu().contiguous().numpy(), wanted)
        scores, ids = torch.from_numpy(found[0]), torch.from_numpy(found[1])
        absent = ids < 0
        if exclude is not None:
            absent |= (ids[:, :, None] == exclude.cpu()[:, None, :]).any(dim=-1)
        scores, ids = scores.masked_fill(absent, -torch.inf), ids.masked_fill(absent, -1)
        return _best(ids, scores, k, self.generation)

    def _set(self, parameters: str) -> None:
        try:
            self._faiss.ParameterSpace().set_index_parameters(self._index, parameters)
        except RuntimeError as error:
            raise ConfigError(
                f"FAISS parameters {parameters!r}: expected some of this index, such as nprobe=32 "
                f"for IVF or efSearch=64 for HNSW; {_said(error)}"
            ) from error


def build(index: FlatIndex, options: str) -> SearchIndex:
    """``FACTORY`` or ``FACTORY/PARAMETERS``; a flat index where neither is given."""
    factory, _, parameters = options.partition("/")
    return FaissIndex(
        index.embeddings,
        index.generation,
        index.spec,
        factory=factory or "Flat",
        parameters=parameters,
    )


def load_faiss() -> Any:
    """The faiss module.

    Raises:
        BackendUnavailableError: it is not installed; says how to get it.
    """
    try:
        with warnings.catch_warnings():
            # Its SWIG wrapper warns about itself on Python 3.12 and later.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module("faiss")
    except ImportError as error:
        raise BackendUnavailableError(
            "FAISS is asked for, and the package faiss is not installed: `pip install "
            "'jsarag[faiss]'`; or use another engine or format of vectors"
        ) from error


def _said(error: RuntimeError) -> str:
    """The last words of FAISS's message; before them stand its source file and the condition."""
    return str(error).strip().splitlines()[-1].rpartition("failed: ")[2]


def _best(ids: Tensor, scores: Tensor, k: int, generation: int) -> IndexScan:
    """The first k by score, then by row; padded with -1 and -inf."""
    by_row = ids.masked_fill(ids < 0, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    ids, scores = ids.gather(1, by_row), scores.gather(1, by_row)
    by_score = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    ids, scores = ids.gather(1, by_score), scores.gather(1, by_score)
    missing = k - ids.shape[1]
    if missing > 0:
        ids = torch.nn.functional.pad(ids, (0, missing), value=-1)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return IndexScan(ids, scores, None, generation)
