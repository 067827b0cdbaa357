"""Which implementation runs, and the reason it gives."""

from __future__ import annotations

import pytest

from jsarag.backends.select import VARIABLE, choose
from jsarag.errors import BackendUnavailableError

KNOWN = {"native_ops": {"scan"}, "supported": {"float32", "int8"}}


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_compiled_kernel_is_the_default():
    assert choose("scan", "cpu", ["float32", "int8"], **KNOWN) == ("cpu", "compiled kernel")
    assert choose("scan", "cuda", ["float32"], **KNOWN).backend == "cuda"


@pytest.mark.parametrize(
    ("op", "device", "dtypes", "missing", "reason"),
    [
        ("scan", "cpu", ["float64"], "", "float64 runs the reference"),
        ("scan", "cpu", ["complex64"], "", "complex64"),
        ("draw", "cpu", ["float32"], "", "no cpu kernel for draw"),
        ("scan", "mps", ["float32"], "", "device 'mps'"),
        ("scan", "cpu", ["float32"], "not built", "not built"),
    ],
)
def test_every_fallback_says_why(op, device, dtypes, missing, reason):
    choice = choose(op, device, dtypes, missing=missing, **KNOWN)
    assert choice.backend == "reference"
    assert reason in choice.reason


def test_the_environment_can_ask_for_the_reference(monkeypatch):
    monkeypatch.setenv(VARIABLE, " Reference ")
    assert choose("scan", "cpu", ["float32"], **KNOWN) == ("reference", f"{VARIABLE}=reference")


@pytest.mark.parametrize(
    ("wanted", "op", "device", "dtypes"),
    [
        ("cuda", "scan", "cpu", ["float32"]),
        ("cpu", "scan", "cuda", ["float32"]),
        ("cpu", "draw", "cpu", ["float32"]),
    ],
)
def test_what_cannot_be_kept_is_refused(monkeypatch, wanted, op, device, dtypes):
    monkeypatch.setenv(VARIABLE, wanted)
    with pytest.raises(BackendUnavailableError, match=f"{op}: {VARIABLE}={wanted}"):
        choose(op, device, dtypes, **KNOWN)


def test_float64_runs_the_reference_even_where_kernels_are_asked_for(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cpu")
    assert choose("scan", "cpu", ["float64"], **KNOWN).backend == "reference"
    assert choose("scan", "cpu", ["float32"], **KNOWN).backend == "cpu"


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tpu")
    with pytest.raises(BackendUnavailableError, match="auto, reference, cpu, cuda, found 'tpu'"):
        choose("scan", "cpu", ["float32"], **KNOWN)
