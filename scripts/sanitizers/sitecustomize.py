"""Makes ``jsarag._native`` the sanitised build; Python imports this file at start if it finds it.

``scripts/sanitize`` puts this folder on PYTHONPATH, so subprocesses of tests get the same module.
Neither the installed package nor the code that imports the module is touched.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULE = "jsarag._native"


class SanitisedModule:
    """Finds one module, before anybody else does."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the sanitised build, None for every other name."""
        if name != MODULE:
            return None
        return importlib.util.spec_from_file_location(name, os.environ["JSARAG_SANITISED_MODULE"])


if "JSARAG_SANITISED_MODULE" in os.environ:
    sys.meta_path.insert(0, SanitisedModule)
