"""An index that was there before the run: opened in place of embedding, if it is what is needed.

What it needs is the vectors of its own, frozen passage encoder; queries may be read otherwise.
"""

from __future__ import annotations

from pathlib import Path

from jsarag.data.registry import Dataset
from jsarag.errors import ConfigError, IndexStaleError
from jsarag.index.flat import FlatIndex
from jsarag.index.interfaces import index_spec
from jsarag.index.shards import name_of
from jsarag.models.retrievers import PartName, RetrieverParts

# What a passage's vector does not depend on, the name it is called by among it.
_OF_QUERIES = frozenset({"model", "query_prefix", "max_query_tokens"})
_FIXES = {
    "kb_digest": "the passages, or their order, are not those of this data set: import or build "
    "the index with its kb.jsonl",
    "weights_digest": "the weights are another model's: name the index's as --retriever",
    "pooling": "set retriever.pooling",
    "normalise": "set retriever.normalise",
    "passage_prefix": "set retriever.passage_prefix",
    "max_passage_tokens": "set retriever.max_passage_tokens",
}


def open_given(
    folder: Path,
    part: PartName,
    retrievers: RetrieverParts,
    dataset: Dataset,
    dtype: str,
    *,
    check: bool = True,
) -> FlatIndex:
    """The vectors of an index folder, as generation 0 of a run.

    Args:
        folder: of ``jsarag index build`` or ``index import``.
        part: the passage encoder they must be of.
        retrievers, dataset: the run's.
        dtype: the run's ``index.dtype``.
        check: whether checksums are compared.

    Raises:
        IndexStaleError: another encoder or knowledge base; names every field and what to set.
        ConfigError: another dtype.
        CheckpointError: no index, or a damaged one.
    """
    spec = index_spec(retrievers.parts()[part], dataset.kb.digest)
    index = FlatIndex.open(folder, check=check)
    expected = {name: value for name, value in spec.items() if name not in _OF_QUERIES}
    wrong = [name for name, value in expected.items() if index.spec.get(name, ...) != value]
    if wrong:
        shown = "; ".join(
            f"{name} is {_short(index.spec.get(name))}, the run's {_short(spec[name])} "
            f"({_FIXES.get(name, 'use the encoder of the index')})"
            for name in wrong
        )
        raise IndexStaleError(f"index.path: {folder}: not this run's passages as vectors: {shown}")
    stored = name_of(index.embeddings.dtype)
    if stored != dtype:
        raise ConfigError(
            f"index.path: {folder}: expected {dtype} vectors, found {stored}; "
            f"--set index.dtype={stored} uses them as they are"
        )
    return FlatIndex(index.embeddings, 0, spec)


def _short(value: object) -> str:
    """A value as messages show it: digests by their beginning."""
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:12]}...'"
