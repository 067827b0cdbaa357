"""Low-rank adaptation of a Hugging Face model through peft, an optional dependency.

Leaves the model's own loading and scoring to ``hf_generator``.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from jsarag.errors import BackendUnavailableError, ConfigError


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What peft needs to know: rank r, scale alpha / r, and which linear layers are adapted.

    ``target_modules`` None adapts every linear layer except the output head.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None


def require_peft() -> None:
    """Fail in the user's words where peft is not installed.

    Raises:
        BackendUnavailableError: peft is missing.
    """
    if importlib.util.find_spec("peft") is None:
        raise BackendUnavailableError(
            "generator.lora: expected the package peft, which is not installed. "
            "Run `pip install 'jsarag[lora]'`, or leave lora out to train the whole generator"
        )


def add_lora(model: nn.Module, settings: LoraSettings, *, is_encoder_decoder: bool) -> Any:
    """Wrap ``model`` so that only low-rank adapters train.

    Args:
        model: a transformers model.
        settings: rank, scale and layers.
        is_encoder_decoder: the model's family.

    Returns:
        The peft model; every base parameter is frozen, the adapters start as the identity.

    Raises:
        BackendUnavailableError: peft is missing.
        ConfigError: no layer is called as ``target_modules`` says.
    """
    require_peft()
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides, any number does
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings),
        task_type="SEQ_2_SEQ_LM" if is_encoder_decoder else "CAUSAL_LM",
    )
    with _quiet_peft():
        return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: str) -> Any:
    """Wrap ``model`` with adapters saved in a folder, ready to train on.

    Raises:
        BackendUnavailableError: peft is missing.
    """
    require_peft()
    from peft import PeftModel

    with _quiet_peft():
        return PeftModel.from_pretrained(model, folder, is_trainable=True)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Silence what peft says while it does the right thing by itself."""
    with warnings.catch_warnings():
        # GPT-2's Conv1D stores its weight transposed; peft notices and follows.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        # peft 0.21 asks transformers 5 by an old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def _targets(model: nn.Module, settings: LoraSettings) -> list[str] | str:
    if settings.target_modules is None:
        return "all-linear"
    leaves = {name.rpartition(".")[2] for name, _ in model.named_modules() if name}
    unknown = [name for name in settings.target_modules if name.rpartition(".")[2] not in leaves]
    if unknown:
        raise ConfigError(
            f"generator.lora.target_modules: expected names of the model's layers, got {unknown}; "
            f"its layers are called {sorted(leaves)}"
        )
    return list(settings.target_modules)
