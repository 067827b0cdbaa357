"""The shipped cases are sound, and are selected as the command line says."""

from __future__ import annotations

import pytest

from jsarag.errors import ConfigError
from jsarag_bench.cases import Case, Target, read_cases, select_cases
from jsarag_bench.kernels import OPS, load_kernel
from jsarag_bench.peers import peers_of

CASES = read_cases()


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_case_says_why_and_names_only_what_exists(case: Case) -> None:
    assert len(case.reason) > 5
    assert case.op in OPS
    assert case.device in ("cpu", "cuda")
    rivals = {peer.name for peer in peers_of(case)}
    assert rivals
    assert set(case.skip_peers) <= rivals
    known = rivals | {"floor", "best", "best float32"}
    known |= {"without tile_lse"} if case.options.get("tile_lse") else set()
    assert {target.against for target in case.targets} <= known
    for target in case.targets:
        assert (target.at_most is None) != (target.at_least is None)


def test_every_op_has_quick_full_and_test_cases() -> None:
    for op in OPS:
        tiers = {case.tier for case in CASES.values() if case.op == op and case.device == "cpu"}
        assert {"quick", "test"} <= tiers
        load_kernel(op)


def test_exact_cases_meet_no_rounding_rivals() -> None:
    f32 = {peer.name for peer in peers_of(CASES["scan-f32-b8"])}
    certified = {peer.name for peer in peers_of(CASES["scan-int8-certified-b8"])}
    bf16 = {peer.name for peer in peers_of(CASES["scan-bf16-b8"])}
    assert f32 == certified == {"torch f32", "faiss flat f32"}
    assert bf16 == f32 | {"torch bf16", "faiss bf16", "usearch exact f16"}


def test_without_names_the_quick_ones_run() -> None:
    quick = select_cases(CASES, None, device="cpu", full=False)
    full = select_cases(CASES, None, device="cpu", full=True)
    assert {case.tier for case in quick} == {"quick"}
    assert {case.tier for case in full} == {"quick", "full"}
    assert {case.device for case in full} == {"cpu"}
    # KERNELS' table: three dtypes, five batches.
    scans = {(case.dtype, case.shape["B"]) for case in full if case.name.startswith("scan-")}
    assert {(d, b) for d in ("float32", "bfloat16", "int8") for b in (1, 8, 64, 256, 1024)} <= scans


def test_names_are_kept_in_order_and_unknown_ones_get_a_hint() -> None:
    named = select_cases(CASES, ["test-draw", "test-scan"], device="cpu", full=False)
    assert [case.name for case in named] == ["test-draw", "test-scan"]
    with pytest.raises(ConfigError, match="did you mean test-scan"):
        select_cases(CASES, ["test-scam"], device="cpu", full=False)
    with pytest.raises(ConfigError, match="pass --device cuda"):
        select_cases(CASES, ["cuda-mis_chain-64x64"], device="cpu", full=False)


def test_a_malformed_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="case 'a'"):
        read_cases("cases: [{name: a, op: scan, shape: {B: 1}, dtype: float32, whence: x}]")
    entry = "{name: a, op: scan, shape: {B: 1}, dtype: float32, reason: twice}"
    with pytest.raises(ConfigError, match="used twice"):
        read_cases(f"cases: [{entry}, {entry}]")
    with pytest.raises(ConfigError, match="unknown op"):
        load_kernel("sort")


def test_a_case_survives_the_pipe() -> None:
    case = CASES["passage_logp-bf16"]
    assert case.targets[1] == Target("torch eager", at_most=0.1, memory=True)
    assert Case.from_json(case.to_json()) == case
    assert case.shrunk({"T": 64, "H": 1000}).shape == {"T": 64, "H": 384, "V": 30522}
