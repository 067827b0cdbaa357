"""A training step's stations with the reference ops and with the compiled kernels.

    python -m jsarag_bench.end_to_end.stations [--case demo] [--repeats 2] [--append]

Trains for a few steps in fresh processes, by turns with ``JSARAG_BACKEND``
``reference`` (plain torch) and ``auto`` (kernels), same seed and data, and reads what each station
of the step took from the run's own metrics. ``--append`` keeps a row per backend in
``benchmarks/results/<machine>/stations.jsonl``. Cases:

* ``demo``: the embedded demo, 1,320 passages, its copy network.
* ``large``: the demo's questions over 50,000 passages (its own, and short texts of their words)
  and a causal language model of two layers with a vocabulary of 30,522, as BERT's. Its weights are
  random: what a step costs does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jsarag import randomness
from jsarag.data.convert import convert
from jsarag.data.demo import make_demo
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.registry import Dataset
from jsarag.errors import DataError
from jsarag.io.environment import describe_environment
from jsarag.models.hub import load_tokenizer
from jsarag.types import Passage
from jsarag_bench.markdown import table
from jsarag_bench.rows import append_row, results_folder

BACKENDS = ("reference", "auto")
# Optimizer steps of a run.
CASES = {"demo": 20, "large": 8}
LARGE_PASSAGES = 50_000
LARGE_WORDS = 10  # of a passage that is not the demo's
# The chain's kernel is part of the step with `mis`; evaluation is not what is measured.
ARGUMENTS = (
    *("--recipe", "demo", "--estimator", "mis", "--quiet", "--no-strict"),
    *("--set", "train.generator_warmup_steps=10", "--set", "eval.max_examples=4"),
    *("--set", "eval.max_new_tokens=4"),
)
# In the order of the step; what else a step is charged for is not training.
STATIONS = ("encode", "candidates", "score", "weights", "loss", "backward", "optimizer")


def read_stations(metrics: Iterable[str]) -> dict[str, float]:
    """Milliseconds a step at each station, mean over a run's training records.

    Raises:
        DataError: the run has none.
    """
    records = [json.loads(line) for line in metrics if line.strip()]
    steps = [record["stations"] for record in records if record.get("kind") == "train"]
    if not steps:
        raise DataError("expected training records with their stations, found none")
    return {name: 1e3 * statistics.mean(step.get(name, 0.0) for step in steps) for name in STATIONS}


def measure(case: str, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds a step, by backend and station."""
    found: dict[str, list[dict[str, float]]] = {backend: [] for backend in BACKENDS}
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*ARGUMENTS, "--max-steps", str(CASES[case]), *prepare(case, Path(folder))]
        for _ in range(repeats):
            for backend in BACKENDS:
                found[backend].append(_run(backend, arguments))
    return {
        backend: {name: statistics.median(run[name] for run in runs) for name in STATIONS}
        for backend, runs in found.items()
    }


def prepare(case: str, folder: Path) -> list[str]:
    """Write what a case needs into ``folder``; the arguments that name it."""
    if case == "demo":
        return ["--dataset", "demo"]
    data, generator = folder / "data", folder / "generator"
    demo = make_demo()
    kb = KnowledgeBase(tuple(large_passages(demo.passages, LARGE_PASSAGES)), source=case)
    convert(Dataset(case, kb, {"train": list(demo.train), "dev": list(demo.dev)}), data)
    _save_language_model(generator)
    return ["--dataset", str(data), "--generator", str(generator)]


def large_passages(passages: Sequence[Passage], count: int) -> Iterator[Passage]:
    """``passages``, then texts of words drawn from them until there are ``count``."""
    yield from passages
    words = sorted({word for passage in passages for word in passage.text.split()})
    places = randomness.generator(1, "stations", "passages").integers(
        len(words), size=(count - len(passages), LARGE_WORDS)
    )
    for number, row in enumerate(places):
        yield Passage(id=f"filler-{number}", text=" ".join(words[place] for place in row))


def _save_language_model(folder: Path) -> None:
    import torch

    """A causal language model, random, with the words of the packaged encoder's tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_tokenizer("minilm")
    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=384,
            n_layer=2,
            n_head=6,
            n_positions=256,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
        )
    )
    tokenizer.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _run(backend: str, arguments: Sequence[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "jsarag_cli.main", "train", *arguments]
        done = subprocess.run(
            [*command, "--output-dir", str(output)],
            env={**os.environ, "JSARAG_BACKEND": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DataError(f"the {backend} run failed: {done.stderr[-2000:]}")
        return read_stations((output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())


def stations_table(rows: Sequence[Mapping[str, Any]], case: str = "demo") -> str:
    """The newest row of each backend as a Markdown table."""
    newest = {row["backend"]: row["stations"] for row in rows if row["case"] == case}
    if not set(BACKENDS) <= set(newest):
        command = f"python -m jsarag_bench.end_to_end.stations --case {case} --append"
        return f"No rows yet: `{command}` measures them."
    before, after = (_with_step(newest[backend]) for backend in BACKENDS)
    lines = [
        (name, f"{before[name]:,.1f}", f"{after[name]:,.1f}", f"{before[name] / after[name]:.2f}x")
        for name in before
    ]
    return table(("station", "torch, ms a step", "kernels, ms a step", "ratio"), lines, {1, 2, 3})


def _with_step(stations: Mapping[str, float]) -> dict[str, float]:
    return {**stations, "whole step": sum(stations.values())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=CASES, default="demo")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each backend")
    parser.add_argument("--append", action="store_true", help="keep the rows on file")
    chosen = parser.parse_args(arguments)
    found = measure(chosen.case, chosen.repeats)
    shown = Table("station", *BACKENDS)
    for name in STATIONS:
        shown.add_row(name, *(f"{found[backend][name]:,.1f} ms" for backend in BACKENDS))
    Console().print(shown)
    if not chosen.append:
        return
    given = list(sys.argv[1:] if arguments is None else arguments)
    passport = {
        **describe_environment(),
        "command": shlex.join(["python", "-m", "jsarag_bench.end_to_end.stations", *given]),
    }
    for backend, stations in found.items():
        row = {
            "backend": backend,
            "case": chosen.case,
            "steps": CASES[chosen.case],
            "repeats": chosen.repeats,
        }
        append_row(results_folder() / "stations.jsonl", {**row, "stations": stations, **passport})


if __name__ == "__main__":
    main()
