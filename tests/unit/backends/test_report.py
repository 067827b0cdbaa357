"""The report doctor prints, and life without the compiled module."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jsarag.backends import native
from jsarag.backends.report import OPS, backend_report

_WITHOUT = """
import json, sys
sys.modules["jsarag._native"] = None
import torch
from jsarag import ops
from jsarag.backends import native
from jsarag.backends.report import backend_report
found = ops.scan(torch.ones(1, 2), torch.ones(3, 2), 2, 1.0)
print(json.dumps([found.ids.tolist(), backend_report()]))
"""


def test_report_has_the_documented_keys():
    report = backend_report()
    assert json.loads(json.dumps(report)) == report
    assert set(report) == {"backends", "ops"}
    assert set(report["backends"]) == {"cpu", "cuda"}
    assert set(report["backends"]["cuda"]) == {"built", "architectures", "device"}
    assert set(report["ops"]) == set(OPS)
    for entry in report["ops"].values():
        assert set(entry) == {"backend", "reason"}
        assert entry["reason"]


@pytest.mark.skipif(bool(native.MISSING), reason=native.MISSING or "compiled")
def test_report_names_instruction_sets_and_kernels():
    report = backend_report()
    assert report["backends"]["cpu"]["features"][0] == "portable"
    if report["backends"]["cuda"]["device"] is None:
        assert {entry["backend"] for entry in report["ops"].values()} == {"cpu"}


def test_without_the_compiled_module_everything_runs_on_the_reference():
    output = subprocess.run(
        [sys.executable, "-c", _WITHOUT], check=True, capture_output=True, text=True
    ).stdout
    ids, report = json.loads(output)
    assert ids == [[0, 1]]
    assert report["backends"]["cpu"]["features"] == []
    for entry in report["ops"].values():
        assert entry["backend"] == "reference"
        assert "reinstall jsarag" in entry["reason"]
