"""A run on several processes is the run of one: its draws, losses, weights, stops and resumes."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import jsarag.em.objectives.jsa as jsa
from jsarag.em.objectives.base import StepLoss
from jsarag.errors import ConfigError, LostProcessError, NumericalError, PreemptedError
from jsarag.io.checkpoint import load_checkpoint
from jsarag.io.run_dir import RunDir
from jsarag.train.optimizer import PartOptimizer
from jsarag.train.run import TrainResult

Toy = Callable[..., TrainResult]
Together = Callable[..., list[Any]]
# Sums in another order: parameters move by at most this many times the learning rate apart.
TOLERANCE = 2e-3

ON_THE_WHOLE_BASE = {"objective.support": "kb", "objective.estimator": "mis"}
UNEVEN = {
    **ON_THE_WHOLE_BASE,
    "train.batch_size": 6,
    "train.gradient_accumulation_steps": 2,
}
PASSAGES_TRAINED = {
    "train.freeze": "none",
    "index.rebuild_every": "0-:2",
    "objective.estimator": "mis-cached",
    "objective.support": "kb",
    "train.batch_size": 36,  # every example comes again in the second step, on another process
}
STAGES = {
    "generator.model": "copy",
    "generator.max_response_tokens": 12,
    "generator.layers": 1,
    "train.generator_warmup_steps": 2,
    "train.concat_steps": 2,
    "train.max_steps": 2,
}
# Process 0 evaluates and looks at held-back rows while the others help it to search.
SHARDED = {
    "index.placement": "sharded",
    "index.rebuild_every": "0-:2",
    "train.freeze": "none",
    "retriever.passage_encoder": "separate",
    "train.held_back": 8,
    "train.eval_steps": 1,
    "train.keep": "last",
    "train.max_steps": 3,
    **ON_THE_WHOLE_BASE,
}
WEAK_LABELS = {"objective.name": "wrag", "objective.support": "kb", "train.batch_size": 36}


@dataclass
class Trace:
    """What one process did: draws by (example, visit), and its weights at the end, digested."""

    draws: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    weights: str = ""
    result: Any = None


def traced(run: Callable[[], TrainResult], patch: pytest.MonkeyPatch) -> Trace:
    """Run, and note all draws."""
    trace, propose, step = Trace(), jsa.propose, PartOptimizer.step
    holding: list[PartOptimizer] = []

    def noting(problem: Any, *others: Any) -> Any:
        candidates = propose(problem, *others)
        rows = candidates.rows.gather(1, candidates.proposals).tolist()
        keys = zip(problem.example_ids, problem.visits, strict=True)
        trace.draws |= dict(zip(keys, rows, strict=True))
        return candidates

    def holding_on(optimizer: PartOptimizer, factor: float) -> None:
        holding[:] = [optimizer]
        step(optimizer, factor)

    patch.setattr(jsa, "propose", noting)
    patch.setattr(PartOptimizer, "step", holding_on)
    trace.result = run()
    digest = hashlib.sha256()
    for weight in holding[0].weights:
        digest.update(weight.detach().numpy().tobytes())
    trace.weights = digest.hexdigest()
    return trace


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    modules = load_checkpoint(RunDir(run_dir)).modules
    return {f"{m}.{n}": t for m, named in modules.items() for n, t in named.items()}


def rows(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
    return [row for row in RunDir(run_dir).read_metrics() if row["kind"] in kinds]


def assert_same_run(one: Path, several: Path) -> None:
    kinds = ("warmup", "train", "concat")
    expected, found = rows(one, *kinds), rows(several, *kinds)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3, abs=1e-4)
        exact = ("distinct_passages", "learning_rate_factor")
        assert [mine.get(name) for name in exact] == [theirs.get(name) for name in exact]
    left, right = weights(one), weights(several)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        if name.startswith("chains."):
            assert torch.equal(tensor, right[name]), name
        elif tensor.is_floating_point():
            torch.testing.assert_close(right[name], tensor, rtol=0, atol=TOLERANCE, msg=name)


def differing(one: Trace, several: Sequence[Trace]) -> tuple[int, int]:
    """Draws that differ, of how many."""
    merged = {key: drawn for trace in several for key, drawn in trace.draws.items()}
    assert merged.keys() == one.draws.keys()
    pairs = [
        (mine, theirs)
        for key, drawn in one.draws.items()
        for mine, theirs in zip(merged[key], drawn, strict=True)
    ]
    return sum(mine != theirs for mine, theirs in pairs), len(pairs)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (ON_THE_WHOLE_BASE, 2),
        (UNEVEN, 4),
        pytest.param(PASSAGES_TRAINED, 2, marks=pytest.mark.slow),
        pytest.param(STAGES, 2, marks=pytest.mark.slow),
        pytest.param(WEAK_LABELS, 2, marks=pytest.mark.slow),
        (SHARDED, 3),
    ],
    ids=["kb-2", "uneven-4", "passages-2", "stages-2", "wrag-2", "sharded-3"],
)
def test_several_processes_make_the_run_of_one(
    toy: Toy, together: Together, tmp_path: Path, settings: dict[str, Any], size: int
) -> None:
    one_dir, several_dir, wide = tmp_path / "one", tmp_path / "several", settings is SHARDED
    with pytest.MonkeyPatch.context() as patch:
        one = traced(lambda: toy(one_dir, settings, wide=wide), patch)
    several = together(
        lambda: traced(lambda: toy(several_dir, settings, wide=wide), pytest.MonkeyPatch()), size
    )
    assert all(isinstance(trace, Trace) for trace in several), several
    # All processes hold the same weights, bit for bit, and tell the same result.
    assert len({trace.weights for trace in several}) == 1
    assert len({str(trace.result) for trace in several}) == 1
    assert_same_run(one_dir, several_dir)
    # A share of a batch may fit a chunk where the batch did not: nothing is computed twice.
    assert several[0].result.generator_forwards <= one.result.generator_forwards
    wrong, drawn = differing(one, several)
    # A draw may fall on the other side of a border that moved by a rounding error.
    assert wrong <= drawn // 200, (wrong, drawn)


def at_loss(patch: pytest.MonkeyPatch, call: int, act: Callable[[StepLoss], StepLoss]) -> None:
    """Do something to, or at, the JSA loss of one call, counted from 1."""
    loss, calls = jsa.Jsa.loss, [0]

    def acting(*arguments: Any) -> StepLoss:
        calls[0] += 1
        found = loss(*arguments)
        return act(found) if calls[0] == call else found

    patch.setattr(jsa.Jsa, "loss", acting)


def on_rank(rank: int, call: int, act: Callable[[StepLoss], StepLoss]) -> None:
    if os.environ["RANK"] == str(rank):
        at_loss(pytest.MonkeyPatch(), call, act)


def kill(loss: StepLoss) -> StepLoss:
    os.kill(os.getpid(), signal.SIGKILL)
    return loss


def terminate(loss: StepLoss) -> StepLoss:
    os.kill(os.getpid(), signal.SIGTERM)
    return loss


def spoil(loss: StepLoss) -> StepLoss:
    return StepLoss(loss.total + torch.inf, loss.parts, loss.diagnostics)


@pytest.mark.parametrize(
    ("act", "error", "saved"),
    [(kill, LostProcessError, 2), (spoil, NumericalError, 2), (terminate, PreemptedError, 3)],
    ids=["killed", "infinite", "asked-to-stop"],
)
def test_one_process_stops_all_at_one_step_and_another_number_goes_on(
    toy: Toy,
    together: Together,
    tmp_path: Path,
    act: Callable[[StepLoss], StepLoss],
    error: type[Exception],
    saved: int,
) -> None:
    """What happens on process 1 in its third step ends process 0 and 2 alike; all is saved."""
    settings = {**ON_THE_WHOLE_BASE, "train.max_steps": 5}
    whole, run = tmp_path / "whole", tmp_path / "run"

    def stopped() -> None:
        on_rank(1, 3, act)
        toy(run, settings)

    ended = together(stopped, 3)
    others = [ended[0], ended[2]] if act is kill else ended
    assert [type(found) for found in others] == [error] * len(others), ended
    assert load_checkpoint(RunDir(run)).step == saved
    toy(whole, settings)
    continued = together(lambda: toy(run, settings, resume=True), 2)
    assert all(isinstance(result, TrainResult) for result in continued), continued
    assert_same_run(whole, run)


def test_what_cannot_be_shared_out_is_refused(toy: Toy, together: Together, tmp_path: Path) -> None:
    small = together(lambda: toy(tmp_path / "small", {"train.batch_size": 1}), 2)
    settings = {"objective.name": "contrastive", "objective.support": "batch"}
    in_batch = together(lambda: toy(tmp_path / "batch", settings), 2)
    for errors, key in ((small, "train.batch_size"), (in_batch, "objective.support")):
        assert [type(error) for error in errors] == [ConfigError] * 2
        assert all(key in str(error) for error in errors)
    assert not (tmp_path / "small").exists()
