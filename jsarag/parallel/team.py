"""The processes of a run as one of them sees the others: they meet, and then they share tensors.

A meeting is the one way to wait for each other. Every process says one thing (JSON) under a name,
hears what all said, and learns of signals and failures on the way: who fails says so at its next
meeting, where all the others raise the same error. Tensors travel only after a meeting, when all
are known to be well. So nobody waits for a process that has given up.

Meetings go over gloo, on the host, and may take as long as process 0 is busy evaluating, saving or
embedding: there is no time-out to be set right. A process that dies closes its connections, which
the others see at once.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

import jsarag.errors
from jsarag.errors import BackendUnavailableError, ConfigError, JsaragError, LostProcessError
from jsarag.parallel.gradients import present, sum_gradients
from jsarag.parallel.place import LOOPBACK, Place, find_place

WAIT = "wait"
# Meetings wait for evaluations and for whole knowledge bases to be embedded.
_PATIENCE = datetime.timedelta(days=365)
# To find each other at the start; models are not loaded before.
_START = datetime.timedelta(minutes=10)
# Most of what is said fits; longer texts take a second round.
_SAID_BYTES = 4096


class Meeting(NamedTuple):
    """What was said: the name process 0 gave, each process's words, and a signal, 0 for none."""

    name: str
    words: list[Any]
    signal: int


class Team(AbstractContextManager["Team"]):
    """A team of one; :class:`Processes` is one of several.

    As a context it tells the others of an error that leaves it.

    Attributes:
        rank: this process. Process 0 leads: it alone writes files, evaluates and shows progress.
        size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def share(self, rows: int) -> range:
        """Which of a batch's rows are this process's: neighbours, as evenly as it goes."""
        return range(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def meet(self, name: str, words: Any = None, *, signal: int = 0) -> Meeting:
        """Say something and hear what all say.

        Args:
            name: what this is about; the same on every process, except that process 0 may say
                anything to those that ``WAIT``.
            words: JSON types.
            signal: that this process has received, 0 for none.

        Raises:
            JsaragError: another process has failed; it is of the kind raised there.
            LostProcessError: another process is gone.
        """
        return Meeting(name, [words], signal)

    def add_gradients(
        self, parameters: Sequence[nn.Parameter], words: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Meet, and then replace every gradient by its sum over the processes.

        Args:
            parameters: the same on every process, in one order.
            words: what else is to be said; a process that says ``"fault"`` raises for all.

        Returns:
            What every process said.
        """
        return [dict(words)]

    def copy_from_leader(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors by process 0's, in place; right after a meeting."""

    def gather(self, tensor: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """All processes' tensors, by rank; right after a meeting that told their shapes."""
        return [tensor]

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes; right after a meeting."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class Processes(Team):
    """Several processes.

    Args:
        place: this one's.
        device: where tensors are shared; with CUDA over nccl, else over gloo.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        import torch.distributed as dist

        self.rank, self.size = place.rank, place.size
        self._over = False
        if place.one_machine:
            # gloo and nccl would listen at the machine's outer address.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        try:
            store = _store(place)
            dist.init_process_group(
                "gloo", store=store, rank=place.rank, world_size=place.size, timeout=_PATIENCE
            )
        except (RuntimeError, OSError) as error:
            raise LostProcessError(
                f"process {place.rank} of {place.size}: expected to meet the others at "
                f"{place.address}:{place.port}, and they did not all come ({_line(error)}); see "
                "what the others say, and start again"
            ) from error
        self._tensors = dist.new_group(backend="nccl") if device.type == "cuda" else None

    def meet(self, name: str, words: Any = None, *, signal: int = 0) -> Meeting:
        """See :meth:`Team.meet`."""
        said = self._say([name, words, signal, None])
        for rank, (_, _, _, error) in enumerate(said):
            if error is not None:
                self._over = True
                _raise_again(rank, *error)
        names = [entry[0] for entry in said]
        if any(heard not in (names[0], WAIT) for heard in names):
            self._over = True
            raise JsaragError(f"processes out of step: they are at {', '.join(names)}")
        return Meeting(names[0], [entry[1] for entry in said], max(entry[2] for entry in said))

    def add_gradients(
        self, parameters: Sequence[nn.Parameter], words: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """See :meth:`Team.add_gradients`."""
        said = self.meet("gradients", {**words, "present": present(parameters)}).words
        with _Connection(self):
            sum_gradients(parameters, [each["present"] for each in said], self._begin_sum)
        return [dict(each) for each in said]

    def copy_from_leader(self, tensors: Sequence[Tensor]) -> None:
        """See :meth:`Team.copy_from_leader`."""
        import torch.distributed as dist

        with _Connection(self), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0, group=self._tensors)

    def gather(self, tensor: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """See :meth:`Team.gather`."""
        import torch.distributed as dist

        sizes = [math.prod(shape) for shape in shapes]
        padded = tensor.new_zeros(max(sizes))
        padded[: tensor.numel()] = tensor.flatten()
        found = [torch.empty_like(padded) for _ in sizes]
        if len(padded):
            with _Connection(self):
                dist.all_gather(found, padded, group=self._tensors)
        return [
            each[:size].view(*shape) for each, size, shape in zip(found, sizes, shapes, strict=True)
        ]

    def add_up(self, tensor: Tensor) -> None:
        """See :meth:`Team.add_up`."""
        if tensor.numel():
            with _Connection(self):
                self._begin_sum(tensor).wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import torch.distributed as dist

        if error is not None and not self._over:
            self._over = True
            with suppress(LostProcessError):  # who is gone need not be told
                self._say(["", None, 0, [type(error).__name__, str(error)]])
        if not isinstance(error, LostProcessError):  # its peers would be waited for
            dist.destroy_process_group()

    def _begin_sum(self, flat: Tensor) -> Any:
        import torch.distributed as dist

        return dist.all_reduce(flat, group=self._tensors, async_op=True)

    def _say(self, entry: list[Any]) -> list[list[Any]]:
        """All processes' entries, by rank."""
        text = json.dumps(entry).encode()
        with _Connection(self):
            heads = self._gather(len(text).to_bytes(8, "little") + text, _SAID_BYTES)
            lengths = [int.from_bytes(head[:8], "little") for head in heads]
            texts = [head[8 : 8 + length] for head, length in zip(heads, lengths, strict=True)]
            if max(lengths) > _SAID_BYTES - 8:
                rest = self._gather(text[_SAID_BYTES - 8 :], max(lengths))
                texts = [
                    (text + more)[:length]
                    for text, more, length in zip(texts, rest, lengths, strict=True)
                ]
        return [json.loads(text) for text in texts]

    def _gather(self, said: bytes, size: int) -> list[bytes]:
        """Every process's bytes, cut or padded to ``size``."""
        import torch.distributed as dist

        mine = torch.zeros(size, dtype=torch.uint8)
        kept = said[:size]
        if kept:
            mine[: len(kept)] = torch.frombuffer(bytearray(kept), dtype=torch.uint8)
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_of_them, mine)
        return [bytes(each.numpy().tobytes()) for each in all_of_them]


class _Connection(AbstractContextManager["_Connection"]):
    """Turns what torch says of a broken connection into the error it is."""

    def __init__(self, team: Processes) -> None:
        self._team = team

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RuntimeError):
            self._team._over = True
            raise LostProcessError(
                f"process {self._team.rank} of {self._team.size}: another process is gone "
                f"({_line(error)}). Look for what it said last; start again with --resume, with "
                "any number of processes"
            ) from error


