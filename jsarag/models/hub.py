"""Finds pretrained models and loads them quietly, with errors that say what to do.

The only module that asks transformers for pretrained files. It never runs code that comes with a
model. Which models come in packages is ``packaged``'s, where converted files lie is ``gguf``'s.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import ssl
import struct
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from jsarag.errors import BackendUnavailableError, CheckpointError, ConfigError
from jsarag.io.records import read_text
from jsarag.models import gguf
from jsarag.models.packaged import PACKAGED, packaged_elsewhere, packaged_names, packaged_path

# Seconds for a first answer of the hub.
_PATIENCE = 5.0
# What reading damaged weights may end with, in whatever format they are.
_UNREADABLE = (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, struct.error)
# What reading a damaged GGUF file may end with.
_BROKEN = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(NotImplementedError, ArithmeticError, EOFError, MemoryError, struct.error),
)


def resolve_model(name: str) -> str:
    """The folder or hub id behind a model's name; a GGUF file's folder is made if need be.

    Args:
        name: a model inside an installed package ('minilm', 'smollm2'), a folder, a GGUF file, or a
            hub id.

    Raises:
        BackendUnavailableError: the package that holds the model, or one that reads GGUF files, is
            not installed.
        ConfigError: the name looks like a path and no model is there, a folder holds several GGUF
            files, or one cannot be read.
    """
    path = _local_path(name)
    if path is None:
        return name
    file = gguf.find_gguf(path)
    return str(path if file is None else gguf.converted(file, _write_plain))


def display_name(name: str) -> str:
    """A model's name as records keep it: a path's last part (folders move), else the name."""
    path = Path(name).expanduser()
    if name in PACKAGED or not path.exists():
        return name
    return path.stem if path.suffix == gguf.SUFFIX and path.is_file() else path.resolve().name


def needs_conversion(name: str) -> bool:
    """Whether loading a model begins with a conversion, which takes about half a minute."""
    path = PACKAGED[name].find() if name in PACKAGED else Path(name).expanduser()
    if path is None or not path.exists():
        return False
    file = gguf.find_gguf(path)
    return file is not None and not gguf.is_converted(file)


def has_chat_template(name: str) -> bool:
    """Whether a model's tokeniser comes with a chat template.

    Raises:
        BackendUnavailableError: it is neither on this machine nor reachable.
    """
    return bool(load_tokenizer(name).chat_template)


def load_tokenizer(name: str) -> Any:
    """The tokeniser of a model.

    Raises:
        BackendUnavailableError: it is neither on this machine nor reachable.
    """
    from transformers import AutoTokenizer

    with quiet_transformers(), _explained(name):
        return AutoTokenizer.from_pretrained(
            resolve_model(name), trust_remote_code=False, **_from_where(name)
        )


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
    options: dict[str, Any] = _from_where(name)
    if attention != "auto":
        options["attn_implementation"] = attention
    with quiet_transformers(), _explained(name):
        model, report = auto_class.from_pretrained(
            resolve_model(name),
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    # A pooler is never used here; models fine-tuned without one leave it out.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ConfigError(
            f"model '{name}': its files lack {len(missing)} weights of {type(model).__name__} "
            f"({', '.join(missing[:3])}, ...), which would start random. "
            "Name a model of this kind, or train one first"
        )
    origin = _gguf_origin(name)
    if origin is not None:
        # Adapters write down where their base came from, and a cache may be emptied. A path it must
        # be: peft would look for anything else on the hub.
        model.name_or_path = model.config._name_or_path = origin
    return model.eval()


def load_config(name: str) -> Any:
    """A model's transformers configuration.

    Raises:
        BackendUnavailableError: it is neither on this machine nor reachable.
    """
    from transformers import AutoConfig

    with quiet_transformers(), _explained(name):
        return AutoConfig.from_pretrained(
            resolve_model(name), trust_remote_code=False, **_from_where(name)
        )


def read_model_json(name: str, file: str) -> dict[str, Any] | None:
    """A small JSON file that lies beside a model, or None where it has none."""
    resolved = resolve_model(name)
    path = Path(resolved) / file
    if not Path(resolved).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

        try:
            path = Path(hf_hub_download(resolved, file, **_from_where(name)))
        except (EntryNotFoundError, HfHubHTTPError, OSError):
            return None
    if not path.is_file():
        return None
    fix = "restore it from a copy, or remove it if it is not needed"
    try:
        content = json.loads(read_text(path, fix=fix))
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, found none ({error}); {fix}") from error
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
        with warnings.catch_warnings():
            # peft, saving adapters of a model that was a GGUF file; we add no words to one.
            warnings.filterwarnings("ignore", message="Could not find a config file in .*gguf")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _local_path(name: str) -> Path | None:
    """Where a model lies on this machine; None for a hub id."""
    if name in PACKAGED:
        return packaged_path(name)
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == gguf.SUFFIX):
        return path
    packaged = packaged_elsewhere(path)
    if packaged is not None:
        return packaged_path(packaged)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(gguf.SUFFIX):
        raise ConfigError(
            f"model '{name}': expected a folder with config.json and weights, or a GGUF file; "
            f"found none there. Give an existing one, {packaged_names()}, or a hub id such as "
            "'owner/name'"
        )
    return None


def _from_where(name: str) -> dict[str, Any]:
    """Options for loading a model: the local cache alone where the hub cannot be reached.

    Raises:
        BackendUnavailableError: the hub cannot be reached and the cache does not have it.
    """
    if _local_path(name) is not None:
        return {}
    from huggingface_hub import constants, try_to_load_from_cache

    trouble = "it is switched off" if constants.HF_HUB_OFFLINE else _trouble(constants.ENDPOINT)
    if trouble is None:
        return {}
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return {"local_files_only": True}
    raise BackendUnavailableError(
        f"model '{name}': it is neither a folder here nor in the local cache, and the hub cannot "
        f"be reached ({trouble}). Without a network, use one that comes in a package: "
        f"{packaged_names()}; or download the model on a connected machine and give its folder"
    )


@cache
def _trouble(address: str) -> str | None:
    """Why an address does not answer within seconds, None where it does; asked once a process.

    The hub's own client repeats a failed request for more than a minute, file by file.
    """
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:  # an answer, whatever it says
        return None
    except urllib.error.URLError as error:
        # Certificates are the client's business: it may know others.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except OSError as error:
        return _first_line(error)
    return None


def _gguf_origin(name: str) -> str | None:
    """The file a converted model was made of; None for other models."""
    path = _local_path(name)
    file = None if path is None else gguf.find_gguf(path)
    return None if file is None else str(file.absolute())


def _write_plain(file: Path, folder: Path) -> None:
    """Read a GGUF language model and write it as float32 safetensors with its tokeniser.

    Raises:
        ConfigError: the file cannot be read.
    """
    import transformers

    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    # Newer versions can keep the weights packed (on a GPU); plain floats are wanted.
    packed = getattr(transformers, "GgufConfig", None)
    unpack = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    try:
        # One of its progress bars asks nobody whether it may be shown.
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent, dtype=torch.float32, **unpack, **options
            )
    except _BROKEN as error:
        raise ConfigError(
            f"{file}: expected a GGUF file of a language model that transformers "
            f"{transformers.__version__} reads; reading it failed with '{_first_line(error)}'. "
            "Download it again if it is damaged, or name another model"
        ) from error
    # The weights are plain by now, but the model still says that it is quantised, and transformers
    # refuses to save quantised models.
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


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
        if isinstance(error, OSError) and error.errno is not None and _local_path(name) is not None:
            raise _unreadable(name, error) from error  # the system's, while reading
        raise BackendUnavailableError(
            f"model '{name}': expected a model folder, a GGUF file, or a hub id that is in the "
            f"local cache or can be downloaded; loading failed with '{_first_line(error)}'. Check "
            "the name and the network, download the model on a connected machine and give its "
            f"folder, or use one that comes in a package: {packaged_names()}"
        ) from error
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: BaseException) -> CheckpointError:
    path = _local_path(name)
    files = [] if path is None or not path.is_dir() else sorted(path.iterdir())
    weights = [file.name for file in files if file.suffix in (".safetensors", ".bin")]
    return CheckpointError(
        f"{name if path is None else path}: expected weights that can be read "
        f"({', '.join(weights) or 'of the cache'}), reading them failed with "
        f"'{_first_line(error)}'; download the model again, or restore the file from a copy"
    )
