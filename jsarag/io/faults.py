"""What the system refuses, in words: a full disk, a read-only folder, a limit, a broken device.

Readers and writers of ``io`` pass their OSErrors through here, so that each names its path and what
to do, and none is taken for a fault of the package.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jsarag.errors import StorageError

_FIXES: Final = {
    errno.ENOSPC: "free some space there, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f), or choose another file system",
    errno.EROFS: "choose a folder on a file system that can be written",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.EIO: "the disk reports errors: check it, and choose a folder on another one",
    errno.ESTALE: "the network file system has lost it; mount it again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "the whole system has too many open files; close some programs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path",
    errno.EISDIR: "a folder stands where a file is needed; move it away, or choose another path",
    errno.ELOOP: "remove the circle of symbolic links",
}
# How the safetensors library, written in Rust, words the system's errors.
_WORDED = re.compile(r"\(os error (\d+)\)")


def is_fault(error: BaseException) -> bool:
    """Whether an error is the system's: its storage, rights or limits."""
    return _number(error) in _FIXES


def storage_error(path: Path | str, error: BaseException) -> StorageError:
    """The error to raise for what the system said about a path."""
    number = _number(error)
    reason = os.strerror(number) if number else str(error)
    fix = _FIXES.get(number, "check the path, its permissions and the disk")
    return StorageError(f"{path}: {reason}; {fix}")


@contextmanager
def named_faults(path: Path | str) -> Iterator[None]:
    """Turn the system's errors inside the block into errors that name ``path``.

    Raises:
        StorageError: storage, rights or limits stood in the way. Other errors pass.
    """
    try:
        yield
    except OSError as error:
        if not is_fault(error):
            raise
        raise storage_error(path, error) from error


def _number(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    found = _WORDED.search(str(error))
    return int(found[1]) if found else 0
