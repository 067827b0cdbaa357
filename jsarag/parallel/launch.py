"""Start a command once per process on this machine, and end as the whole of it ended.

Not ``torch.distributed.run``: it turns every failure into exit code 1 and every signal into a kill,
while a run here ends with codes that mean something, and saves when it is asked to stop. The port
the processes meet at listens on the loopback only, and is handed over open, so nobody takes it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jsarag.errors import ConfigError, LostProcessError
from jsarag.io.threads import threads_each
from jsarag.parallel.place import LISTENER, LOOPBACK

# Once one has failed, the others have this long to save and end by themselves; then they are asked
# to, and at last made to: within a minute all is over.
_GRACE_S, _LAST_S = 30.0, 10.0
_LOOK_S = 0.1


def launch(command: Sequence[str], processes: int) -> int:
    """Run ``command`` in ``processes`` processes that can find each other; wait for all.

    SIGINT and SIGTERM are passed on to every process, once each.

    Args:
        command: program and arguments, the same for each.
        processes: at least 1.

    Returns:
        0 where all ended so; else process 0's code, or another's where that is 0; and
        :class:`~jsarag.errors.LostProcessError`'s where processes were killed.

    Raises:
        ConfigError: there are fewer than one processes to start.
    """
    if processes < 1:
        raise ConfigError(f"--processes: expected at least 1, found {processes}")
    with socket.create_server((LOOPBACK, 0), backlog=processes) as meeting:
        port, listener = meeting.getsockname()[1], meeting.fileno()
        started: list[subprocess.Popen[Any]] = []
        with _passed_on(started):
            for rank in range(processes):
                own = _environment(rank, processes, port)
                if rank == 0:
                    own[LISTENER] = str(listener)
                started.append(
                    subprocess.Popen(
                        list(command),
                        env=own,
                        pass_fds=(listener,) if rank == 0 else (),
                        # Ctrl-C reaches a whole group: passed on as well, it would count twice.
                        start_new_session=True,
                    )
                )
            meeting.close()  # process 0 has its own copy
            try:
                return _wait(started)
            finally:
                for process in started:
                    if process.poll() is None:
                        process.kill()


def exit_code(codes: Sequence[int]) -> int:
    """What codes of processes 0, 1, ... come to; a negative one is the signal that killed it."""
    failed = [code for code in codes if code > 0]
    if failed:
        return failed[0]
    return LostProcessError.exit_code if any(codes) else 0


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        # Each would take all cores for itself.
        "OMP_NUM_THREADS": threads_each(os.environ, processes),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
    }


def _wait(started: Sequence[subprocess.Popen[Any]]) -> int:
    failed_at: float | None = None
    asked = False
    while any(process.poll() is None for process in started):
        if failed_at is None and any(process.returncode for process in started):
            failed_at = time.monotonic()
        waited_s = 0.0 if failed_at is None else time.monotonic() - failed_at
        left = [process for process in started if process.returncode is None]
        if waited_s > _GRACE_S + _LAST_S:
            for process in left:
                process.kill()
        elif waited_s > _GRACE_S and not asked:
            asked = True
            for process in left:
                process.terminate()
        time.sleep(_LOOK_S)
    return exit_code([process.returncode for process in started])


@contextmanager
def _passed_on(started: Sequence[subprocess.Popen[Any]]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
