"""The recipes that ship with the package: one YAML per data set, read as they were written.

One more is not a data set's: what changes in any of them where a language model takes the place of
the offline generator it was made for.
"""

from __future__ import annotations

from importlib import resources
from itertools import takewhile

from jsarag.config.keys import nearest
from jsarag.errors import ConfigError

LANGUAGE_MODEL = "_language_model"
OFFLINE_GENERATORS = frozenset({"copy", "query-likelihood"})


def list_recipes() -> list[str]:
    """Names of the shipped recipes, sorted."""
    files = resources.files(__package__ or __name__).iterdir()
    names = (file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
    return sorted(name for name in names if not name.startswith("_"))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe.

    Raises:
        ConfigError: there is none of that name; names the nearest one.
    """
    known = list_recipes()
    if name not in (*known, LANGUAGE_MODEL):
        guess = nearest(name, known)
        advice = f"did you mean '{guess}'? " if guess else ""
        raise ConfigError(f"no recipe '{name}'; {advice}Shipped: {', '.join(known)}")
    return (resources.files(__package__ or __name__) / f"{name}.yaml").read_text(encoding="utf-8")


def recipe_header(name: str) -> str:
    """What a recipe is for and what data it wants: the comment it begins with, on one line."""
    lines = recipe_text(name).splitlines()
    return " ".join(line.lstrip("# ") for line in takewhile(lambda line: line[:1] == "#", lines))


def about_recipe(name: str) -> str:
    """A recipe's name and header as a message needs them; empty where none is of that name."""
    return f"Recipe {name}: {recipe_header(name)}" if name in list_recipes() else ""
