"""The run folder: where each file of a run lies, whose run it is, and its growing logs.

Layout: ``run.json`` (whose run this is), ``config.json`` (tells tools that take a folder for a
model that this is none), ``config.resolved.yaml``, ``env.json``, ``metrics.jsonl``, ``events.log``,
``plots/``, ``report.html``, ``checkpoints/step-N/``, ``checkpoints/last``, ``index/gen-N/``,
``eval/<split>/``. Checkpoints are ``checkpoint.py``'s, indexes ``index/``'s.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jsarag.errors import CheckpointError
from jsarag.io.atomic import clean_leftovers, to_json, write_json, write_jsonl, write_text
from jsarag.io.digests import text_digest
from jsarag.io.environment import describe_environment
from jsarag.io.faults import named_faults
from jsarag.io.lines import append_line, read_json_lines
from jsarag.io.records import CHECKSUM, read_json, read_record, read_text, write_record

# transformers and sentence-transformers quote a model type that they do not know, and nothing else
# of a folder that is no model.
_MODEL_CONFIG = "config.json"
_NO_MODEL = {
    "model_type": "run of jsarag, not a model; `jsarag export RUN DEST --to sentence-transformers` "
    "writes one"
}
# Version 1 had no checksums of run.json and config.resolved.yaml.
FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)
_SEAL = f"# {CHECKSUM}: "
# Held until the process ends: POSIX record locks belong to the process and vanish when any
# descriptor of the file is closed, so a claimed folder keeps exactly one.
_locks: dict[Path, int] = {}


class RunDir:
    """One run's folder; creating the object touches nothing.

    Args:
        path: the folder. :meth:`claim` makes it this run's, everything else only needs it to exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @property
    def run_path(self) -> Path:
        """``run.json``: format, fingerprint and configuration the folder belongs to."""
        return self.path / "run.json"

    @property
    def config_path(self) -> Path:
        """``config.resolved.yaml``."""
        return self.path / "config.resolved.yaml"

    @property
    def env_path(self) -> Path:
        """``env.json``: machine, versions, commit."""
        return self.path / "env.json"

    @property
    def metrics_path(self) -> Path:
        """``metrics.jsonl``: one row per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def events_path(self) -> Path:
        """``events.log``: what happened, one line each, in UTC."""
        return self.path / "events.log"

    @property
    def plots_path(self) -> Path:
        """Folder of PNG plots."""
        return self.path / "plots"

    @property
    def report_path(self) -> Path:
        """``report.html``."""
        return self.path / "report.html"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of ``step-N`` checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_path(self) -> Path:
        """``checkpoints/last``: names the newest complete checkpoint; written last."""
        return self.checkpoints_path / "last"

    def checkpoint_path(self, step: int) -> Path:
        """The folder of the checkpoint after ``step`` optimizer steps."""
        return self.checkpoints_path / f"step-{step}"

    def index_path(self, generation: int) -> Path:
        """The folder of one index generation."""
        return self.path / "index" / f"gen-{generation}"

    def eval_path(self, split: str) -> Path:
        """The folder of one split's ``metrics.json`` and ``predictions.jsonl``."""
        return self.path / "eval" / split

    def claim(self, config: Mapping[str, Any], *, ignore: Collection[str] = ()) -> bool:
        """Make the folder this run's, or recognise that it already is.

        Args:
            config: the resolved configuration, JSON types.
            ignore: dotted keys that may differ between a run and its continuation
                (``train.max_steps``).

        Returns:
            True where the folder already belonged to this very configuration (resume), False where
            it is new, or held a run that ended before it began (its data were not found, say).

        Raises:
            CheckpointError: the folder holds other files, another run, or a run in progress.
        """
        _refuse_foreign(self)
        fingerprint = config_fingerprint(config, ignore=ignore)
        if self.run_path.exists() and not self._never_began():
            self._check_fingerprint(fingerprint, config, ignore)
            self._lock()
            clean_leftovers(self.path)
            return True
        with named_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        write_record(
            self.run_path,
            {
                "format_version": FORMAT_VERSION,
                "fingerprint": fingerprint,
                "created": _now(),
                "config": config,
            },
        )
        write_json(self.path / _MODEL_CONFIG, _NO_MODEL)
        return False

    def identity(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            CheckpointError: the folder is no run folder, or of a newer format.
        """
        return _read_identity(self.run_path)

    def write_config(self, text: str) -> None:
        """Save the resolved configuration as it was printed, with a checksum in its last line."""
        write_text(self.config_path, f"{text}{_SEAL}{text_digest(text)}\n")

    def check_config(self) -> Path:
        """The path of ``config.resolved.yaml``, whose content is what :meth:`write_config` wrote.

        Raises:
            CheckpointError: it is missing, damaged, or was changed by hand.
        """
        fix = (
            "restore it from a copy, or write it again: `jsarag train` with the settings of "
            f"{self.run_path}, --resume and --output-dir {self.path}"
        )
        text = read_text(self.config_path, fix=fix)
        content, seal, found = text.rpartition(_SEAL)
        if not seal:
            if self.identity()["format_version"] == 1:
                return self.config_path
            raise CheckpointError(
                f"{self.config_path}: expected a last line '{_SEAL}...', found none: the file was "
                f"cut short or written by hand; {fix}"
            )
        if found != f"{text_digest(content)}\n":
            raise CheckpointError(
                f"{self.config_path}: expected settings with the checksum {found[:21]}..., found "
                f"{text_digest(content)[:21]}...: it was damaged or changed by hand (--set "
                f"group.key=value changes a setting for one command); {fix}"
            )
        return self.config_path

    def write_env(self) -> None:
        """Save machine, versions and commit to ``env.json``."""
        write_json(self.env_path, describe_environment())

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row to ``metrics.jsonl``; it is on file when the call returns."""
        append_line(self.metrics_path, to_json(row))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every whole row of ``metrics.jsonl``; a line cut short by a crash is dropped."""
        return read_json_lines(self.metrics_path)

    def rewind_metrics(self, **reached: int) -> int:
        """Drop the rows that a resumed run will write again; returns how many.

        Args:
            reached: counter of a row -> how far the checkpoint had come (``step=40``); a row goes
                where any of its counters is beyond that.
        """
        return self._keep_metrics(
            lambda row: all(_count(row, counter) <= limit for counter, limit in reached.items())
        )

    def restart_metrics(self) -> int:
        """Drop the rows of an attempt that saved nothing; returns how many.

        The scores before training stay: they are read back, and not made again.
        """
        return self._keep_metrics(lambda row: row.get("kind") == "eval" and row.get("step") == 0)

    def _keep_metrics(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        rows = self.read_metrics()
        kept = [row for row in rows if wanted(row)]
        if len(kept) < len(rows):
            write_jsonl(self.metrics_path, kept)
        return len(rows) - len(kept)

    def log_event(self, text: str) -> None:
        """Append one dated line to ``events.log``."""
        append_line(self.events_path, f"{_now()} {' '.join(text.splitlines())}")

    def _never_began(self) -> bool:
        """Whether all the folder holds is what was written before there was anything to keep."""
        self.identity()  # a foreign run.json is no beginning
        written = {self.run_path, self.config_path, self.env_path, self.events_path}
        names = {path.name for path in written} | {".lock", _MODEL_CONFIG}
        return all(entry.name in names for entry in self.path.iterdir())

    def _check_fingerprint(
        self, fingerprint: str, config: Mapping[str, Any], ignore: Collection[str]
    ) -> None:
        identity = self.identity()
        before = identity.get("config", {})
        # Compared afresh rather than with the stored digest, so that the keys to ignore may change
        # between versions without orphaning old folders.
        if config_fingerprint(before, ignore=ignore) == fingerprint:
            return
        changed = _differences(before, config, ignore)
        raise CheckpointError(
            f"{self.path}: expected an empty folder or this run's own; it belongs to a run with "
            f"other settings ({'; '.join(changed[:5])}). Choose another --output-dir, or use the "
            "settings it was started with"
        )

    def _lock(self) -> None:
        path = Path(os.path.realpath(self.path)) / ".lock"
        if path in _locks:
            return
        with named_faults(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise CheckpointError(
                    f"{self.path}: another process is writing this run; wait for it, stop it, or "
                    "choose another --output-dir"
                ) from error
            self.log_event(f"the file system has no locks ({error}); do not start this run twice")
            return
        _locks[path] = descriptor


def config_fingerprint(config: Mapping[str, Any], *, ignore: Collection[str] = ()) -> str:
    """Digest of a resolved configuration without the dotted keys of ``ignore``; hex, 32 digits.

    What is None is left out: a setting that did not exist when a run began, and is not set now.
    """
    settings = {
        key: value
        for key, value in _flatten(config).items()
        if key not in ignore and value is not None
    }
    text = to_json(dict(sorted(settings.items())))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _refuse_foreign(run: RunDir) -> None:
    if not run.path.exists() or run.run_path.exists():
        return
    if not run.path.is_dir():
        raise CheckpointError(f"{run.path}: expected a folder, found a file; choose another path")
    strangers = sorted(entry.name for entry in run.path.iterdir() if entry.name != ".lock")
    if strangers:
        raise CheckpointError(
            f"{run.path}: expected an empty folder or a run's; found {', '.join(strangers[:3])} "
            "and no run.json. Choose another --output-dir"
        )


def _read_identity(path: Path) -> dict[str, Any]:
    fix = "restore it from a copy; without it, whose run this is is not known"
    if not path.exists():
        raise CheckpointError(
            f"{path.parent}: expected a run folder; it has no run.json. Give the folder that "
            "`jsarag train` wrote"
        )
    version = read_json(path, fix=fix).get("format_version")
    if version not in _READ_VERSIONS:
        raise CheckpointError(
            f"{path}: expected run format {FORMAT_VERSION}, found {version!r}; use the version of "
            "jsarag that wrote it"
        )
    return read_record(path, fix=fix)


def _count(row: Mapping[str, Any], counter: str) -> float:
    value = row.get(counter, 0)
    return value if isinstance(value, int | float) else 0


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or (prefix and not value):
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return result


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], ignore: Collection[str]
) -> list[str]:
    # The stored side went through JSON; the new side must too, or tuples would differ from lists.
    old, new = _flatten(before), _flatten(json.loads(to_json(after)))
    return [
        f"{key}: {old.get(key, 'unset')!r} there, {new.get(key, 'unset')!r} here"
        for key in sorted(old.keys() | new.keys())
        if key not in ignore and old.get(key) != new.get(key)
    ]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
