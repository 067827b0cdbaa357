"""The environment says which of how many processes this is."""

from __future__ import annotations

import pytest

from jsarag.errors import ConfigError
from jsarag.parallel.place import Place, find_place, first_host

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29501",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def test_a_process_on_its_own() -> None:
    assert find_place({}) is None
    assert find_place({"RANK": "0", "WORLD_SIZE": "1"}) is None
    # A batch script under Slurm that calls no srun.
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "9"}) is None


def test_torchrun_is_found() -> None:
    found = find_place(TORCHRUN)
    assert found == Place(5, 8, 1, 4, "node1", 29501, hosted=True)
    assert not found.one_machine


def test_slurm_is_found() -> None:
    found = find_place(SLURM)
    assert found is not None
    assert (found.rank, found.size, found.local_rank) == (3, 4, 1)
    assert (found.address, found.port) == ("gpu07", 23456)
    assert not found.one_machine
    alone = find_place({**SLURM, "SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "3"})
    assert alone is not None
    assert alone.one_machine
    assert alone.address == "127.0.0.1"


def test_torchrun_inside_a_slurm_step_counts() -> None:
    found = find_place({**SLURM, **TORCHRUN})
    assert found is not None
    assert found.rank == 5


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07-09,12],b3", "gpu07"), ("n[3,5]", "n3"), ("solo", "solo"), ("a1,a2", "a1")],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"LOCAL_RANK": None}, "LOCAL_RANK"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT"),
        ({"RANK": "8"}, "below the number of processes"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE"),
    ],
)
def test_half_an_environment_is_refused(changed: dict[str, str | None], named: str) -> None:
    environment = {k: v for k, v in {**TORCHRUN, **changed}.items() if v is not None}
    with pytest.raises(ConfigError, match=named):
        find_place(environment)
