"""Chain states that all processes hold alike: an example's next visit may be another process's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from jsarag.em.chains import ChainStore


class SharedChains(ChainStore):
    """A :class:`~jsarag.em.chains.ChainStore` whose news can be told and heard."""

    def __init__(self) -> None:
        super().__init__()
        self._news: dict[str, int] = {}

    def put(self, ids: Sequence[str], rows: Tensor) -> None:
        """See :meth:`ChainStore.put`; it is news until :meth:`take_news`."""
        super().put(ids, rows)
        self._news |= dict(zip(ids, rows.tolist(), strict=True))

    def take_news(self) -> dict[str, int]:
        """Example id -> row of everything put since the last call."""
        news, self._news = self._news, {}
        return news

    def hear(self, news: Iterable[Mapping[str, int]]) -> None:
        """Hold what processes put, in their order; a negative row leaves its example as it was."""
        for told in news:
            self._rows |= {example: row for example, row in told.items() if row >= 0}
