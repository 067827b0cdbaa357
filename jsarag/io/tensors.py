"""Named tensors to and from safetensors files; nothing is ever pickled.

Every file holds a checksum of its tensors. File names and meaning are the callers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jsarag.errors import CheckpointError
from jsarag.io.atomic import replace_file
from jsarag.io.digests import ALGORITHM, new_hash
from jsarag.io.faults import is_fault, storage_error


def save_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to one file, atomically.

    Args:
        path: the file.
        tensors: any shapes, dtypes and devices; tensors that share memory are stored once each.
        metadata: strings kept in the file's header.

    Raises:
        StorageError: the disk is full, the place cannot be written, or a limit is reached.
    """
    stored = _independent(tensors)
    with replace_file(path) as temporary:
        try:
            save_file(stored, temporary, metadata={**(metadata or {}), ALGORITHM: digest(stored)})
        except SafetensorError as error:
            if not is_fault(error):
                raise
            raise storage_error(path, error) from error


def load_tensors(path: Path | str, *, check: bool = True) -> dict[str, Tensor]:
    """Read every tensor of a file, to the CPU.

    Args:
        path: the file.
        check: compare the tensors with the checksum in the file's header, where it has one (files
            of earlier versions do not); False where the whole file was compared already.

    Raises:
        CheckpointError: the file is missing, damaged or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sealed = (file.metadata() or {}).get(ALGORITHM) if check else None
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if sealed is not None and digest(found) != sealed:
        raise CheckpointError(
            f"{path}: expected tensors with the checksum {sealed[:12]}..., found others: the file "
            "is damaged. Restore it from a copy"
        )
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Checksum of named tensors on the CPU: names, dtypes, shapes and bytes."""
    made = new_hash()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        made.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1e".encode())
        made.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def load_metadata(path: Path | str) -> dict[str, str]:
    """Read the strings kept in a file's header, without the checksum.

    Raises:
        CheckpointError: the file is missing, cut short or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            stored = file.metadata() or {}
            return {key: value for key, value in stored.items() if key != ALGORITHM}
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
