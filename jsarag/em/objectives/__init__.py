"""The training objectives, one file each, found by name: ``rag-token`` lives in ``rag_token.py``.

Adding an objective is adding a file with one :class:`Objective`. Listing the names imports no
torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from jsarag.em.objectives.base import Objective, StepLoss, StepScores
from jsarag.em.problem import EMSettings
from jsarag.errors import ConfigError

if TYPE_CHECKING:
    from jsarag.em.chains import ChainStore

__all__ = [
    "Objective",
    "StepLoss",
    "StepScores",
    "make_objective",
    "objective_class",
    "objective_names",
]


def objective_names() -> tuple[str, ...]:
    """The names ``make_objective`` knows, sorted."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(
        sorted(name.replace("_", "-") for name in files if name != "base" and name[0] != "_")
    )


def objective_class(name: str) -> type[Objective]:
    """The class of an objective, for its class-level facts (``needs_posterior``, ``supports``).

    Raises:
        ConfigError: no such objective; names those there are.
    """
    if name not in objective_names():
        raise ConfigError(
            f"objective.name: expected one of {', '.join(objective_names())}, found {name!r}"
        )
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Objective)
        and value.__module__ == module.__name__
        and getattr(value, "name", None) == name
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{module.__file__}: expected one Objective with name = {name!r}, found {len(found)}; "
            "an objective's file and its name must agree"
        )
    return found[0]


def make_objective(name: str, settings: EMSettings, chains: ChainStore | None = None) -> Objective:
    """An objective by name.

    Args:
        name: one of :func:`objective_names`.
        settings: of the method.
        chains: the stored chain states of ``mis-cached``; a new store where it needs one and
            None is given.

    Raises:
        ConfigError: unknown name, or a support the objective is not defined on.
    """
    return objective_class(name)(settings, chains)
