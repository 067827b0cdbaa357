"""A run folder as a training run leaves it, made of nothing: for the report's and plots' tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jsarag import randomness
from jsarag.eval.evaluate import Evaluation, write
from jsarag.eval.generation import generation_row, score_generation
from jsarag.eval.retrieval import score_retrieval
from jsarag.eval.significance import group_rows, intervals
from jsarag.io.run_dir import RunDir

TOPICS = [
    ("Ferry timetable", "The ferry leaves the east pier every forty minutes between six and nine."),
    ("Lost property", "Items found on board are kept for ninety days at the harbour office."),
    ("Bicycles", "Bicycles travel free outside the rush hour; tandems need a ticket of their own."),
    ("Refunds", "A ticket is refunded in full until two hours before departure, then by half."),
    ("Dogs on board", "Dogs must be kept on a lead and are not allowed in the upper saloon."),
    ("Winter season", "From November to March only the morning and the evening crossing are run."),
    ("Group bookings", "Groups of ten or more travel at a third off if they book a week ahead."),
    ("Accessibility", "The lower deck is level with the pier and has two places for wheelchairs."),
    (
        "Island museum",
        "The museum opens at ten; the ferry ticket gives two crowns off the entrance.",
    ),
    ("Parking", "Cars may be left behind the old customs house for up to three days."),
    ("Weather", "Crossings are cancelled above wind force eight, announced an hour before."),
    ("Season pass", "The pass is valid for twelve months on every line, night boats included."),
]
QUESTIONS = 40
ROWS = QUESTIONS * 2
PARTS = ("encode", "candidates", "score", "weights", "loss", "backward", "optimizer", "eval")


def make_run(
    path: Path,
    *,
    steps: int = 100,
    gold: bool = True,
    generator: bool = True,
    finished: bool = True,
    evil: str = "",
) -> RunDir:
    """Write a run folder.

    Args:
        path: the folder.
        steps: steps trained.
        gold: whether rows name gold passages.
        generator: whether responses were generated.
        finished: whether the run got to its final evaluation.
        evil: text to put wherever text comes from outside.
    """
    run = RunDir(path)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config(_config(steps, evil))
    run.write_env()
    evaluations = {
        step: _evaluation(step / 100, gold=gold, generator=generator, evil=evil)
        for step in range(0, steps + 1, 20)
    }
    write(evaluations[0], run.eval_path("dev-before"))
    if finished:
        write(evaluations[steps], run.eval_path("dev"))
    for step, evaluation in evaluations.items():
        if step < steps or finished:
            row = {"kind": "eval", "step": step, "split": "dev", **evaluation.to_json()}
            run.append_metrics(row)
        if step < steps:
            for inner in range(step + 5, step + 21, 5):
                run.append_metrics(_train_row(inner))
    for step, auc in ((0, 0.81), (steps // 2, 0.86)):
        run.append_metrics(
            {
                "kind": "evidence",
                "step": step,
                "auc": auc,
                "auc_shuffled": 0.51,
                "margin": auc - 0.51,
                "low": auc - 0.6,
                "high": auc - 0.42,
                "n": 64,
                "verdict": "evidence",
                "advice": f"the likelihood ranks passages well (AUC {auc}) {evil}",
            }
        )
    if finished:
        run.append_metrics({"kind": "summary", "step": steps, "seconds": 152.4})
    run.log_event("started; trains prior, posterior, generator")
    run.log_event(f"warning: mis_chain runs on the reference: no compiled module {evil}")
    run.log_event("truncated: prior context: 12 of 1200 texts cut (310 of 61,000 tokens)")
    return run


def _evaluation(progress: float, *, gold: bool, generator: bool, evil: str) -> Evaluation:
    stream = randomness.generator(11, "fake run")
    order: list[list[str]] = []
    predictions: list[str] = []
    answers: list[list[str]] = []
    golds: list[list[str]] = []
    for row in range(ROWS):
        own = row % len(TOPICS)
        noise = stream.gumbel(size=len(TOPICS))
        luck = stream.random()
        strength = 1.0 + 4.5 * progress * (luck > 0.15)
        scores = noise + [strength if place == own else 0.0 for place in range(len(TOPICS))]
        order.append([f"p{place}" for place in (-scores).argsort()[:10]])
        words = TOPICS[own][1].split()
        keep = 3 + round(progress * 6 * stream.random())
        predictions.append(" ".join(words[:keep]))
        answers.append([" ".join(words[:8])])
        golds.append([f"p{own}"] if gold else [])
    groups = group_rows([f"d{row // 2}" for row in range(ROWS)], [str(row) for row in range(ROWS)])
    ranked = score_retrieval(order, golds)
    generated = score_generation(predictions, answers)
    rows = [
        _prediction(row, order[row], golds[row], answers[row], predictions[row], evil)
        for row in range(ROWS)
    ]
    for row, record in enumerate(rows):
        if gold:
            record["metrics"]["prior"] = {
                name: float(values[row]) for name, values in ranked.values.items()
            }
        if generator:
            record["metrics"]["generation"] = generation_row(generated, row)
        else:
            record["prediction"] = None
    prior: dict[str, Any] = dict.fromkeys(ranked.values)
    prior |= {"intervals": dict.fromkeys(ranked.values), "n": 0}
    if gold:
        prior = _scored(ranked.statistics(), groups)
    posterior = {name: min(1.0, value * 1.1) for name, value in prior.items() if _is_float(value)}
    return Evaluation(
        retrieval={"prior": prior, "posterior": {**posterior, "n": ROWS} if gold else None},
        generation=_scored(generated.statistics(), groups) if generator else None,
        signature=f"rows:{ROWS}|hit:any-gold|k:10|index:gen-{round(progress * 5)}|decoding:top1",
        predictions=rows,
        notes=() if gold else (f"{ROWS} of {ROWS} rows name no gold passage",),
    )


def _scored(statistics: dict[str, Any], groups: Any) -> dict[str, Any]:
    found = intervals(statistics, groups, samples=300, seed=1)
    return {
        **{name: item.value for name, item in statistics.items()},
        "intervals": {name: list(item) for name, item in found.items() if item is not None},
        "n": ROWS,
    }


def _prediction(
    row: int, order: list[str], gold: list[str], answers: list[str], prediction: str, evil: str
) -> dict[str, Any]:
    title = TOPICS[row % len(TOPICS)][0].lower()
    return {
        "id": f"ferry-{row:03d}{evil}",
        "dialogue_id": f"d{row // 2}",
        "context": f"user: I have a question about the crossing.\nagent: Of course, what is it?\n"
        f"user: What are the rules on {title}, and since when? {evil}",
        "answers": [answer + evil for answer in answers],
        "prediction": prediction + evil,
        "prediction_logp": None,
        "gold_passages": gold,
        "metrics": {},
        "passages": [
            {
                "id": name,
                "title": TOPICS[int(name[1:])][0] + evil,
                "text": f"{TOPICS[int(name[1:])][1]} {evil} This applies on all lines and days.",
                "score": 0.8 - 0.03 * rank,
                "rank": rank,
                "gold": name in gold if gold else None,
            }
            for rank, name in enumerate(order, start=1)
        ],
    }


def _train_row(step: int) -> dict[str, Any]:
    stream = randomness.generator(5, "fake train", step)
    wobble = float(stream.normal(scale=0.03))
    decay = math.exp(-step / 45)
    seconds = dict(zip(PARTS, (0.08, 0.05, 0.62, 0.004, 0.09, 0.41, 0.03, 0.11), strict=True))
    return {
        "kind": "train",
        "step": step,
        "seconds": 1.5 * step,
        "loss": 40 + 22 * decay + 20 * wobble,
        "loss_prior": 1.2 + 2.4 * decay + wobble,
        "loss_posterior": 0.8 + 1.9 * decay + wobble,
        "loss_generator": 38 + 17.7 * decay + 18 * wobble,
        "acceptance_rate": 0.62 - 0.35 * decay + wobble,
        "ess": 9.5 - 6 * decay + 8 * wobble,
        "distinct_passages": 180 + round(60 * (1 - decay)),
        "prior_posterior_overlap": 0.7 - 0.4 * decay + wobble,
        "grad_norm_prior": 0.8 + 2 * decay + wobble,
        "grad_norm_generator": 1.4 + decay + wobble,
        "learning_rate": 2e-5 * (1 - step / 120),
        "stations": {name: value * (1 + abs(4 * wobble)) for name, value in seconds.items()},
    }


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _config(steps: int, evil: str) -> str:
    return f"""data:
  dataset: {json.dumps("ferry" + evil)}  # flag --dataset
  context_turns: 3  # default
retriever:
  model: minilm  # default
  temperature: 0.05  # default
generator:
  model: query-likelihood  # recipe ferry
objective:
  name: jsa  # default
  support: kb  # default
  estimator: snis  # default
  likelihood: sum  # default
  k: 8  # default
  mis_steps: 16  # default
train:
  max_steps: {steps}  # default
  batch_size: 16  # default
  gradient_accumulation_steps: 1  # default
  learning_rate: 2.0e-05  # default
  freeze: [passages]  # default
  seed: 1  # default
eval:
  split: dev  # default
"""
