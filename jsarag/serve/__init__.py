"""An HTTP search endpoint over an index; needs the ``serve`` extra."""

from __future__ import annotations

from importlib.util import find_spec

from jsarag.errors import BackendUnavailableError

for _name in ("fastapi", "uvicorn"):
    if find_spec(_name) is None:
        raise BackendUnavailableError(
            f"serving needs the package {_name}, which is not installed; `pip install "
            "'jsarag[serve]'`"
        )
