"""A support for the objective that was asked for, where a recipe was made for another one."""

from __future__ import annotations

from jsarag.config.load import Resolved
from jsarag.em.objectives import objective_class


def fit_support(resolved: Resolved) -> Resolved:
    """The same run on a support its objective is defined on, where a recipe or nobody chose one.

    A recipe's support suits its own objective; who names another objective should not have to know.
    A support that the user set is left alone, right or wrong.
    """
    config, key = resolved.config, "objective.support"
    name, support = config.objective.name, config.objective.support
    supports = objective_class(name).supports
    source = resolved.sources.get(key, "default")
    if support in supports or not source.startswith(("default", "recipe")):
        return resolved
    objective = config.objective.model_copy(update={"support": supports[0]})
    return Resolved(
        config.model_copy(update={"objective": objective}),
        {**resolved.sources, key: f"objective {name}"},
        (*resolved.notes, f"{key}: '{name}' is not defined on {support}; {supports[0]} is used"),
    )
