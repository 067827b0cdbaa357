"""Right kernels are timed, wrong ones refused, and the JSON is what users rely on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from jsarag import ops
from jsarag.errors import BackendUnavailableError, ConfigError, NumericalError
from jsarag.io.lines import read_json_lines
from jsarag_bench import run as run_module
from jsarag_bench.cases import Case, read_cases
from jsarag_bench.ceilings import Probe, Probes
from jsarag_bench.kernels import load_kernel
from jsarag_bench.kernels.base import Check, Workload, require_correct
from jsarag_bench.peers import peer_named, peers_of
from jsarag_bench.run import keep_rows, run
from jsarag_bench.timing import Timing
from jsarag_bench.worker import OURS, Worker, WorkerError, extra_bytes

CASES = read_cases()
TESTS = [case for case in CASES.values() if case.tier == "test"]
ROW_KEYS = {
    "op", "case", "backend", "dtype", "median_ms", "p20_ms", "p80_ms", "extra_bytes", "max_error",
    "error_budget", "peers", "ratio_best_peer", "share_of_ceiling",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick_ceilings")


@pytest.mark.parametrize("case", TESTS, ids=lambda case: case.name)
def test_the_ops_pass_their_own_benchmark(case: Case) -> None:
    kernel = load_kernel(case.op)
    checks = kernel.build(case, kernel.make_inputs(case, "cpu")).verify()
    assert require_correct(case.name, checks).strain <= 1.0
    # Each is a comparison with something: a budget, or a count that must be zero.
    assert any(check.budget > 0 for check in checks)


def _scaled_scores(found: Any) -> Any:
    return found._replace(scores=found.scores * 1.0001)


def _second_best(found: Any) -> Any:
    return found._replace(ids=found.ids.roll(1, dims=1), scores=found.scores.roll(1, dims=1))


def _shifted_mass(found: Any) -> Any:
    return found._replace(tile_lse=None if found.tile_lse is None else found.tile_lse + 1e-3)


def _doubled_mass(found: Any) -> Any:
    return found._replace(tile_lse=None if found.tile_lse is None else found.tile_lse + 0.693)


def _next_passage(found: Any) -> Any:
    return found._replace(ids=(found.ids + 1) % 1500)


def _wrong_logp(found: Any) -> Any:
    return found._replace(logp=found.logp + 1e-3)


def _flipped_state(found: Any) -> Any:
    state = found.state.clone()
    state[0, 0] = 1 - state[0, 0]
    return found._replace(state=state)


def _lost_visits(found: Any) -> Any:
    return found._replace(recycled=found.recycled * 0.999)


@pytest.mark.parametrize(
    ("name", "op", "spoil"),
    [
        ("test-scan", "scan", _scaled_scores),
        ("test-scan", "scan", _second_best),
        ("test-scan", "scan", _shifted_mass),
        ("test-scan-int8", "scan", _doubled_mass),
        ("test-draw", "draw", _next_passage),
        ("test-draw", "draw", _wrong_logp),
        ("test-log_partition", "log_partition", lambda found: found * 1.0001),
        ("test-mis_chain", "mis_chain", _flipped_state),
        ("test-mis_chain", "mis_chain", _lost_visits),
        ("test-passage_logp", "passage_logp", _wrong_logp),
    ],
)
def test_a_wrong_kernel_is_refused_before_it_is_timed(
    monkeypatch: pytest.MonkeyPatch, name: str, op: str, spoil: Callable[[Any], Any]
) -> None:
    right = getattr(ops, op)
    monkeypatch.setattr(ops, op, lambda *args, **named: spoil(right(*args, **named)))
    monkeypatch.setattr(
        run_module, "time_interleaved", lambda *args, **named: pytest.fail("it was timed")
    )
    with pytest.raises(NumericalError, match=f"bench {name}: the kernel is wrong"):
        run([name], peers=False, memory=False)


def test_a_scan_that_misses_a_passage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted, scores right, and yet the best passage is not among them."""
    right = ops.scan

    def blind(queries: Any, passages: Any, k: int, *args: Any, **named: Any) -> Any:
        found = right(queries, passages, k + 1, *args, **named)
        return found._replace(ids=found.ids[:, 1:], scores=found.scores[:, 1:])

    monkeypatch.setattr(ops, "scan", blind)
    with pytest.raises(NumericalError, match="missed"):
        run(["test-scan-bf16"], peers=False, memory=False)


