"""What searches an index's vectors, one file each: ``exact``, ``certified``, ``faiss:FACTORY``.

An engine is a way to find the best passages; training needs more (the partition and exact draws)
and keeps :class:`~jsarag.index.flat.FlatIndex`. Adding an engine is adding a file with a function
``build(index, options)``; listing the names imports neither torch nor a third party.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jsarag.errors import ConfigError

if TYPE_CHECKING:
    from jsarag.index.flat import FlatIndex
    from jsarag.index.interfaces import SearchIndex

EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Recall:
    """How much of the exact answer an engine finds.

    recall: share of the exact k best that are among its own k. k: how many were compared.
    queries: how many questions were asked. exact: whether ids and scores were the same throughout.
    """

    recall: float
    k: int
    queries: int
    exact: bool

    def __str__(self) -> str:
        if self.exact:
            return f"the same {self.k} best passages as exact search for all {self.queries} queries"
        return f"recall@{self.k} {self.recall:.3f} against exact search ({self.queries} queries)"


def engine_names() -> tuple[str, ...]:
    """The names ``make_engine`` knows, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def check_engine(choice: str) -> tuple[str, str]:
    """The name and the options of a choice.

    Raises:
        ConfigError: no such engine.
    """
    name, _, options = choice.partition(":")
    if name not in engine_names():
        raise ConfigError(
            f"--engine {choice!r}: expected one of {', '.join(engine_names())}, such as "
            "'certified' or 'faiss:HNSW32'"
        )
    return name, options


def make_engine(choice: str, index: FlatIndex) -> SearchIndex:
    """An engine over an index's vectors.

    Args:
        choice: a name, or a name and its options behind a colon.
        index: the vectors; kept by engines that read them.

    Raises:
        ConfigError: no such engine, or options it does not understand.
        DtypeError: vectors it cannot search.
        BackendUnavailableError: it needs a package that is not installed.
    """
    name, options = check_engine(choice)
    found: SearchIndex = importlib.import_module(f"{__name__}.{name}").build(index, options)
    return found


def refuse_options(name: str, options: str) -> None:
    """For engines that have none.

    Raises:
        ConfigError: some were given.
    """
    if options:
        raise ConfigError(f"--engine {name}: expected nothing behind its name, found {options!r}")


def measure_recall(
    engine: SearchIndex, index: FlatIndex, *, k: int = 10, queries: int = 200
) -> Recall:
    """Compare an engine with exact search, with evenly spaced passages as queries.

    Passages are near their neighbours as questions are near their passages, but nearer: a
    question's recall is somewhat lower. ``jsarag eval --engine`` measures with real questions.
    """
    import torch

    count = min(queries, len(index))
    rows = torch.linspace(0, max(len(index) - 1, 0), count).long()
    asked = index.vectors(rows)
    expected, found = index.search(asked, k), engine.search(asked, k)
    # An engine may answer on the CPU wherever the vectors are.
    wanted, ids = expected.ids.cpu(), found.ids.cpu()
    present = wanted >= 0
    hits = (wanted[:, :, None] == ids[:, None, :]).any(dim=-1) & present
    total = int(present.sum())
    same = torch.equal(wanted, ids) and torch.equal(expected.scores.cpu(), found.scores.cpu())
    return Recall(int(hits.sum()) / total if total else 1.0, k, count, same)
