"""Where each training example's chain stands between its visits.

Holds the passage, never its weight: weights are recomputed with the parameters of the day. Moving
a chain is ``mis.py``'s; writing the state to disk is the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jsarag.errors import CheckpointError

_ID_BYTES, _ID_ENDS, _ROWS = "id_bytes", "id_ends", "rows"


class ChainStore:
    """Example id -> the passage row its chain holds."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, ids: Sequence[str]) -> Tensor:
        """The held rows, int64 [B] on the CPU; -1 where an example has no chain yet."""
        return torch.tensor([self._rows.get(example, -1) for example in ids], dtype=torch.int64)

    def put(self, ids: Sequence[str], rows: Tensor) -> None:
        """Hold these rows, int64 [B]; a negative row leaves its example as it was."""
        # sync: the store lives on the host.
        for example, row in zip(ids, rows.tolist(), strict=True):
            if row >= 0:
                self._rows[example] = row

    def forget(self) -> None:
        """Drop every state: the next visits start fresh chains."""
        self._rows.clear()

    def state(self) -> dict[str, Tensor]:
        """All states as tensors for a checkpoint, ordered by id.

        id_bytes uint8 [n]: the ids in UTF-8, one after the other; id_ends int64 [E]: where each
        ends; rows int64 [E].
        """
        ids = sorted(self._rows)
        encoded = [example.encode("utf-8", "surrogatepass") for example in ids]
        lengths = torch.tensor([len(text) for text in encoded], dtype=torch.int64)
        return {
            _ID_BYTES: torch.tensor(list(b"".join(encoded)), dtype=torch.uint8),
            _ID_ENDS: lengths.cumsum(0),
            _ROWS: torch.tensor([self._rows[example] for example in ids], dtype=torch.int64),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace all states by those of :meth:`state`.

        Raises:
            CheckpointError: the tensors are not what :meth:`state` returns.
        """
        missing = sorted({_ID_BYTES, _ID_ENDS, _ROWS} - set(state))
        if missing:
            raise CheckpointError(
                f"chains: expected the tensors {_ID_BYTES}, {_ID_ENDS} and {_ROWS}, {missing} are "
                "missing; resume from another checkpoint"
            )
        text, ends, rows = (state[name].tolist() for name in (_ID_BYTES, _ID_ENDS, _ROWS))
        if len(ends) != len(rows) or (ends[-1] if ends else 0) != len(text):
            raise CheckpointError(
                f"chains: {len(ends)} ids of {len(text)} bytes do not fit {len(rows)} rows; resume "
                "from another checkpoint"
            )
        starts = [0, *ends][: len(ends)]
        ids = [
            bytes(text[start:end]).decode("utf-8", "surrogatepass")
            for start, end in zip(starts, ends, strict=True)
        ]
        self._rows = dict(zip(ids, rows, strict=True))