def test_nan_fails_every_check() -> None:
    assert not Check("a", float("nan"), 1.0).passed
    with pytest.raises(NumericalError, match="a: error nan"):
        require_correct("case", [Check("b", 0.0, 1.0), Check("a", float("nan"), 1.0)])


def test_json_has_exactly_the_promised_keys() -> None:
    said: list[str] = []
    result = run(
        ["test-mis_chain", "test-log_partition"],
        repetitions=3,
        memory=False,
        threads=1,
        progress=said.append,
    )
    found = result.to_json()
    assert set(found) == {"machine", "ceilings", "rows"}
    chain, partition = found["rows"]
    assert set(chain) == set(partition) == ROW_KEYS
    assert (chain["op"], chain["case"], chain["dtype"]) == (
        "mis_chain",
        "test-mis_chain",
        "float32",
    )
    assert 0 < chain["p20_ms"] <= chain["median_ms"] <= chain["p80_ms"]
    assert chain["share_of_ceiling"] is None
    assert partition["share_of_ceiling"] > 0
    assert partition["max_error"] <= partition["error_budget"]
    assert chain["ratio_best_peer"] == pytest.approx(
        chain["peers"]["torch loop"] / chain["median_ms"]
    )
    assert found["machine"]["threads"] == 1
    assert any("verifying" in line for line in said)


def test_the_floor_is_the_larger_of_memory_and_arithmetic() -> None:
    """From the probes' times beside the case, scaled to its bytes and operations."""
    probe = Probe(lambda: None, 100.0)
    probes = Probes(probe, {"float32": probe})

    def floor(bytes_read: float, flops: float) -> float | None:
        work = Workload(lambda: None, list, bytes_read, flops, "float32", "cpu")
        times = {"ceiling: read": 2.0, "ceiling: matmul": 3.0}
        names = run_module._probe_runners(CASES["test-scan"], work, probes)
        timed = {name: Timing(times[name], 0.0, 0.0, 3) for name in names}
        return run_module._floor_ms(work, probes, timed)

    assert floor(1000.0, 100.0) == pytest.approx(20.0)
    assert floor(100.0, 1000.0) == pytest.approx(30.0)
    assert floor(0.0, 0.0) is None


def test_a_rival_in_its_own_process_takes_its_turn_and_absence_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    pytest.importorskip("faiss")
    case = dataclasses.replace(CASES["test-scan"], skip_peers={"torch f32": "a reason of our own"})
    monkeypatch.setattr(run_module, "read_cases", lambda: {"test-scan": case})
    said: list[str] = []
    result = run(["test-scan"], repetitions=3, memory=False, threads=1, progress=said.append)
    (row,) = result.rows
    assert set(row.peers) == {"faiss flat f32"}
    assert row.peers["faiss flat f32"].timing.repetitions == 3
    assert row.to_json()["peers"]["torch f32"] is None
    assert any("torch f32 is not timed: a reason of our own" in line for line in said)

    path = tmp_path / "machine" / "kernels.jsonl"
    keep_rows(result, path, "the command")
    keep_rows(result, path, "the command")
    rows = list(read_json_lines(path))
    assert len(rows) == 2
    assert rows[0]["command"] == "the command"
    assert rows[0]["skipped"] == {"torch f32": "a reason of our own"}
    assert {"date", "machine", "ceilings", "targets", "repetitions", "shape"} <= set(rows[0])
    assert rows[0]["companions"]["without tile_lse"] > 0


def test_missing_libraries_and_slow_preparation_are_reasons() -> None:
    scan, logp = CASES["test-scan-bf16"], CASES["test-passage_logp"]
    peer = dataclasses.replace(peer_named("scan", "torch f32"), library="no_such_library")
    assert peer.refusal(scan, full=True) == "no_such_library is not installed"
    compiled = peer_named("passage_logp", "torch.compile")
    assert "--full" in compiled.refusal(logp, full=False)
    assert compiled.refusal(logp, full=True) == ""


