"""``jsarag_bench.small_cases``, what compute-sanitizer runs on a GPU: on the CPU and emulated."""

from __future__ import annotations

import pytest

from jsarag import ops
from jsarag_bench import small_cases


@pytest.mark.parametrize(
    "backend",
    # What Hopper has no main loop of its own for runs the others' there, too.
    [
        "cpu",
        pytest.param("emulated", marks=pytest.mark.slow),
        pytest.param("emulated-hopper", marks=pytest.mark.slow),
    ],
)
def test_every_op_is_within_its_budget(backend, chosen_backend, capsys, monkeypatch):
    chosen_backend(backend)
    # float16 has no passage_logp and float64 is the truth: let each op choose.
    monkeypatch.setenv("JSARAG_BACKEND", "auto")
    assert small_cases.main(["--device", "cpu", "--seed", "3"]) == 0
    assert "results on cpu, 0 wrong" in capsys.readouterr().out


def test_a_wrong_result_is_told(capsys, monkeypatch):
    right = ops.mis_chain

    def wrong(*args):
        found = right(*args)
        return found._replace(recycled=found.recycled + 1e-3)

    monkeypatch.setattr(small_cases.ops, "mis_chain", lambda *args: next(results)(*args))
    results = iter([right, wrong, right, wrong])
    assert small_cases.main(["--device", "cpu", "mis_chain"]) == 1
    output = capsys.readouterr().out
    assert "WRONG mis_chain start=False recycled: off by 0.001" in output
    assert "2 wrong" in output
