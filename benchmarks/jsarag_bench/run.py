"""Verifies kernels against float64, then times them against the best public rivals.

    python -m jsarag_bench.run [CASE ...] [--device cpu] [--full] [--append]

A kernel that is wrong is not timed. ``--append`` adds a row per case to
``benchmarks/results/<machine>/kernels.jsonl``; ``render.py`` makes the tables from those.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jsarag.backends.report import backend_report
from jsarag.errors import BackendUnavailableError, ConfigError
from jsarag.io.atomic import to_json
from jsarag.io.environment import describe_environment
from jsarag_bench.cases import Case, read_cases, select_cases
from jsarag_bench.ceilings import Ceilings, Probes, measure_ceilings
from jsarag_bench.kernels import load_kernel
from jsarag_bench.kernels.base import Workload, require_correct
from jsarag_bench.kernels.inputs import forget_passages
from jsarag_bench.peers import Peer, peers_of, rival_versions
from jsarag_bench.result import BenchResult, BenchRow, PeerTiming
from jsarag_bench.rows import append_row, machine_name, results_folder
from jsarag_bench.timing import (
    REPETITIONS,
    Runner,
    Timing,
    TooSlow,
    local_runner,
    pinned_threads,
    time_interleaved,
)
from jsarag_bench.worker import OURS, Worker, WorkerError, extra_bytes

Progress = Callable[[str], None]

_READ, _MATMUL = "ceiling: read", "ceiling: matmul"


def run(
    cases: Sequence[str] | None = None,
    *,
    device: str = "cpu",
    full: bool = False,
    repetitions: int | None = None,
    peers: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
    memory: bool = True,
    keep: Callable[[BenchResult], None] | None = None,
) -> BenchResult:
    """Measure the ceilings, then verify and time each case.

    Args:
        cases: names from ``cases.yaml``; default the quick ones of the device.
        device: ``cpu``, ``cuda`` or ``auto`` (cuda where there is one).
        full: without names, every case of the device; slow rivals are made ready, too.
        repetitions: of each contestant, default 30 (fewer where a call takes over a second).
        peers: time the rivals that are installed.
        threads: of everybody; default all cores this process may use.
        progress: told one line at a time what happens and what is skipped.
        memory: measure extra bytes, each in a fresh process (seconds per case).
        keep: given each case's result as soon as it is there, so that a long run that ends
            early loses nothing.

    Raises:
        ConfigError: a case is unknown or for another device.
        BackendUnavailableError: there is no such device.
        NumericalError: a kernel is wrong; it is not timed.
    """
    say = progress or _silent
    place = _device(device)
    chosen = select_cases(read_cases(), cases, device=place, full=full)
    if not chosen:
        raise ConfigError(f"bench: no cases for {place}; pass their names")
    count = threads or len(os.sched_getaffinity(0))
    with pinned_threads(count):
        say(f"measuring the ceilings of {place} with {count} threads")
        ceilings, probes = measure_ceilings(place)
        machine = describe_machine(count)
        say(_describe_ceilings(ceilings))
        rows = []
        for case in chosen:
            row = run_case(
                case,
                probes,
                repetitions=repetitions or REPETITIONS,
                peers=peers_of(case) if peers else [],
                full=full,
                threads=count,
                memory=memory,
                say=say,
            )
            rows.append(row)
            say(_describe_row(row))
            if keep is not None:
                keep(BenchResult(machine, ceilings.to_json(), [row]))
        forget_passages()
    return BenchResult(machine, ceilings.to_json(), rows)


def run_case(
    case: Case,
    probes: Probes,
    *,
    repetitions: int,
    peers: Sequence[Peer],
    full: bool,
    threads: int,
    memory: bool,
    say: Progress,
) -> BenchRow:
    """Verify one case and time it.

    Raises:
        NumericalError: the kernel is wrong.
    """
    say(f"{case.name}: verifying against float64")
    kernel = load_kernel(case.op)
    inputs = kernel.make_inputs(case, case.device)
    work = kernel.build(case, inputs)
    check = require_correct(case.name, work.verify())
    ready, skipped, workers = _make_ready(case, inputs, peers, full=full, threads=threads)
    try:
        say(f"{case.name}: timing against {', '.join(ready) or 'nobody'}")
        timings = time_interleaved(
            {**_own_runners(case, work), **_probe_runners(case, work, probes), **ready},
            repetitions=repetitions,
            must=OURS,
        )
    finally:
        for worker in workers:
            worker.close()
    skipped |= {name: found.reason for name, found in timings.items() if isinstance(found, TooSlow)}
    for name, reason in skipped.items():
        say(f"{case.name}: {name} is not timed: {reason}")
    timed = {name: found for name, found in timings.items() if isinstance(found, Timing)}
    measured = {target.against for target in case.targets if target.memory} & set(timed)
    return BenchRow(
        case=case,
        backend=work.backend,
        timing=timed[OURS],
        extra_bytes=_extra_bytes(case, OURS, threads, say) if memory else None,
        check=check.name,
        max_error=check.error,
        error_budget=check.budget,
        peers={
            peer.name: PeerTiming(timed[peer.name], peer.computes_in(case))
            for peer in peers
            if peer.name in timed
        },
        skipped=skipped,
        companions={name: timed[name] for name in work.companions if name in timed},
        floor_ms=_floor_ms(work, probes, timed),
        peer_bytes={
            name: _extra_bytes(case, name, threads, say)
            for name in sorted(measured if memory else ())
        },
    )


def describe_machine(threads: int) -> dict[str, Any]:
    """The machine, the versions and the commit, as JSON types."""
    environment = describe_environment()
    del environment["command"], environment["torch_threads"]
    features = backend_report()["backends"]["cpu"]["features"]
    environment["packages"] |= rival_versions()
    return {
        "name": machine_name(),
        **environment,
        "threads": threads,
        "cpu_features": features,
    }


def _own_runners(case: Case, work: Workload) -> dict[str, Runner]:
    calls = {OURS: work.ours, **work.companions}
    return {name: local_runner(call, case.device) for name, call in calls.items()}


def _probe_runners(case: Case, work: Workload, probes: Probes) -> dict[str, Runner]:
    """The ceilings beside this case; none for a case that claims none."""
    found = {}
    if work.bytes_read > 0:
        found[_READ] = local_runner(probes.read.call, case.device)
    if work.flops > 0:
        found[_MATMUL] = local_runner(probes.matmul[work.flops_dtype].call, case.device)
    return found


def _floor_ms(work: Workload, probes: Probes, timed: Mapping[str, Timing]) -> float | None:
    """The roofline: nothing that moves this much and computes this much is faster."""
    floors = []
    if _READ in timed:
        floors.append(timed[_READ].median_ms * work.bytes_read / probes.read.amount)
    if _MATMUL in timed:
        probe = probes.matmul[work.flops_dtype]
        floors.append(timed[_MATMUL].median_ms * work.flops / probe.amount)
    return max(floors, default=None)


def _make_ready(
    case: Case, inputs: Any, peers: Sequence[Peer], *, full: bool, threads: int
) -> tuple[dict[str, Runner], dict[str, str], list[Worker]]:
    """Build the rivals: (ready to be timed, why the others are not, processes to close)."""
    ready: dict[str, Runner] = {}
    skipped: dict[str, str] = {}
    workers: list[Worker] = []
    for peer in peers:
        reason = peer.refusal(case, full=full)
        if reason:
            skipped[peer.name] = reason
        elif peer.own_process:
            worker = Worker(threads)
            workers.append(worker)
            try:
                worker.ask(do="prepare", case=case.to_json(), contestant=peer.name)
                worker(1)
            except WorkerError as error:
                skipped[peer.name] = str(error)
                continue
            ready[peer.name] = worker
        else:
            try:
                call = peer.build(case, inputs, threads)
                if case.device == "cuda":
                    call()
            except torch.OutOfMemoryError:
                skipped[peer.name] = "it needs more memory than the GPU has"
                continue
            ready[peer.name] = local_runner(call, case.device)
    return ready, skipped, workers


def _extra_bytes(case: Case, contestant: str, threads: int, say: Progress) -> int | None:
    try:
        found = extra_bytes(case.to_json(), contestant, threads)
    except WorkerError as error:
        say(f"{case.name}: the memory of {contestant} is not known: {error}")
        return None
    if found is None:
        say(f"{case.name}: the memory of {contestant} is not known: no /proc/self/clear_refs here")
    return found


def _device(device: str) -> str:
    available = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if available else "cpu"
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"bench --device: expected auto, cpu or cuda, found '{device}'")
    if device == "cuda" and not available:
        raise BackendUnavailableError(
            "bench --device cuda: torch finds no CUDA device here; pass --device cpu"
        )
    return device


def _silent(line: str) -> None:
    """Tells nobody."""


def _describe_ceilings(ceilings: Ceilings) -> str:
    rates = ", ".join(
        f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in ceilings.matmul_flops_per_s.items()
    )
    return f"ceilings: read {ceilings.read_bytes_per_s / 1e9:.1f} GB/s, {rates}"


def _describe_row(row: BenchRow) -> str:
    parts = [f"{row.case.name}: {row.timing.median_ms:.3f} ms ({row.backend})"]
    if row.ratio_best_peer is not None:
        parts.append(f"{row.ratio_best_peer:.2f}x the best rival's speed")
    if row.share_of_ceiling is not None:
        parts.append(f"{row.share_of_ceiling:.0%} of the ceiling")
    words = {True: "met", False: "MISSED", None: "not measurable"}
    parts += [f"target {found.target.text}: {words[found.met]}" for found in row.targets]
    return ", ".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m jsarag_bench.run", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: the quick ones")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--full", action="store_true", help="every case, and slow rivals, too")
    parser.add_argument("--repetitions", type=int, default=None)
    parser.add_argument("--threads", type=int, default=None, help="default: all usable cores")
    parser.add_argument("--no-peers", action="store_true", help="time ours alone")
    parser.add_argument("--append", action="store_true", help="keep the rows on file")
    parser.add_argument("--results", type=Path, default=None, help="the file to append to")
    parser.add_argument("--list", action="store_true", help="the cases and their reasons")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        _print_cases()
        return
    given = list(sys.argv[1:] if arguments is None else arguments)
    path = chosen.results or results_folder() / "kernels.jsonl"
    command = shlex.join(["python", "-m", "jsarag_bench.run", *given])
    result = run(
        chosen.cases or None,
        device=chosen.device,
        full=chosen.full,
        repetitions=chosen.repetitions,
        peers=not chosen.no_peers,
        threads=chosen.threads,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
        keep=(lambda found: keep_rows(found, path, command)) if chosen.append else None,
    )
    print(to_json(result.to_json(), indent=2))


def keep_rows(result: BenchResult, path: Path, command: str) -> None:
    """Append a run's rows, each with its command."""
    for record in result.to_records():
        append_row(path, {**record, "command": command})


def _print_cases() -> None:
    for case in read_cases().values():
        print(f"{case.name}  [{case.device}, {case.tier}]  {case.reason}")


if __name__ == "__main__":
    main()
