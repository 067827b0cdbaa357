"""Which of how many processes this is, as the environment says: ours, torchrun's or Slurm's.

Reads variables and nothing else; joining the others is ``team.py``'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jsarag.errors import ConfigError

LOOPBACK = "127.0.0.1"
# Set by launch.py for process 0: the number of a socket that listens at MASTER_PORT already.
LISTENER = "MASTER_LISTENER"
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"
# Where a Slurm step names no port: one of these, by the job's number, so that jobs rarely meet.
_FIRST_PORT, _PORTS = 20_000, 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """One process's place among those of a run.

    rank: 0 to ``size`` - 1. local_rank: among those on this machine, ``local_size`` of them.
    address, port: where the processes find each other.
    hosted: whether somebody else (torchrun) keeps that port; if not, process 0 does.
    listener: descriptor of a socket that listens there already, or None.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    hosted: bool = False
    listener: int | None = None

    @property
    def one_machine(self) -> bool:
        """Whether nobody is elsewhere, so that no port need be open to another machine."""
        return self.local_size == self.size


def find_place(environment: Mapping[str, str]) -> Place | None:
    """The place the environment names, or None for a process on its own.

    ``RANK`` and ``WORLD_SIZE`` (torchrun, :mod:`~jsarag.parallel.launch`) come before ``srun``'s
    ``SLURM_*``. A batch script under Slurm that calls no ``srun`` is a process on its own.

    Raises:
        ConfigError: some of the variables are there and others missing or wrong.
    """
    if "RANK" in environment and _number(environment, "WORLD_SIZE", default=1) > 1:
        found = _of_torchrun(environment)
    elif "RANK" not in environment and _number(environment, "SLURM_STEP_NUM_TASKS", default=1) > 1:
        found = _of_slurm(environment)
    else:
        return None
    if not 0 <= found.rank < found.size or not 0 <= found.local_rank < found.local_size:
        raise ConfigError(
            f"environment: expected a rank below the number of processes, found {found}; start the "
            "processes with `jsarag train --processes N`, torchrun or srun"
        )
    return found


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    size = _number(environment, "WORLD_SIZE")
    return Place(
        rank=_number(environment, "RANK"),
        size=size,
        local_rank=_number(environment, "LOCAL_RANK"),
        local_size=_number(environment, "LOCAL_WORLD_SIZE", default=size),
        address=environment.get("MASTER_ADDR", LOOPBACK),
        port=_number(environment, "MASTER_PORT"),
        hosted=environment.get(_AGENT) == "True",
        listener=_number(environment, LISTENER) if LISTENER in environment else None,
    )


def _of_slurm(environment: Mapping[str, str]) -> Place:
    size, nodes = (
        _number(environment, "SLURM_STEP_NUM_TASKS"),
        environment.get("SLURM_STEP_NODELIST", ""),
    )
    machines = _number(environment, "SLURM_STEP_NUM_NODES", default=1)
    port = _FIRST_PORT + _number(environment, "SLURM_JOB_ID", default=0) % _PORTS
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID"),
        # srun writes "4(x2),3" for uneven nodes; only one node's own number is needed here.
        local_size=size if machines == 1 else _number(environment, "SLURM_LOCALID") + 1,
        address=LOOPBACK if machines == 1 else environment.get("MASTER_ADDR") or first_host(nodes),
        port=_number(environment, "MASTER_PORT", default=port),
    )


def first_host(nodes: str) -> str:
    """The first of Slurm's ``a[07-09,12],b3``: ``a07``.

    Raises:
        ConfigError: there is none.
    """
    match = re.match(r"([^\[,]+)(?:\[([^-,\]]+))?", nodes)
    if match is None:
        raise ConfigError(
            f"SLURM_STEP_NODELIST: expected the step's nodes, found {nodes!r}; set MASTER_ADDR to "
            "the first node's name"
        )
    return match[1] + (match[2] or "")


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"{name}: expected a number beside RANK and WORLD_SIZE (or srun's variables), found "
            f"{text!r}; start the processes with `jsarag train --processes N`, torchrun or srun"
        )
    return int(text)
