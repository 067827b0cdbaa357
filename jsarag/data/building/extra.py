"""Packages of the optional extra ``documents``, imported when they are needed and not before."""

from __future__ import annotations

import importlib
from typing import Any

from jsarag.errors import BackendUnavailableError

EXTRA = "pip install 'jsarag[documents]'"


def need(module: str, purpose: str) -> Any:
    """The module, imported.

    Args:
        module: its name.
        purpose: what it is needed for, in the user's words ("to read .pdf").

    Raises:
        BackendUnavailableError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BackendUnavailableError(
            f"the package '{package}' is needed {purpose} and cannot be imported ({error}); "
            f"install it: {EXTRA}"
        ) from error
