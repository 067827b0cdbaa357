"""Chooses an op's implementation: ``reference`` (plain torch), ``cpu`` or ``cuda`` (compiled).

``JSARAG_BACKEND`` (auto, reference, cpu, cuda) overrides the choice. What the choice is not asked
to do: know shapes or pointers (``ops`` and ``native``).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Literal, NamedTuple

from jsarag.errors import BackendUnavailableError

Backend = Literal["reference", "cpu", "cuda"]
VARIABLE = "JSARAG_BACKEND"
_VALUES = ("auto", "reference", "cpu", "cuda")


class Choice(NamedTuple):
    """The implementation that runs, and why."""

    backend: Backend
    reason: str


def _requested() -> str:
    """What the environment asks for: auto, reference, cpu or cuda.

    Raises:
        BackendUnavailableError: ``JSARAG_BACKEND`` is none of them.
    """
    value = os.environ.get(VARIABLE, "auto").strip().lower() or "auto"
    if value not in _VALUES:
        raise BackendUnavailableError(
            f"{VARIABLE}: expected one of {', '.join(_VALUES)}, found '{value}'; unset it"
        )
    return value


def choose(
    op: str,
    device: str,
    dtypes: Collection[str],
    *,
    native_ops: Collection[str],
    supported: Collection[str],
    missing: str = "",
) -> Choice:
    """Choose for one call.

    Args:
        op: the op's name, for messages.
        device: ``cpu`` or ``cuda``, where the tensors are.
        dtypes: names of the floating or integer dtypes that came (``float32``, ...).
        native_ops: ops the compiled module has for this device.
        supported: dtype names its kernel takes.
        missing: why there is no compiled module, "" if there is one.

    Raises:
        BackendUnavailableError: the environment insists on a backend that cannot run this call.
    """
    wanted = _requested()
    if wanted == "reference":
        return Choice("reference", f"{VARIABLE}=reference")
    refusal = _refusal(op, device, dtypes, native_ops, supported, missing)
    if wanted not in ("auto", device):
        refusal = refusal or f"the tensors are on {device}"
        raise BackendUnavailableError(
            f"{op}: {VARIABLE}={wanted} cannot be kept: {refusal}; unset it or move the tensors"
        )
    if refusal and wanted != "auto" and "float64" not in dtypes:
        raise BackendUnavailableError(
            f"{op}: {VARIABLE}={wanted} cannot be kept: {refusal}; unset it"
        )
    if refusal:
        return Choice("reference", refusal)
    return Choice("cuda" if device == "cuda" else "cpu", "compiled kernel")


def _refusal(
    op: str,
    device: str,
    dtypes: Collection[str],
    native_ops: Collection[str],
    supported: Collection[str],
    missing: str,
) -> str:
    if missing:
        return missing
    if device not in ("cpu", "cuda"):
        return f"no compiled kernel for device '{device}'"
    if "float64" in dtypes:
        return "float64 runs the reference, which is the truth"
    if op not in native_ops:
        return f"the compiled module has no {device} kernel for {op}"
    unknown = sorted(set(dtypes) - set(supported))
    if unknown:
        return f"no compiled {op} for {', '.join(unknown)}"
    return ""
