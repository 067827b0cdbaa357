"""A record of the machine, the versions and the commit a result was made with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from jsarag._version import __version__
from jsarag.io.threads import usable_cores

_PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "transformers",
    "tokenizers",
    "pydantic",
    "peft",
    "faiss-cpu",
    "faiss-gpu",
)


def describe_environment() -> dict[str, Any]:
    """Versions, processor, threads and commit, as JSON types; no host name, user or variable."""
    import torch

    return {
        "jsarag": __version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def source_commit() -> str | None:
    """The commit of the checkout this package runs from, ``-dirty`` if changed; None if installed.

    An installed package inside somebody else's repository must not report that repository's
    commit, so git is asked whether it tracks this very package.
    """
    package = Path(__file__).resolve().parents[1]
    if (
        shutil.which("git") is None
        or _git(package, "ls-files", "--error-unmatch", "errors.py") is None
    ):
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if _git(package, "status", "--porcelain", "-uno") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
