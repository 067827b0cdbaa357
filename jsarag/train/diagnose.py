"""Diagnosing a run: scores of some training rows with its models, and what it all comes to.

Every (example, passage) pair is scored once, without gradient; estimators are then replayed on the
scores (``eval/estimator_errors.py``), which costs nothing beside a language model. Only the
wall-clock of the stations is measured by running them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from jsarag import randomness
from jsarag.assemble import make_dataset, make_em_settings
from jsarag.config.load import load_run_config
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.em.objectives.jsa import Jsa
from jsarag.em.problem import EMSettings, Problem
from jsarag.errors import DataError
from jsarag.eval.chain_facts import chain_facts
from jsarag.eval.diagnose import Diagnosis, Sample, read_questions, unnamed_gold
from jsarag.eval.estimator_errors import (
    SAMPLERS,
    EstimatorRow,
    Pool,
    divergences,
    enumeration_errors,
    sampler_errors,
    tail,
)
from jsarag.eval.run_record import RunRecord, read_run
from jsarag.io.run_dir import RunDir
from jsarag.runs import OpenRun, open_run
from jsarag.train.back import Tape
from jsarag.train.pool import joined, score_candidates
from jsarag.train.problem import Batch, WalkBack, Windows, make_problem
from jsarag.train.reporting import Reporter, SilentReporter
from jsarag.train.station_costs import StationCosts
from jsarag.train.watch import hold_back
from jsarag.types import Example, Support

_BATCH = 16
# Examples that stations are timed on.
_TIMED = 4
# What is enumerated, and whether with log-probabilities over the whole knowledge base.
_SETS: tuple[tuple[Support, bool], ...] = (("prior", False), ("union", False), ("union", True))
_LAGS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class DiagnoseSettings:
    """What is looked at.

    rows: training rows; 0 leaves the models alone.
    checkpoint: ``last`` (the state the run serves) or ``untrained``.
    mis_steps, k: the sweeps.
    top: passages taken from each retriever into the pool; at least the largest k.
    visits: replicates of every sampling estimator.
    device: overrides the run's.
    """

    rows: int = 32
    checkpoint: str = "last"
    mis_steps: Sequence[int] = (1, 2, 4, 8, 16, 32)
    k: Sequence[int] = (2, 4, 8, 16)
    top: int = 32
    visits: int = 200
    device: str | None = None


def diagnose_run(
    path: Path | str,
    settings: DiagnoseSettings = DiagnoseSettings(),
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Read a run folder and, unless ``rows`` is 0, score training rows with its models.

    Args:
        path: what ``jsarag train`` wrote, finished or not.
        settings: what is looked at.
        reporter: told what happens.

    Raises:
        CheckpointError: no run folder, or no complete checkpoint in it.
        DataError: its data are gone.
        NumericalError: an example's importance weights are NaN or all zero.
    """
    reporter = reporter or SilentReporter()
    if not settings.rows:
        return read_diagnosis(path)
    reporter.stage("open run", None)
    opened = open_run(path, untrained=settings.checkpoint == "untrained", device=settings.device)
    diagnosis = read_diagnosis(path, opened.parts.dataset.kb)
    return replace(diagnosis, sample=diagnose_sample(opened, settings, reporter))


def read_diagnosis(path: Path | str, kb: KnowledgeBase | None = None) -> Diagnosis:
    """What the folder's own records show; no model is loaded.

    Args:
        path: what ``jsarag train`` wrote.
        kb: names gold passages that were never retrieved; None reads the data set for them.

    Raises:
        CheckpointError: no run folder.
    """
    run_dir = RunDir(path)
    run_dir.identity()
    record = read_run(run_dir, samples=1)
    notes = list(record.problems)
    questions = read_questions(record)
    if questions is None:
        notes.append(
            f"no rows of {record.split} are stored: nothing is said about single questions"
        )
    elif unnamed_gold(questions):
        kb = kb or _knowledge_base(run_dir, record, notes)
        if kb is not None:
            wanted = [id for id in sorted(unnamed_gold(questions)) if id in kb]
            questions = read_questions(record, {id: kb[kb.row_of(id)].title for id in wanted})
    return Diagnosis(record, questions=questions, notes=tuple(notes))


