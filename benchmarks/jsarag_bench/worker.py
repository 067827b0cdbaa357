"""A process of its own for rivals that bring threads, and for measuring memory.

    python -m jsarag_bench.worker

reads one JSON command a line and answers with one JSON line. The parent's side is
:class:`Worker`. Inputs are made here again from the same keys, so nothing large crosses the pipe.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jsarag.errors import JsaragError

OURS = "jsarag"
# Large enough to load every library and start every thread, too small to show in memory.
_WARM_SIZES = {"N": 4096, "T": 64, "V": 1024, "B": 16}


class WorkerError(JsaragError):
    """A worker process ended early; the message is the last thing it said."""


class Worker:
    """The parent's side of one worker process.

    Args:
        threads: of torch, OpenMP and whatever the rival takes.
    """

    def __init__(self, threads: int) -> None:
        # Not a pipe: a library that writes much to it would block.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed below
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jsarag_bench.worker", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            WorkerError: the process ended instead of answering.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __call__(self, inner: int) -> float:
        """Seconds per call of what was prepared: a :class:`jsarag_bench.timing.Runner`."""
        return float(self.ask(do="time", inner=inner)["seconds"])

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"its process ended with code {code}"


def extra_bytes(case: Mapping[str, Any], contestant: str, threads: int) -> int | None:
    """Memory one call needs beyond its inputs, its outputs included.

    On the CPU a fresh process warms every library up on a small shape, makes the inputs, resets
    the kernel's record of its peak resident size, calls once and reads the peak. On a GPU it is
    the peak of torch's allocator.

    Args:
        case: ``Case.to_json()``.
        contestant: :data:`OURS` or a rival's name.
        threads: as in the timing.

    Returns:
        Bytes; None where the system keeps no such record.

    Raises:
        WorkerError: the process ended early.
    """
    worker = Worker(threads)
    try:
        found = worker.ask(do="memory", case=case, contestant=contestant)["extra_bytes"]
        return None if found is None else int(found)
    finally:
        worker.close()


def _serve(threads: int) -> None:
    """Answer commands until stdin ends."""
    # Libraries print to stdout; answers must not be mixed with that.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(threads)
    call: Callable[[], Any] | None = None
    device = "cpu"
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {"done": True}
        if command["do"] == "prepare":
            call = None  # free the last one's memory first
            device = command["case"]["device"]
            call = _prepare(command["case"], command["contestant"], threads)
        elif command["do"] == "time":
            assert call is not None
            answer = {"seconds": _time(call, device, command["inner"])}
        else:
            answer = {"extra_bytes": _memory(command["case"], command["contestant"], threads)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _prepare(
    content: Mapping[str, Any], contestant: str, threads: int, *, warm: bool = False
) -> Callable[[], Any]:
    from jsarag_bench.cases import Case
    from jsarag_bench.kernels import load_kernel
    from jsarag_bench.peers import peer_named

    case = Case.from_json(content)
    if warm:
        case = case.shrunk(_WARM_SIZES)
    kernel = load_kernel(case.op)
    inputs = kernel.make_inputs(case, case.device)
    if contestant == OURS:
        return kernel.build(case, inputs).ours
    return peer_named(case.op, contestant).build(case, inputs, threads)


def _time(call: Callable[[], Any], device: str, inner: int) -> float:
    from jsarag_bench.timing import local_runner

    return local_runner(call, device)(inner)


def _memory(content: Mapping[str, Any], contestant: str, threads: int) -> int | None:
    _prepare(content, contestant, threads, warm=True)()
    call = _prepare(content, contestant, threads)
    if content["device"] == "cuda":
        return _cuda_memory(call)
    gc.collect()
    _trim()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    before = _status("VmRSS")
    kept = call()
    peak = _status("VmHWM")
    del kept
    return max(peak - before, 0)


def _cuda_memory(call: Callable[[], Any]) -> int:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call()
    torch.cuda.synchronize()
    del kept
    return int(torch.cuda.max_memory_allocated()) - int(before)


def _trim() -> None:
    """Give freed heap back, or a call could reuse it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match.group(1)) * 1024


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
