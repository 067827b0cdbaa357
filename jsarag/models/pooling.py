"""Token states to one vector, and which way of doing so a pretrained model asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jsarag.errors import ConfigError

POOLINGS = ("mean", "cls", "last")
# The flags of sentence-transformers' 1_Pooling/config.json, and the names newer files use instead.
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_MODES = {"mean": "mean", "cls": "cls", "lasttoken": "last"}


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector per text from its token states.

    Args:
        hidden: token states f32 [n, T, D], right padded.
        mask: int64 [n, T], 1 on tokens.
        pooling: 'mean' over tokens, 'cls' (the first) or 'last'.

    Returns:
        f32 [n, D].
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = mask.sum(dim=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def known_pooling(pooling: str) -> str:
    """``pooling`` itself if there is such a pooling.

    Raises:
        ConfigError: there is none.
    """
    if pooling not in POOLINGS:
        raise ConfigError(
            f"retriever.pooling: expected 'auto' or one of {list(POOLINGS)}, got '{pooling}'"
        )
    return pooling


def declared_pooling(name: str, content: dict[str, Any] | None) -> str:
    """What a model's 1_Pooling/config.json asks for; 'mean' where it has none.

    Args:
        name: the model, for the error.
        content: the file's content, or None.

    Raises:
        ConfigError: it asks for a pooling, or a combination, that is not supported.
    """
    if content is None:
        return "mean"
    if isinstance(content.get("pooling_mode"), str):
        asked = [content["pooling_mode"]]
        known = [_MODES[mode] for mode in asked if mode in _MODES]
    else:
        asked = [key for key, on in content.items() if key.startswith("pooling_mode_") and on]
        known = [_FLAGS[flag] for flag in asked if flag in _FLAGS]
    if len(asked) != 1 or len(known) != 1:
        raise ConfigError(
            f"model '{name}': its 1_Pooling/config.json asks for {asked or 'nothing'}, expected "
            f"one of {sorted(_FLAGS)}; set retriever.pooling to one of {list(POOLINGS)} to "
            "override it"
        )
    return known[0]
