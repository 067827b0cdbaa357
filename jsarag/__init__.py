"""jsarag: end-to-end training of retrieval-augmented generation by joint stochastic approximation.

``from jsarag import Run, load_data`` is the command line's path for scripts (``docs/python.md``).
Importing the package is cheap: what is named here is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

from jsarag._version import __version__

if TYPE_CHECKING:
    from jsarag.api import Run, load_data, resolve_settings, save_data
    from jsarag.errors import JsaragError
    from jsarag.types import Example, Hit, Passage, Turn

__all__ = [
    "Example",
    "Hit",
    "JsaragError",
    "Passage",
    "Run",
    "Turn",
    "__version__",
    "load_data",
    "resolve_settings",
    "save_data",
]

_HOMES = {
    **dict.fromkeys(("Run", "load_data", "resolve_settings", "save_data"), "jsarag.api"),
    **dict.fromkeys(("Example", "Hit", "Passage", "Turn"), "jsarag.types"),
    "JsaragError": "jsarag.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jsarag' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
