"""How many threads compute here, and how they wait: to be decided before torch is imported.

torch counts the machine's cores, also in a container that may use half a core, and its threads
(OpenMP) wait for each other in a loop that burns what the others need. With the machine to oneself
that is quick; beside another program a training step took several times as long
(``docs/design.md``). Whoever sets OMP_NUM_THREADS, OMP_WAIT_POLICY or GOMP_SPINCOUNT is obeyed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
# Rounds of waiting before a thread sleeps: tens of microseconds, longer than two steps of one
# operation lie apart and far less than a time slice. libgomp's own choice is a hundred times that.
_ROUNDS = "10000"
_THREADS = "OMP_NUM_THREADS"
# What this process set for itself, so that it is not taken for the user's.
_chosen: set[str] = set()


def usable_cores() -> int:
    """Cores this process may keep busy: its affinity, or a container's quota where that is less."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def set_thread_defaults(environment: MutableMapping[str, str]) -> None:
    """Set what the user left open in the environment that torch will read when it is imported."""
    cores = usable_cores()
    if cores < len(os.sched_getaffinity(0)) and _THREADS not in environment:
        environment[_THREADS] = str(cores)
        _chosen.add(_THREADS)
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _ROUNDS)


def threads_each(environment: Mapping[str, str], processes: int) -> str:
    """OMP_NUM_THREADS for each of several processes: the user's own, else a share of the cores."""
    if _THREADS in environment and _THREADS not in _chosen:
        return environment[_THREADS]
    return str(max(usable_cores() // processes, 1))


def _quota() -> float | None:
    """Cores a container's quota amounts to (cgroups, both versions); None without one."""
    try:
        allowed, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            allowed, period = (
                (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        found = float(allowed) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return found if found > 0 else None
