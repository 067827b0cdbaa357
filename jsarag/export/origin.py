"""Which published model a part began as, and under which licence, as far as this machine knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from jsarag.models.hub import display_name, resolve_model
from jsarag.models.packaged import MINILM, PACKAGED, SMOLLM2

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Origin:
    """A model's name for people, its hub id and its licence where known."""

    name: str
    hub_id: str | None = None
    licence: str | None = None


_PUBLISHED = {
    MINILM: Origin(MINILM, "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
    SMOLLM2: Origin(SMOLLM2, "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}
assert set(_PUBLISHED) == set(PACKAGED)


def origin_of(model: str) -> Origin:
    """Where a model came from; asks no network.

    Args:
        model: a name as ``retriever.model`` or ``generator.model`` has it.
    """
    if model in _PUBLISHED:
        return _PUBLISHED[model]
    path = Path(model).expanduser()
    if path.exists():
        folder = path if path.is_dir() else path.parent
        front = _front_matter(folder / "README.md")
        tags = front.get("tags")
        ours = isinstance(tags, list) and "jsarag" in tags
        base = front.get("base_model") if ours else None
        return Origin(display_name(model), _text(base), _licence(front))
    hub_id = model if _HUB_ID.fullmatch(model) else None
    return Origin(model, hub_id, _licence(_cached_front(model)) if hub_id else None)


def _cached_front(hub_id: str) -> dict[str, object]:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(resolve_model(hub_id), "README.md")
    return _front_matter(Path(found)) if isinstance(found, str) else {}


def _front_matter(path: Path) -> dict[str, object]:
    """The YAML head of a model card; {} where there is none to read."""
    try:
        match = _FRONT.match(path.read_text(encoding="utf-8", errors="replace"))
        content = yaml.safe_load(match[1]) if match else None
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _licence(front: dict[str, object]) -> str | None:
    # "other" names no licence; the name stands beside it.
    found = _text(front.get("license"))
    return _text(front.get("license_name")) or found if found == "other" else found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
