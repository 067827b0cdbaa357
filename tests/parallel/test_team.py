"""Processes meet, share tensors and fail together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jsarag.errors import DataError, JsaragError, LostProcessError
from jsarag.parallel.team import WAIT, Team, join

Together = Callable[..., list[Any]]


def test_alone_there_is_nobody_to_ask() -> None:
    with Team() as team:
        heard = team.meet("anything", {"a": 1}, signal=2)
        assert (heard.words, heard.signal) == ([{"a": 1}], 2)
        assert list(team.share(5)) == [0, 1, 2, 3, 4]
        parameter = nn.Parameter(torch.zeros(2))
        parameter.grad = torch.ones(2)
        assert team.add_gradients([parameter], {"x": 1}) == [{"x": 1}]
        assert parameter.grad.tolist() == [1, 1]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shares_are_all_rows_once(size: int) -> None:
    for rows in (size, 7, 16):
        shares = []
        for rank in range(size):
            team = Team()
            team.rank, team.size = rank, size
            shares.append(list(team.share(rows)))
        assert [row for share in shares for row in share] == list(range(rows))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", [2, 4])
def test_all_hear_what_all_say(together: Together, size: int) -> None:
    def work() -> Any:
        with join("cpu") as team:
            # Rank 1 says more than fits one round.
            long = team.meet("long", "ä" * 9000 * team.rank, signal=team.rank)
            name = "news" if team.leads else WAIT
            return long, team.meet(name, team.rank)

    words = ["ä" * 9000 * rank for rank in range(size)]
    expected = (("long", words, size - 1), ("news", list(range(size)), 0))
    assert together(work, size) == [expected] * size


def test_gradients_are_summed_whoever_has_them(together: Together) -> None:
    """Over bucket borders and kinds; one is missing on one process, one on all."""

    def work() -> Any:
        with join("cpu") as team:
            sizes = (3, 5_000_000, 5_000_000, 2, 4)
            parameters = [nn.Parameter(torch.zeros(n)) for n in sizes]
            parameters.append(nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)))
            for place, parameter in enumerate(parameters):
                if place != 3 and not (place == 4 and team.rank == 0):
                    parameter.grad = torch.full_like(parameter, place + 10.0 * team.rank)
            team.add_gradients(parameters, {})
            return [
                None if p.grad is None else (p.grad.dtype, p.grad.shape, p.grad.unique().tolist())
                for p in parameters
            ]

    f32 = torch.float32
    expected = [
        (f32, (3,), [10]),
        (f32, (5_000_000,), [12]),
        (f32, (5_000_000,), [14]),
        None,
        (f32, (4,), [14]),
        (torch.float64, (2, 2), [20]),
    ]
    assert together(work, 2) == [expected, expected]


def test_tensors_are_copied_from_process_0(together: Together) -> None:
    def work() -> Any:
        with join("cpu") as team:
            tensors = [nn.Parameter(torch.full((3,), float(team.rank + 7)))]
            team.meet("copy")
            team.copy_from_leader(tensors)
            return tensors[0].tolist()

    assert together(work, 3) == [[7, 7, 7]] * 3


def test_who_fails_takes_all_along_with_the_same_error(together: Together) -> None:
    def work() -> Any:
        with join("cpu") as team:
            if team.rank == 1:
                raise DataError("no such row", path="kb.jsonl", line=3)
            team.meet("next")

    errors = together(work, 3)
    assert [type(error) for error in errors] == [DataError] * 3
    assert str(errors[0]) == "process 1: kb.jsonl:3: no such row"
    assert str(errors[1]) == "kb.jsonl:3: no such row"


def test_a_bug_on_one_process_ends_all(together: Together) -> None:
    def work() -> Any:
        with join("cpu") as team:
            if team.rank == 0:
                raise ZeroDivisionError("oh")
            team.meet("next")

    errors = together(work, 2)
    assert isinstance(errors[1], JsaragError)
    assert "process 0 failed with ZeroDivisionError: oh" in str(errors[1])


def test_processes_out_of_step_are_told(together: Together) -> None:
    def work() -> Any:
        with join("cpu") as team:
            team.meet("this" if team.rank else "that")

    for error in together(work, 2):
        assert str(error) == "processes out of step: they are at that, this"


def test_a_killed_process_is_missed_at_once(together: Together) -> None:
    def work() -> Any:
        with join("cpu") as team:
            team.meet("begin")
            if team.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            team.meet("next")

    found = together(work, 3)
    assert found[1] is None
    assert isinstance(found[0], LostProcessError)
    assert isinstance(found[2], LostProcessError)
    assert found[0].exit_code == 76


def _listening() -> set[str]:
    """Addresses, in hexadecimal, at which sockets of this process listen."""
    own = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the listing's own
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{name}", encoding="ascii") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                    found.add(fields[1].partition(":")[0])
    return found


def test_ports_are_open_on_the_loopback_only(together: Together) -> None:
    def work() -> Any:
        with join("cpu") as team:
            team.meet("all are up")
            listening = _listening()
            team.meet("all have looked")
            return listening

    loopback = "0100007F"
    for found in together(work, 2):
        assert found <= {loopback}, found
    assert together(work, 2)[0] == {loopback}
