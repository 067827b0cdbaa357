"""Named tensors to and from safetensors files; nothing is ever pickled.

Leaves file names, checksums and meaning to the callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jsarag.errors import CheckpointError
from jsarag.io.atomic import replace_file


def save_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to one file, atomically.

    Args:
        path: the file.
        tensors: any shapes, dtypes and devices; tensors that share memory are stored once each.
        metadata: strings kept in the file's header.
    """
    with replace_file(path) as temporary:
        # None and not {}: safetensors 0.8 writes a header it cannot read when both are empty.
        save_file(_independent(tensors), temporary, metadata=dict(metadata) if metadata else None)


def load_tensors(path: Path | str, *, device: str = "cpu") -> dict[str, Tensor]:
    """Read every tensor of a file.

    Raises:
        CheckpointError: the file is missing, cut short or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def load_metadata(path: Path | str) -> dict[str, str]:
    """Read the strings kept in a file's header.

    Raises:
        CheckpointError: the file is missing, cut short or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path | str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path}: expected a whole safetensors file; reading it failed with '{error}'. "
        "Restore the file from a copy, or use an earlier checkpoint"
    )


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU copies where needed: safetensors refuses strided tensors and shared (tied) memory."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        storage = flat.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != flat.numel() * flat.element_size():
            flat = flat.clone()
        seen.add(flat.untyped_storage().data_ptr())
        result[name] = flat
    return result