@torch.no_grad()
def diagnose_sample(run: OpenRun, settings: DiagnoseSettings, reporter: Reporter) -> Sample:
    """Score the sample and replay every estimator on it.

    Args:
        run: opened, at the state that is looked at.
        settings: what is looked at.
        reporter: told what happens.
    """
    em, notes = _em_settings(run)
    examples = _choose(run, settings.rows)
    top = max(settings.top, *settings.k, em.k)
    reporter.stage("score candidates", None)
    batches = [examples[start : start + _BATCH] for start in range(0, len(examples), _BATCH)]
    pools = [
        score_candidates(_problem(run, batch, em), em, top, max(settings.mis_steps))
        for batch in batches
    ]
    reporter.stage("score pairs", sum(len(found.example) for found in pools))
    scored: list[Pool] = []
    done = 0
    for found in pools:
        scored.append(found.finish(em, partial(_advance, reporter, done)))
        done += len(found.example)
    pool = joined(scored)
    timed = _problem(run, examples[:_TIMED], em)
    held = pool.rows.gather(1, pool.joint.argmax(dim=1, keepdim=True))[:, 0]
    costs = StationCosts(timed, em, held[:_TIMED])
    errors = _errors(pool, em, settings, costs, reporter)
    if em.support != "kb":
        notes.append(
            "mis-cached is left out: outside kb the support moves with the chain's passage, and no "
            "fixed distribution exists that it could be held against"
        )
    best = pool.prior_logp.argmax(dim=1, keepdim=True)
    first = set(pool.rows.gather(1, best).flatten().tolist())
    return Sample(
        checkpoint=settings.checkpoint,
        step=run.step,
        rows=len(examples),
        top=top,
        passages=float(pool.mask.sum(dim=1).double().mean()),
        visits=settings.visits,
        chosen={
            "objective": run.config.objective.name,
            "estimator": em.estimator,
            "support": em.support,
            "mis_steps": em.mis_steps,
            "k": em.k,
        },
        tail=tail(pool),
        divergences=divergences(pool),
        distinct_first=len(first),
        chain=chain_facts(pool, _LAGS),
        errors=errors,
        timed_rows=costs.examples,
        notes=tuple(notes),
    )


def _advance(reporter: Reporter, before: int, done: int) -> None:
    reporter.advance(before + done)


def _em_settings(run: OpenRun) -> tuple[EMSettings, list[str]]:
    """The run's settings of the method, on a support a sampler is defined on."""
    em = make_em_settings(run.config)
    notes = []
    name = run.config.objective.name
    if em.support == "batch":
        notes.append(f"objective '{name}' takes its passages from the batch; shown is support kb")
        em = replace(em, support="kb")
    if name != "jsa":
        notes.append(
            f"the run trained with '{name}'; shown is what JSA's estimators would say at its state"
        )
    return em, notes


def _choose(run: OpenRun, rows: int) -> list[Example]:
    """Training rows keyed by the run's seed; rows that were held back are none."""
    seed = run.config.train.seed
    train = hold_back(run.parts.dataset, run.config.train.held_back, seed).splits["train"]
    order = randomness.permutation(seed, "diagnose rows", 0, len(train))[:rows]
    return [train[place] for place in sorted(order.tolist())]


def _problem(run: OpenRun, examples: Sequence[Example], em: EMSettings) -> Problem:
    """The rows as an objective with both retrievers sees them, on their first visit."""
    data = run.config.data
    batch = Batch(list(examples), [0] * len(examples))
    windows = Windows(data.context_turns, data.posterior_turns, data.generator_turns)
    walk_back = WalkBack(0, 0.0, em.seed)
    objective = Jsa(replace(em, estimator="exact"))
    return make_problem(run.parts, batch, windows, Tape(), walk_back, objective)


def _errors(
    pool: Pool, em: EMSettings, settings: DiagnoseSettings, costs: StationCosts, reporter: Reporter
) -> list[EstimatorRow]:
    """Samplers over M on the run's support, and enumeration over k on each set."""
    support, found = em.support, list[EstimatorRow]()
    samplers = [name for name in SAMPLERS if support == "kb" or name != "mis-cached"]
    settings_count = len(samplers) * len(settings.mis_steps) + len(_SETS) * len(settings.k)
    reporter.stage("replay estimators, measure stations", settings_count)
    for estimator in samplers:
        replayed = sampler_errors(
            pool, estimator, settings.mis_steps, support=support, k=em.k, visits=settings.visits
        )
        for m, row in zip(settings.mis_steps, replayed, strict=True):
            found.append(replace(row, seconds=costs.draws(estimator, m)))
            reporter.advance(len(found))
    for chosen, over_kb in _SETS:
        for k in settings.k:
            row = enumeration_errors(pool, chosen, k, over_kb=over_kb)
            timed_as: Support = "kb" if over_kb else chosen
            found.append(replace(row, seconds=costs.enumeration(timed_as, k)))
            reporter.advance(len(found))
    return found


def _knowledge_base(run_dir: RunDir, record: RunRecord, notes: list[str]) -> KnowledgeBase | None:
    """The run's passages, from its data set; None, and a note, where that is no longer there."""
    try:
        return make_dataset(load_run_config(run_dir.check_config()).config, (record.split,)).kb
    except DataError as error:
        notes.append(f"titles of gold passages that were never retrieved are not known ({error})")
        return None