def join(device_name: str) -> Team:
    """The team the environment speaks of; of one where it speaks of none.

    Args:
        device_name: of ``train.device``; with CUDA each process of a machine takes its own device.

    Raises:
        ConfigError, BackendUnavailableError: that device cannot be each process's own.
        LostProcessError: the others did not come.
    """
    place = find_place(os.environ)
    if place is None:
        return Team()
    return Processes(place, _own_device(place, device_name))


def _own_device(place: Place, name: str) -> torch.device:
    cuda = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    if not cuda:
        return torch.device("cpu")
    if ":" in name:
        raise ConfigError(
            f"train.device: expected auto, cuda or cpu with {place.size} processes, found "
            f"{name!r}; each process takes the device of its own number"
        )
    if place.local_rank >= torch.cuda.device_count():
        raise BackendUnavailableError(
            f"train.device: expected a CUDA device for each of {place.local_size} processes on "
            f"this machine, found {torch.cuda.device_count()}; start fewer, or use --device cpu"
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


def _store(place: Place) -> Any:
    """Where the processes leave their addresses for each other."""
    import torch.distributed as dist

    make: Any = dist.TCPStore  # type: ignore[attr-defined]
    if place.rank != 0 or place.hosted:
        return make(place.address, place.port, is_master=False, timeout=_START)
    listener = place.listener
    if listener is None:
        # torch would listen at every address the machine has.
        host = LOOPBACK if place.one_machine else ""
        listener = socket.create_server((host, place.port), backlog=place.size).detach()
    return make(
        place.address,
        place.port,
        world_size=place.size,
        is_master=True,
        timeout=_START,
        wait_for_workers=False,
        master_listen_fd=listener,
    )


def _raise_again(rank: int, kind: str, text: str) -> NoReturn:
    if kind == "KeyboardInterrupt":
        raise KeyboardInterrupt
    found = getattr(jsarag.errors, kind, None)
    if found is None:
        raise JsaragError(f"process {rank} failed with {kind}: {text}")
    raise found(f"process {rank}: {text}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
