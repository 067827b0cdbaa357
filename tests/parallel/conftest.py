"""Several processes on one machine, forked from this one: nothing is imported twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jsarag.ops.tile import TILE
from jsarag.train.run import TrainResult
from jsarag_bench.end_to_end import toy_world

# Hung processes fail a test rather than hang it.
PATIENCE_S = 100.0
Together = Callable[..., list[Any]]


def _member(work: Callable[[], Any], rank: int, size: int, listener: int, said: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(socket.socket(fileno=os.dup(listener)).getsockname()[1]),
    }
    if rank == 0:
        os.environ["MASTER_LISTENER"] = str(listener)
    torch.set_num_threads(1)
    try:
        found = work()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test is told
        found = error
    # As plain bytes: torch would send tensors by memory that this process still has to lend.
    said.put((rank, pickle.dumps(found)))
    said.close()
    said.join_thread()
    os._exit(0)


@pytest.fixture
def together() -> Together:
    """together(work, size) -> what ``work()`` returned, or raised, on each of ``size`` processes.

    A process that was killed has None.
    """

    def run(work: Callable[[], Any], size: int) -> list[Any]:
        fork = multiprocessing.get_context("fork")
        said = fork.Queue()
        with socket.create_server(("127.0.0.1", 0)) as meeting:
            members = [
                fork.Process(target=_member, args=(work, rank, size, meeting.fileno(), said))
                for rank in range(size)
            ]
            for member in members:
                member.start()
        found: dict[int, bytes] = {}
        try:
            until = time.monotonic() + PATIENCE_S
            while time.monotonic() < until and any(member.is_alive() for member in members):
                while not said.empty():
                    found |= [said.get()]
                time.sleep(0.05)
            hung = [rank for rank, member in enumerate(members) if member.is_alive()]
        finally:
            for member in members:
                member.kill()
        while not said.empty():
            found |= [said.get()]
        assert not hung, f"processes {hung} hang"
        said_last = map(found.get, range(size))
        return [None if text is None else pickle.loads(text) for text in said_last]  # noqa: S301

    return run


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainResult]:
    """toy(output, {"group.key": value, ...}, wide=False, **run_training's): train on the toy world.

    ``wide``: with as many notes about nothing as three tiles of an index hold.
    """
    data, encoder = tmp_path_factory.mktemp("toy"), tmp_path_factory.mktemp("encoder")
    filled = tmp_path_factory.mktemp("wide")
    toy_world.write_data(data)
    toy_world.write_data(filled)
    toy_world.write_encoder(encoder)
    words = toy_world.words("thing")
    with (filled / "kb.jsonl").open("a", encoding="utf-8") as lines:
        for number in range(3 * TILE):
            text = f"wait for {words[number % len(words)]} and {words[number // len(words) % 24]}"
            lines.write(json.dumps({"id": f"w{number}", "text": text}) + "\n")

    def train(
        output: Path, settings: dict[str, Any], *, wide: bool = False, **options: Any
    ) -> TrainResult:
        defaults = {"train.device": "cpu", "train.max_steps": 4, "eval.generation": False}
        folder = filled if wide else data
        return toy_world.train(folder, encoder, output, {**defaults, **settings}, **options)

    return train
