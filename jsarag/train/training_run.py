"""Everything a training loop holds, and what is due after a step; ``run.py`` makes one.

Owns no mathematics and no models: it counts, schedules, logs and saves. Of several processes, each
holds one and makes the same steps on its share of every batch; this is process 0's, and what the
others leave to it is in ``following.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from jsarag.assemble import Parts, make_index
from jsarag.config.schema import Config
from jsarag.em.objectives import Objective, StepLoss, StepScores
from jsarag.em.problem import Problem
from jsarag.errors import ConfigError, DataError, GuardError
from jsarag.index.flat import FlatIndex
from jsarag.index.rebuild import RebuildSchedule
from jsarag.io.peak import give_back, resident_bytes
from jsarag.io.run_dir import RunDir
from jsarag.models.retrievers import PartName
from jsarag.parallel.chains import SharedChains
from jsarag.parallel.sharded_index import ShardedIndex
from jsarag.parallel.team import Team
from jsarag.runs import index_folder
from jsarag.train.back import Tape
from jsarag.train.evaluation import evaluate_parts
from jsarag.train.evidence import EvidenceProbe, check_evidence, make_probe
from jsarag.train.guards import CollapseGuard, not_finite
from jsarag.train.kept import keep_state
from jsarag.train.metrics import RunningMeans, StationClock, joined_means
from jsarag.train.optimizer import PartOptimizer
from jsarag.train.problem import Batch, WalkBack, Windows, make_problem
from jsarag.train.reporting import Level, Reporter
from jsarag.train.signals import StopSignal
from jsarag.train.stages import Stage, train_stage
from jsarag.train.start import start_rows
from jsarag.train.state import Progress, save_state
from jsarag.train.watch import LOOKS, Watch, looks
from jsarag.types import Candidates, Weights

Placement = Literal["replicated", "sharded"]
# Between steps little is in use: above this share of the forecast, most is kept for nothing.
_KEPT_SHARE = 0.8


@dataclass
class TrainingRun:
    """One run in progress; see the module's docstring."""

    config: Config
    parts: Parts
    objective: Objective
    optimizer: PartOptimizer
    chains: SharedChains
    guard: CollapseGuard
    progress: Progress
    run_dir: RunDir
    reporter: Reporter
    clock: StationClock
    stop: StopSignal
    means: RunningMeans = field(default_factory=RunningMeans)
    forecast_bytes: int = 0
    watch: Watch | None = None
    team: Team = field(default_factory=Team)

    def __post_init__(self) -> None:
        self.rebuilds = RebuildSchedule.parse(self.config.index.rebuild_every)
        self.windows = Windows(
            self.config.data.context_turns,
            self.config.data.posterior_turns,
            self.config.data.generator_turns,
        )
        objective = self.config.objective
        self.walk_back = WalkBack(objective.mstep_passages, objective.backprop_cutoff, self.seed)
        self.stage = train_stage(self.config, self.objective, self.n_examples)
        self._looks = looks(self.config.train.max_steps)
        self._looked_share = int(LOOKS * self._spent())
        self._tape = Tape()
        self._logged_step = 0
        self._tops: list[int] = []
        self._share, self._last_of_step, self._forwards = 1.0, True, 0
        self._seconds_before = self.progress.seconds
        if self.objective.needs_gold:
            self._tell_of_labels()

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.train.seed

    @property
    def accumulation(self) -> int:
        """Batches per optimizer step."""
        return self.config.train.gradient_accumulation_steps

    @property
    def n_examples(self) -> int:
        """Training rows."""
        return len(self.parts.dataset.splits["train"])

    @property
    def step(self) -> int:
        """Completed steps of the present stage."""
        return self.progress.of(self.stage.kind)

    def _tell_of_labels(self) -> None:
        """Say loudly that this objective is told the answer.

        Raises:
            DataError: there are no labels to be told.
        """
        train = self.parts.dataset.splits["train"]
        labelled = sum(bool(example.gold_passages) for example in train)
        name = self.objective.name
        if not labelled:
            raise DataError(
                f"objective '{name}' trains on labelled passages: expected training rows with "
                "'gold_passages', found none; use an objective that needs no labels, such as jsa",
                field="gold_passages",
            )
        self.event(
            f"objective '{name}' READS LABELS: gold_passages of {labelled:,} of {len(train):,} "
            "training rows. It is a reference for objectives that do not",
            "warning",
        )

    # ---- the stations' inputs -------------------------------------------------------------

    def goes_on(self) -> bool:
        """Whether another step of the stage is to be made; saves and raises on a stop signal."""
        granted = self.stage.kind != "train" or (self._spent() < 1 and not self.collapsed)
        wanted = self.step < self.stage.steps and granted
        heard = self.team.meet("goes on", wanted, signal=self.stop.number)
        self.stop.adopt(heard.signal)
        self.stop_if_asked()
        return bool(heard.words[0])

    @property
    def collapsed(self) -> bool:
        """Whether the watch has seen the retriever lose what it began with."""
        return self.watch is not None and self.watch.collapsed()

    def _spent(self) -> float:
        """Share of the time or of the generator's work that was granted and is used up."""
        limits, progress = self.config.train, self.progress
        time = progress.seconds / limits.max_seconds if limits.max_seconds else 0.0
        work = limits.max_generator_forwards
        return max(time, progress.generator_forwards / work if work else 0.0)

    def batch(self, micro_batch: int) -> Batch:
        """A batch of the step that comes next, or this process's share of it."""
        plan = self.stage.batches.at(self.step * self.accumulation + micro_batch)
        rows = self.team.share(len(plan.indices))
        self._share = len(rows) / len(plan.indices)
        self._last_of_step = micro_batch == self.accumulation - 1
        train = self.parts.dataset.splits["train"]
        indices = [plan.indices[row] for row in rows]
        return Batch(
            [train[index] for index in indices], [plan.visits[row] for row in rows], indices
        )

    def problem(self, batch: Batch) -> Problem:
        """Encode a batch for the stage's objective, on a new tape."""
        self._tape = Tape()
        objective = self.stage.objective
        start = self.start_rows[batch.indices] if objective.needs_start else None
        return make_problem(
            self.parts, batch, self.windows, self._tape, self.walk_back, objective, start
        )

    @cached_property
    def start_rows(self) -> Tensor:
        """What ``objective.start`` found for every training row before training, int64 [n, k]."""
        objective, begun = self.config.objective, self.progress.step > 0
        rows = start_rows(
            self.run_dir.path,
            self.parts,
            self.windows,
            objective.k,
            ranker=objective.start,
            begun=begun,
        )
        return rows.to(self.parts.device)

    def learning_rate_factor(self) -> float:
        """Factor on the peak learning rates for the coming update."""
        return self.stage.learning_rate_factor(self.config, self.step, self._spent())

    # ---- after a batch, after a step -------------------------------------------------------

    def backward(self, total: Tensor) -> None:
        """Back-propagate a share of the step: to what was recorded, then through the models.

        After the step's last share every parameter holds the gradient of the whole step, summed
        over all processes.

        Raises:
            ConfigError: nothing that this objective moves is trainable.
            NumericalError: a process's loss is NaN or infinite.
        """
        if not total.requires_grad:
            raise ConfigError(
                f"train.freeze: objective '{self.objective.name}' has nothing to train: all it "
                f"would move is frozen ({', '.join(self.config.train.freeze)}) or has no "
                "parameters. Freeze less, or use --max-steps 0 to score the parts as they are"
            )
        # A loss is the mean over its rows; over the whole batch each row counts alike.
        torch.autograd.backward(total * self._share / self.accumulation)
        self._tape.back()
        self._forwards += self._tape.rows_through(self.parts.generator)
        if self._last_of_step:
            self._add_up(total)

    def _add_up(self, loss: Tensor) -> None:
        """The whole step's gradient, and what all processes' generators did for it."""
        # sync: a loss that is none must stop all processes at this step.
        finite = self.team.size == 1 or bool(loss.detach().isfinite())  # alone, the loop looks
        own = {"finite": finite, "forwards": self._forwards}
        said = self.team.add_gradients(self.optimizer.weights, own)
        self._forwards = 0
        self.progress.generator_forwards += sum(each["forwards"] for each in said)
        if not all(each["finite"] for each in said):
            raise not_finite(["loss"], self.step + 1)

    def observe(
        self, candidates: Candidates, scores: StepScores, weights: Weights, loss: StepLoss
    ) -> None:
        """Take note of a batch's losses, diagnostics and first passages."""
        self.means.add({"loss": loss.total})
        self.means.add({f"loss_{name}": value for name, value in loss.parts.items()})
        self.means.add(weights.diagnostics)
        self.means.add(loss.diagnostics)
        if self.stage.kind != "train":
            return
        best = scores.retriever.prior_logp.detach().argmax(dim=1, keepdim=True)
        # sync: a few integers, needed by the collapse guard
        self._tops += candidates.rows.gather(1, best).flatten().tolist()

    def step_done(self, norms: Mapping[str, Tensor]) -> None:
        """Count the step and, where due, log a row and let the collapse guard look."""
        self.progress.count(self.stage.kind)
        step = self.step
        self.count_seconds()
        self._exchange_notes()
        self._give_memory_back()
        self.means.add({f"grad_norm_{part}": norm for part, norm in norms.items()})
        self.reporter.advance(step)
        if step % self.config.train.log_steps == 0 or step == self.stage.steps:
            self.log_row()
        if self.stage.kind != "train":
            return
        try:
            self.guard.check(step)
        except GuardError:
            self.save()
            raise

    def _exchange_notes(self) -> None:
        """What must be the same on all processes: the guard's window, chains, seconds."""
        notes = {
            "tops": self._tops,
            "seconds": self.progress.seconds,
            "chains": self.chains.take_news(),
        }
        said = self.team.meet("step", notes).words
        self.chains.hear(each["chains"] for each in said)
        self.guard.add([row for each in said for row in each["tops"]])
        self._tops = []
        self.progress.seconds = said[0]["seconds"]

    def _give_memory_back(self) -> None:
        """Free what the allocator keeps, once what it keeps nears the forecast of the peak."""
        if not self.forecast_bytes or self.parts.device.type != "cpu":
            return
        if resident_bytes() > _KEPT_SHARE * self.forecast_bytes:
            give_back()

    def count_seconds(self) -> None:
        """Bring the training seconds up to date: all stations but evaluating and saving."""
        self.progress.seconds = self._seconds_before + self.clock.total(without=("eval", "save"))

    def stop_if_asked(self) -> None:
        """Save and stop where a signal came.

        Raises:
            KeyboardInterrupt, PreemptedError: see :class:`StopSignal`.
        """
        if self.stop.requested:
            self.save()
            self.event(
                f"stopped at step {self.progress.total} ({self.progress.stage}), which is saved; "
                f"`jsarag train --resume --output-dir {self.run_dir.path}` goes on"
            )
            self.stop.raise_stop()

    def log_row(self) -> None:
        """Write the means since the last row, and where the time went."""
        kind, step = self.stage.kind, self.step
        steps = max(step - self._logged_step, 1)
        self._logged_step = step
        means = self.team.meet("means", (self.means.take(), self._share)).words
        row: dict[str, Any] = {
            "kind": kind,
            "step": self.progress.total,
            f"{kind}_step": step,
            "seconds": round(self.progress.seconds, 3),
            "generator_forwards": self.progress.generator_forwards,
            **joined_means(means),
            "stations": {name: spent / steps for name, spent in self.clock.take().items()},
        }
        if kind == "train":
            row["learning_rate_factor"] = self.learning_rate_factor()
            row["distinct_passages"] = self.guard.distinct_passages
            row["distinct_ratio"] = self.guard.distinct_ratio
        self.run_dir.append_metrics(row)
        self.reporter.step(row)

    def start_stage(self, stage: Stage) -> None:
        """Enter a stage, wherever in it the run stands, and announce it; all start alike."""
        if stage.objective.needs_start:
            _ = self.start_rows  # on file before another process looks for them
        self.team.meet("stage", stage.kind)
        self.team.copy_from_leader(self.optimizer.weights)
        self.enter(stage)

    def enter(self, stage: Stage) -> None:
        """Begin to count and to log for a stage."""
        self.stage = stage
        self._logged_step = self.step
        self.clock.take()
        self.means.take()
        self.reporter.stage(stage.title, stage.steps)
        self.reporter.advance(self.step)

    def rebuild_if_due(self) -> None:
        """Embed the knowledge base again with the present passage encoder, and swap the index."""
        due = self.stage.kind == "train" and self.rebuilds.due(self.progress.step)
        if due and self.parts.retrievers.passages.is_trainable:
            self.rebuild()

    def rebuild_if_stale(self) -> None:
        """Make sure that what is evaluated, saved and served was embedded by the final encoder."""
        encoder, index = self.parts.retrievers.passages, self.parts.prior_index
        if encoder.is_trainable and index.spec["weights_digest"] != encoder.weights_digest():
            self.rebuild()

    def rebuild(self) -> None:
        """Make the next index generation; the old one stays until the new one is saved."""
        before = self.parts.prior_index
        generation = self.progress.generation + 1
        self.parts.prior_index = self._new_index("passages", generation)
        self.parts.posterior_index = (
            self._new_index("posterior_passages", generation)
            if self.parts.retrievers.has_separate_passages
            else self.parts.prior_index
        )
        self.progress.generation = generation
        self.team.meet("index", generation)
        share_indexes(self.parts, self.config.index.placement, self.team)
        drift = before.drift(self.parts.prior_index)
        self.event(f"index rebuilt: generation {generation}, mean drift of a vector {drift:.4f}")

    def _new_index(self, part: PartName, generation: int) -> FlatIndex:
        index = make_index(
            self.config, self.parts.retrievers, self.parts.dataset, part, generation=generation
        )
        save_index(self.run_dir, part, index, self.parts)
        return index

    def evaluate_if_due(self) -> None:
        """Score retrieval on the dev split, and check the likelihood's evidence, where due."""
        self._evaluate_if_due()
        self.team.meet("evaluated")  # till then the others help to search

    def _evaluate_if_due(self) -> None:
        if self.stage.kind != "train":
            return
        step, settings = self.progress.step, self.config.train
        if settings.eval_steps and step % settings.eval_steps == 0 and step < settings.max_steps:
            result = evaluate_parts(
                self.parts, self.config, self.config.eval.split, generation=False
            ).to_json()
            self.run_dir.append_metrics(
                {"kind": "eval", "step": step, "split": self.config.eval.split, **result}
            )
            self.reporter.evaluated(step, result)
        share = int(LOOKS * self._spent())
        if step in self._looks or share > self._looked_share:
            self._looked_share = share
            self.look()
        every = self.config.guards.evidence_every
        if every and step % every == 0 and step < settings.max_steps:
            self.check_evidence()

    def look(self) -> None:
        """Measure the present state on the rows held back, and keep it if it is the best."""
        if self.watch is None:
            return
        reading = self.watch.look(self.progress.step)
        self.run_dir.append_metrics(reading.to_row())
        if self.watch.decision().kept == reading.step:
            keep_state(self.run_dir, self.parts, self.progress)
        if self.collapsed:
            self.event(
                f"step {reading.step}: the retriever has lost what it began with "
                f"({reading.measure} {reading.mean:.3f} on held-back rows, "
                f"{self.watch.readings[0].mean:.3f} at the start); training stops",
                "warning",
            )

    def evidence_probe(self) -> EvidenceProbe:
        """The check's examples and lists: made before training, read back ever after.

        Raises:
            CheckpointError: a run that has begun lost them, or they are damaged.
        """
        path = self.run_dir.path / "evidence.json"
        begun = self.progress.total > 0 or self.progress.warmup_step > 0
        if not begun and not path.is_file():
            make_probe(self.parts, self.config.guards, self.windows, self.seed).save(path)
        return EvidenceProbe.load(path)

    def check_evidence(self) -> None:
        """Does the true response's likelihood single out passages? Warns, or stops if strict."""
        if not self.objective.uses_generator or self.config.objective.evidence_weight == 0:
            return
        found = check_evidence(
            self.parts, self.evidence_probe(), self.config.guards, self.windows, self.seed
        )
        row = {"kind": "evidence", "step": self.progress.step, **found.as_dict()}
        self.run_dir.append_metrics(row)
        if found.verdict == "evidence":
            self.event(found.advice)
            return
        self.event(found.advice, "warning")
        if self.config.guards.strict:
            self.save()
            raise GuardError(f"step {self.progress.step}: {found.advice}")

    def save_if_due(self) -> None:
        """Write a checkpoint where one is due."""
        every = self.config.train.save_steps
        if every and self.step % every == 0:
            self.save()

    def save(self) -> None:
        """Write a checkpoint now."""
        save_state(
            self.run_dir,
            self.progress,
            self.parts,
            self.optimizer,
            self.chains,
            self.guard,
            readings=[] if self.watch is None else [one.to_row() for one in self.watch.readings],
            keep=self.config.train.keep_checkpoints,
        )

    def event(self, text: str, level: Level = "info") -> None:
        """Tell the log and whoever is watching."""
        self.run_dir.log_event(text if level == "info" else f"{level}: {text}")
        self.reporter.event(text, level)


def share_indexes(parts: Parts, placement: Placement, team: Team) -> None:
    """Where vectors are to be spread over several processes, keep this one's share of them."""
    if placement == "replicated" or team.size == 1:
        return
    shared = parts.posterior_index is parts.prior_index
    parts.prior_index = ShardedIndex(parts.prior_index, team)
    parts.posterior_index = (
        parts.prior_index if shared else ShardedIndex(parts.posterior_index, team, "posterior")
    )


def save_index(run_dir: RunDir, part: PartName, index: FlatIndex, parts: Parts) -> None:
    """Keep a generation in the run folder, for resuming and serving."""
    index.save(
        index_folder(run_dir, part, index.generation), parts.dataset.kb, {"run": run_dir.path.name}
    )
