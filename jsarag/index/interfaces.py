"""What the index needs of an encoder and a knowledge base, and what others need of an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from jsarag.types import Passage

if TYPE_CHECKING:
    from jsarag.index.flat import IndexScan

Progress = Callable[[int, int], None]
"""Called with (done, total) passages."""

PassageText = Callable[[Passage], str]
"""Renders a passage as the encoder reads it; one definition serves trainer, index and server."""


class Encoder(Protocol):
    """A text encoder: the part of ``models.encoder.TextEncoder`` the index uses."""

    @property
    def spec(self) -> Any:
        """A frozen dataclass: model, pooling, normalise, prefixes, lengths, tokenizer digest."""

    @property
    def width(self) -> int:
        """D, the length of one embedding."""

    def embed(
        self,
        texts: Sequence[str],
        role: Any,
        batch_size: int,
        progress: Progress | None = None,
    ) -> Tensor:
        """Embeddings f32 [n, D] of ``texts`` in their order, without gradient."""

    def weights_digest(self) -> str:
        """Digest of the encoder's weights."""


class KnowledgeBaseLike(Protocol):
    """An ordered set of passages: the part of ``data.KnowledgeBase`` the index uses."""

    def __len__(self) -> int:
        """K."""

    def __getitem__(self, row: int, /) -> Passage:
        """The passage of a row."""

    @property
    def digest(self) -> str:
        """Digest of the content."""


class SearchIndex(Protocol):
    """Whatever finds the best passages: :class:`FlatIndex` and every engine in ``engines/``."""

    @property
    def generation(self) -> int:
        """Counts rebuilds; results of different generations must not be mixed."""

    @property
    def spec(self) -> dict[str, Any]:
        """Identity of the vectors (:func:`index_spec`)."""

    @property
    def width(self) -> int:
        """D."""

    def __len__(self) -> int:
        """N."""

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> IndexScan:
        """The k best passages of each query [B, D]; ``exclude`` int64 [B, E], -1 pads."""


def index_spec(encoder: Encoder, kb_digest: str | None = None) -> dict[str, Any]:
    """What identifies the vectors of an index: the encoder's spec, its weights and the passages.

    Args:
        encoder: the *passage* encoder.
        kb_digest: digest of the knowledge base, where it matters.

    Returns:
        The spec's fields with ``weights_digest`` (and ``kb_digest``); JSON types.
    """
    spec = {**dataclasses.asdict(encoder.spec), "weights_digest": encoder.weights_digest()}
    return spec if kb_digest is None else {**spec, "kb_digest": kb_digest}
