"""A support that the objective is defined on, whatever the recipe."""

from __future__ import annotations

import pytest

from jsarag.assemble import make_run_objective
from jsarag.config.load import flag, resolve_run
from jsarag.em.chains import ChainStore
from jsarag.em.objectives import objective_class, objective_names
from jsarag.errors import ConfigError
from jsarag.train.support import fit_support


@pytest.mark.parametrize("name", objective_names())
@pytest.mark.parametrize("recipe", ["demo", "sktod", None])
def test_any_objective_runs_with_any_recipe(name: str, recipe: str | None) -> None:
    resolved = fit_support(
        resolve_run(
            dataset="demo",
            recipe=recipe,
            overrides=[flag("objective.name", name, "flag --objective")],
            environment={},
        )
    )
    make_run_objective(resolved.config, ChainStore())
    kept = "kb" in objective_class(name).supports
    assert (resolved.config.objective.support == "kb") == kept
    assert any("objective.support" in note for note in resolved.notes) == (not kept)


def test_a_support_that_the_user_chose_is_not_changed() -> None:
    overrides = [
        flag("objective.name", "vrag", "flag --objective"),
        flag("objective.support", "kb", "flag --support"),
    ]
    resolved = resolve_run(dataset="demo", overrides=overrides, environment={})
    assert fit_support(resolved) is resolved
    with pytest.raises(ConfigError, match="'vrag' is defined on union; found 'kb'; use --support"):
        make_run_objective(resolved.config, ChainStore())
