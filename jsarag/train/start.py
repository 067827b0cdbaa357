"""What is retrieved before training, kept for objectives that go on asking for it.

Made once, from the parts as they start, and read back ever after: a continued run no longer has
those parts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from jsarag.assemble import Parts
from jsarag.errors import CheckpointError
from jsarag.index.bm25 import Bm25Index
from jsarag.index.rows import excluded_rows
from jsarag.io.tensors import load_tensors, save_tensors
from jsarag.models.prompts import passage_text, render_context
from jsarag.train.problem import Windows
from jsarag.types import Start

START_FILE = "start.safetensors"
_ROWS = "rows"
_BATCH = 256


@torch.no_grad()
def search_all(parts: Parts, windows: Windows, k: int, ranker: Start = "prior") -> Tensor:
    """The k best rows of every training example, best first: int64 [n, k], -1 pads.

    Args:
        parts: as they start.
        windows: turns each retriever reads.
        k: passages an example.
        ranker: the prior, BM25 on what the prior reads, or BM25 on what the posterior reads.

    Raises:
        BackendUnavailableError: BM25 is asked for, and bm25s is not installed.
    """
    if ranker != "prior":
        return _search_words(parts, windows, k, with_response=ranker == "bm25-with-response")
    train, found = parts.dataset.splits["train"], []
    for first in range(0, len(train), _BATCH):
        examples = train[first : first + _BATCH]
        exclude = excluded_rows(parts.dataset.kb, examples, parts.device)
        queries = parts.retrievers.encode_contexts(examples, windows.context_turns)
        found.append(parts.prior_index.search(queries, k, exclude).ids.cpu())
    return torch.cat(found)


def _search_words(parts: Parts, windows: Windows, k: int, *, with_response: bool) -> Tensor:
    train, kb = parts.dataset.splits["train"], parts.dataset.kb
    turns = windows.posterior_turns if with_response else windows.context_turns
    queries = [render_context(example, turns) for example in train]
    if with_response:
        queries = [
            f"{query} {example.response}" for query, example in zip(queries, train, strict=True)
        ]
    index = Bm25Index([passage_text(passage) for passage in kb])
    return index.search(queries, k, excluded_rows(kb, train, torch.device("cpu")))


def start_rows(
    folder: Path, parts: Parts, windows: Windows, k: int, *, ranker: Start, begun: bool
) -> Tensor:
    """:func:`search_all`'s rows, from the run's folder where they are.

    Args:
        folder: the run's.
        parts: as they start, unless the rows are there.
        windows: turns the prior reads.
        k: passages an example.
        ranker: who finds them.
        begun: whether the run has made steps, so that its parts are no longer what they were.

    Raises:
        CheckpointError: a run that has begun lost its rows.
    """
    path = folder / START_FILE
    if not path.is_file():
        if begun:
            raise CheckpointError(
                f"{path}: expected what was retrieved before training, found no file, and the run "
                "has been trained since; start the run again in another --output-dir"
            )
        save_tensors(path, {_ROWS: search_all(parts, windows, k, ranker)})
    return load_tensors(path)[_ROWS]