def test_rivals_do_the_same_job() -> None:
    """Every rival that can run here finds what ours finds (bf16 and f16: nearly)."""
    case = CASES["test-scan-bf16"]
    kernel = load_kernel("scan")
    tried = 0
    for peer in peers_of(case):
        if peer.refusal(case, full=True):
            continue
        inputs = kernel.make_inputs(case, "cpu")
        exact = ops.scan(inputs.queries, inputs.passages.exact, case.k or 1, 20.0).ids
        found = peer.build(case, inputs, 1)()
        if peer.library == "torch":
            ids = found[0].indices
        else:
            ids = torch.as_tensor(
                found.keys.astype("int64") if peer.library == "usearch" else found[1]
            )
        same = sum(len(set(a) & set(b)) for a, b in zip(ids.tolist(), exact.tolist(), strict=True))
        wanted = 1.0 if peer.dtype == "float32" else 0.8
        assert same >= wanted * exact.numel(), peer.name
        tried += 1
    assert tried >= 2


def test_rivals_of_the_other_ops_do_the_same_job() -> None:
    draws = CASES["test-draw"]
    kernel = load_kernel("draw")
    inputs = kernel.make_inputs(draws, "cpu")
    ids, logp, _ = peer_named("draw", "torch f32").build(draws, inputs, 1)()
    ours = kernel.build(draws, inputs).ours()
    assert (ids == ours.ids).float().mean() > 0.95
    same = ids == ours.ids
    torch.testing.assert_close(logp[same], ours.logp[same], atol=1e-4, rtol=0.0)

    chain = CASES["test-mis_chain"]
    kernel = load_kernel("mis_chain")
    inputs = kernel.make_inputs(chain, "cpu")
    state, accepted, visits, recycled = peer_named("mis_chain", "torch loop").build(
        chain, inputs, 1
    )()
    ours = kernel.build(chain, inputs).ours()
    assert torch.equal(torch.where(state == 9, -1, state).int(), ours.state)
    assert torch.equal(accepted, ours.accepted)
    torch.testing.assert_close(visits, ours.visits)
    torch.testing.assert_close(recycled, ours.recycled)

    for name, op in (
        ("test-passage_logp", "passage_logp"),
        ("test-log_partition", "log_partition"),
    ):
        kernel = load_kernel(op)
        inputs = kernel.make_inputs(CASES[name], "cpu")
        rival = next(peer for peer in peers_of(CASES[name]) if not peer.own_process)
        theirs = rival.build(CASES[name], inputs, 1)()
        torch.testing.assert_close(
            theirs[-1], kernel.build(CASES[name], inputs).ours()[-1], atol=1e-4, rtol=1e-4
        )


def test_memory_of_what_stores_logits_is_seen() -> None:
    case = dataclasses.replace(
        CASES["test-passage_logp-bf16"], shape={"T": 1024, "H": 64, "V": 8192}, dtype="float32"
    )
    logits = 1024 * 8192 * 4
    theirs = extra_bytes(case.to_json(), "torch eager", 1)
    ours = extra_bytes(case.to_json(), OURS, 1)
    if theirs is None or ours is None:
        pytest.skip("this system keeps no peak of the resident size that can be reset")
    assert logits <= theirs <= 4 * logits
    if "passage_logp" in _compiled_ops():
        assert ours < logits / 4


def _compiled_ops() -> set[str]:
    from jsarag.backends.report import backend_report

    return {op for op, found in backend_report()["ops"].items() if found["backend"] != "reference"}


def test_a_worker_that_ends_early_says_why() -> None:
    worker = Worker(1)
    try:
        case = {**CASES["test-scan"].to_json(), "op": "sort"}
        with pytest.raises(WorkerError, match="unknown op 'sort'"):
            worker.ask(do="prepare", case=case, contestant=OURS)
    finally:
        worker.close()


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu or cuda, found 'tpu'"):
        run(["test-scan"], device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="no CUDA device"):
            run(device="cuda")
