"""What the prior retrieves before training, kept for objectives that go on asking for it.

Made once, from the parts as they start, and read back ever after: a continued run no longer has
those parts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from jsarag.assemble import Parts
from jsarag.errors import CheckpointError
from jsarag.io.tensors import load_tensors, save_tensors
from jsarag.train.problem import Windows, excluded_rows

START_FILE = "start.safetensors"
_ROWS = "rows"
_BATCH = 256


@torch.no_grad()
def search_all(parts: Parts, windows: Windows, k: int) -> Tensor:
    """The prior's k best rows of every training example, best first: int64 [n, k], -1 pads."""
    train, found = parts.dataset.splits["train"], []
    for first in range(0, len(train), _BATCH):
        examples = train[first : first + _BATCH]
        exclude = excluded_rows(parts.dataset.kb, examples, parts.device)
        queries = parts.retrievers.encode_contexts(examples, windows.context_turns)
        found.append(parts.prior_index.search(queries, k, exclude).ids.cpu())
    return torch.cat(found)


def start_rows(folder: Path, parts: Parts, windows: Windows, k: int, *, begun: bool) -> Tensor:
    """:func:`search_all`'s rows, from the run's folder where they are.

    Args:
        folder: the run's.
        parts: as they start, unless the rows are there.
        windows: turns the prior reads.
        k: passages an example.
        begun: whether the run has made steps, so that its parts are no longer what they were.

    Raises:
        CheckpointError: a run that has begun lost its rows.
    """
    path = folder / START_FILE
    if not path.is_file():
        if begun:
            raise CheckpointError(
                f"{path}: expected what the prior retrieved before training, found no file, and "
                "the prior has been trained since; start the run again in another --output-dir"
            )
        save_tensors(path, {_ROWS: search_all(parts, windows, k)})
    return load_tensors(path)[_ROWS]
