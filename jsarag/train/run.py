"""One training run from its configuration to its report: claim, assemble, train, evaluate.

The order of stages, what is saved when, and how a run that was cut off finds its place again. The
training loop itself is ``loop.py``. Of several processes this is the first; the others are in
``following.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from jsarag.assemble import OpenIndex, Parts, make_dataset, make_parts, make_run_objective
from jsarag.config.keys import may_change_on_resume
from jsarag.config.load import Resolved
from jsarag.config.schema import Config
from jsarag.data.registry import Dataset
from jsarag.errors import CheckpointError, GuardError, LostProcessError, NumericalError
from jsarag.eval.evaluate import METRICS_FILE, Evaluation, write
from jsarag.eval.evaluate import Progress as EvalProgress
from jsarag.fitting import fit_data, is_fitted
from jsarag.index.flat import FlatIndex
from jsarag.io.checkpoint import Checkpoint, latest_step, load_checkpoint
from jsarag.io.peak import forget_peak, highest_bytes
from jsarag.io.records import read_record
from jsarag.io.run_dir import RunDir
from jsarag.limits import QUICK_SAMPLE, measure_passages, passages_warning
from jsarag.models.generator import Generator
from jsarag.models.retrievers import PartName, RetrieverParts
from jsarag.parallel.chains import SharedChains
from jsarag.parallel.team import Team, join
from jsarag.runs import index_folder, saved_index
from jsarag.train.evaluation import evaluate_parts, headline
from jsarag.train.following import FollowedRun, follow, require_divisible
from jsarag.train.forecast import look_ahead, modules_of, probe_run, require_fit
from jsarag.train.given import open_given
from jsarag.train.guards import CollapseGuard
from jsarag.train.kept import has_kept_state, keep_state, record_decision, restore
from jsarag.train.loop import train
from jsarag.train.metrics import StationClock
from jsarag.train.optimizer import OptimizerSettings, PartOptimizer
from jsarag.train.probe import PROBE_FILE, Probe
from jsarag.train.reporting import Level, Reporter, SilentReporter
from jsarag.train.signals import StopSignal
from jsarag.train.stages import Stage, concatenation_stage, train_stage, warm_up_stage
from jsarag.train.state import Progress, load_state
from jsarag.train.support import fit_support
from jsarag.train.tracking import track
from jsarag.train.training_run import TrainingRun, save_index, share_indexes
from jsarag.train.watch import HELD_BACK, Decision, Reading, Watch, choose_measure, hold_back


class Tell(Protocol):
    """Puts a line into the run's log and before the user."""

    def __call__(self, text: str, level: Level = "info") -> None: ...


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run: its folder, the evaluations before and after, and how long it trained.

    ``seconds`` is time at the training stations (generator warm-up included), without evaluation
    and saving; ``generator_forwards`` counts pairs through the generator there. ``peak_bytes`` is
    the memory at its height where the models are. ``decision``: which state was kept, None where
    nothing was watched.
    """

    run_dir: Path
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    seconds: float
    steps: int
    generator_forwards: int = 0
    peak_bytes: int = 0
    decision: Decision | None = None
    notes: tuple[str, ...] = field(default=())

    def to_words(self) -> dict[str, Any]:
        """As JSON types, for the other processes of the run."""
        return {**asdict(self), "run_dir": str(self.run_dir)}

    @classmethod
    def of_words(cls, words: Mapping[str, Any]) -> TrainResult:
        """What :meth:`to_words` made, told as JSON."""
        decision = words["decision"]
        told = {
            "run_dir": Path(words["run_dir"]),
            "decision": None if decision is None else Decision(**decision),
            "notes": tuple(words["notes"]),
        }
        return cls(**{**words, **told})


def run_training(
    resolved: Resolved, *, resume: bool = False, reporter: Reporter | None = None
) -> TrainResult:
    """Train as configured; a folder that already holds this run is continued.

    Where the environment says so (``jsarag.parallel``), this process is one of several; each
    returns the same.

    Args:
        resolved: the configuration with its sources.
        resume: refuse a folder that holds no run. One that was stopped before its first
            checkpoint starts from its beginning.
        reporter: told what happens.

    Raises:
        CheckpointError: the folder belongs to something else, or there is nothing to resume.
        NumericalError, GuardError: a guard stopped the run; its state is saved.
        LostProcessError: one of several processes is gone.
        KeyboardInterrupt, PreemptedError: a signal came; the state is saved.
    """
    resolved = fit_support(resolved)
    config = resolved.config
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    with join(config.train.device) as team:
        require_divisible(config, team)
        run_dir = RunDir(config.output.output_dir or default_folder(config))
        if resume and team.leads:
            _require_run(run_dir)
        dataset = None
        if is_fitted(resolved):  # each process by itself: they choose alike
            dataset = make_dataset(config, ("train", config.eval.split))
            resolved = fit_data(resolved, dataset)
        if team.leads:
            return _lead(resolved, team, run_dir, dataset, reporter or SilentReporter())
        return TrainResult.of_words(follow(resolved.config, team, make_run, dataset))


def _lead(
    resolved: Resolved, team: Team, run_dir: RunDir, dataset: Dataset | None, reporter: Reporter
) -> TrainResult:
    config = resolved.config
    checkpoint = _claim(run_dir, resolved)
    team.meet(
        "run",
        {
            "folder": str(run_dir.path.resolve()),
            "step": None if checkpoint is None else checkpoint.step,
            "generation": _generation(checkpoint),
        },
    )
    tracking = track(
        reporter,
        config.output.report_to,
        run_dir,
        config.model_dump(mode="json"),
        step=0 if checkpoint is None else checkpoint.step,
    )
    try:
        return _run(resolved, run_dir, checkpoint, tracking, team, dataset)
    finally:
        tracking.close()


def _run(
    resolved: Resolved,
    run_dir: RunDir,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
    team: Team,
    dataset: Dataset | None,
) -> TrainResult:
    config = resolved.config
    generation = _generation(checkpoint)
    tell = partial(_tell, run_dir, reporter)
    if checkpoint is not None and checkpoint.note is not None:
        tell(checkpoint.note, "warning")
    if team.size > 1:
        tell(f"{team.size} processes share every batch; the index is {config.index.placement}")
    ahead = _LookAhead(config, run_dir, tell, begun=checkpoint is not None)
    reporter.stage("load models and embed the knowledge base", None)
    parts = make_parts(
        config,
        splits=(config.eval.split,),
        checkpoint=checkpoint,
        open_index=_stored_index(config, run_dir, generation, checkpoint, tell),
        generation=generation,
        before_index=ahead,
        progress=lambda done, total: reporter.advance(done),
        dataset=dataset,
    )
    for note in (*resolved.notes, *parts.dataset.notes):
        tell(note)
    ahead.save()
    if team.size > 1:  # the others open what is on file
        _save_indexes(run_dir, parts)
    team.meet("parts", {"forecast_bytes": ahead.peak_bytes})
    share_indexes(parts, config.index.placement, team)
    parts.dataset = hold_back(parts.dataset, config.train.held_back, config.train.seed)
    with StopSignal() as stop:
        run = make_run(config, parts, run_dir, reporter, stop, checkpoint, team)
        run.forecast_bytes = ahead.peak_bytes
        before = _before(run)
        try:
            _train_stages(run)
        except (NumericalError, LostProcessError):
            run.save()
            _record_kept(run)
            raise
        except GuardError:  # which has saved already
            _record_kept(run)
            raise
        decision = _settle(run)
        after = _after(run)
    result = TrainResult(
        run_dir=run_dir.path,
        before=before,
        after=after,
        seconds=run.progress.seconds,
        steps=run.progress.total,
        generator_forwards=run.progress.generator_forwards,
        peak_bytes=highest_bytes(run.parts.device),
        decision=decision,
        notes=parts.dataset.notes,
    )
    _finish(run, result, ahead.peak_bytes)
    team.meet("end", result.to_words())
    return result


def default_folder(config: Config) -> Path:
    """``runs/<data set>-<objective>-<seed>`` under the working folder."""
    name = Path(config.data.dataset).name
    return Path("runs") / f"{name}-{config.objective.name}-{config.train.seed}"


def _generation(checkpoint: Checkpoint | None) -> int:
    """Of the index a run starts with."""
    return 0 if checkpoint is None else int(checkpoint.value("progress", "generation"))


def _save_indexes(run_dir: RunDir, parts: Parts) -> None:
    """Have the present indexes on file."""
    find = saved_index(run_dir, parts.prior_index.generation, may_lag=True)
    indexes: dict[PartName, FlatIndex] = {"passages": parts.prior_index}
    if parts.retrievers.has_separate_passages:
        indexes["posterior_passages"] = parts.posterior_index
    for part, index in indexes.items():
        if find(part, parts.retrievers, parts.dataset) is None:
            save_index(run_dir, part, index, parts)


def _tell(run_dir: RunDir, reporter: Reporter, text: str, level: Level = "info") -> None:
    run_dir.log_event(text if level == "info" else f"{level}: {text}")
    reporter.event(text, level)


def _stored_index(
    config: Config, run_dir: RunDir, generation: int, checkpoint: Checkpoint | None, tell: Tell
) -> OpenIndex:
    """The run's own index, else the given one; a continued run that lost its own says so."""
    check = config.index.verify == "open"
    find = saved_index(run_dir, generation, may_lag=True, check=check)

    def find_or_say(
        part: PartName, retrievers: RetrieverParts, dataset: Dataset
    ) -> FlatIndex | None:
        found = find(part, retrievers, dataset)
        if found is None and config.index.path is not None:
            found = open_given(
                config.index.path, part, retrievers, dataset, config.index.dtype, check=check
            )
            tell(f"{config.index.path}: {len(found):,} vectors used as they are, none embedded")
        if found is None and checkpoint is not None:
            tell(
                f"{index_folder(run_dir, part, generation)}: expected the index this run was "
                "using, found none that fits; it is built again with the checkpoint's encoder, so "
                "a run that trains passages does not continue exactly",
                "warning",
            )
        return found

    return find_or_say


class _LookAhead:
    """What is said and found before anything is embedded: texts cut, token budgets, memory.

    Refuses a run that does not fit.
    """

    def __init__(self, config: Config, run_dir: RunDir, tell: Tell, *, begun: bool) -> None:
        self._config, self._path, self._tell = config, run_dir.path / PROBE_FILE, tell
        self._begun = begun
        self._probe: Probe | None = None
        self.peak_bytes = 0

    def __call__(self, dataset: Dataset, retrievers: RetrieverParts, generator: Generator) -> None:
        """Try chunks, unless the run has a record of it; set the budgets; say what will be held."""
        # Looking again could find other budgets, which add up gradients in another order.
        needed = self._begun and self._config.train.chunk_tokens is None
        known = Probe.load(self._path) if needed or self._path.is_file() else None
        if known is None:
            cuts = measure_passages(self._config, dataset.kb.passages, sample=QUICK_SAMPLE)
            if warning := passages_warning(cuts):
                self._tell(warning, "warning")
        settings = self._config.train
        bf16 = settings.bf16 and generator.supports_bf16
        if known is not None and not known.serves(settings.chunk_tokens, bf16):
            known = None
        probe = known or probe_run(self._config, dataset, retrievers, generator)
        probe.apply(retrievers, generator)
        forecast = look_ahead(self._config, dataset, retrievers, generator, probe)
        if found := probe.precision.describe():
            self._tell(found)
        self._tell(forecast.describe())
        require_fit(forecast, retrievers.passages.device)
        self.peak_bytes = forecast.peak_bytes
        self._probe = probe if known is None else None
        # What was tried is no part of the run: not its peak, and not the texts it cut.
        forget_peak()
        for encoder in retrievers.parts().values():
            encoder.truncation.reset()
        generator.truncation.reset()

    def save(self) -> None:
        """Keep what was found; not before the run has begun, or its folder could not be reused."""
        if self._probe is not None:
            self._probe.save(self._path)


def _require_run(run_dir: RunDir) -> None:
    """Before data are read and a folder is made: there is something to resume."""
    if not run_dir.run_path.is_file():
        raise CheckpointError(
            f"{run_dir.path}: expected a run to resume, found none; start without --resume, or "
            "give the --output-dir of the run to continue"
        )


def _claim(run_dir: RunDir, resolved: Resolved) -> Checkpoint | None:
    """Make the folder ours; the checkpoint to continue from, or None."""
    ours = run_dir.claim(resolved.config.model_dump(mode="json"), ignore=may_change_on_resume())
    checkpoint = load_checkpoint(run_dir) if ours and latest_step(run_dir) is not None else None
    run_dir.write_config(resolved.to_yaml())
    run_dir.write_env()
    return checkpoint


def make_run(
    config: Config,
    parts: Parts,
    run_dir: RunDir,
    reporter: Reporter,
    stop: StopSignal,
    checkpoint: Checkpoint | None,
    team: Team | None = None,
) -> TrainingRun:
    """Everything a training loop holds, at its beginning or where a checkpoint left it."""
    settings, team = config.train, team or Team()
    chains = SharedChains()
    guard = CollapseGuard(
        config.guards.collapse_window, config.guards.min_distinct_ratio, len(parts.dataset.kb)
    )
    optimizer = PartOptimizer(
        modules_of(parts.retrievers, parts.generator),
        OptimizerSettings(
            retriever_learning_rate=settings.learning_rate,
            generator_learning_rate=settings.generator_learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
            warmup_steps=settings.warmup_steps,
            schedule=settings.schedule,
        ),
    )
    if checkpoint is not None:
        progress = load_state(checkpoint, optimizer, chains, guard)
        lost = run_dir.rewind_metrics(step=progress.total, warmup_step=progress.warmup_step)
    else:  # perhaps the second start of a run that was killed before its first checkpoint
        progress = Progress()
        lost = run_dir.restart_metrics()
    run = (TrainingRun if team.leads else FollowedRun)(
        config=config,
        parts=parts,
        objective=make_run_objective(config, chains),
        optimizer=optimizer,
        chains=chains,
        guard=guard,
        progress=progress,
        run_dir=run_dir,
        reporter=reporter,
        clock=StationClock(parts.device, synchronise=True),
        stop=stop,
        team=team,
    )
    run.watch = _watch(run, checkpoint) if team.leads else None
    parts.retrievers.train()
    parts.generator.train()
    run.event(_beginning(run, continued=checkpoint is not None, lost=lost))
    return run


def _beginning(run: TrainingRun, *, continued: bool, lost: int) -> str:
    """Where the run stands, for the log."""
    progress, settings = run.progress, run.config.train
    if not continued:
        again = "started again, nothing was saved before it was stopped" if lost else "started"
        return f"{again}; trains {', '.join(run.optimizer.trained_parts) or 'nothing'}"
    if progress.stage != "done":
        return f"resumed at step {progress.total} ({progress.stage})"
    if progress.step < settings.max_steps:
        return (
            f"resumed at step {progress.total} (done): the run had ended there, and goes on to "
            f"step {settings.max_steps} with the learning rates of a run of that length. Another "
            "--output-dir starts one from the beginning"
        )
    return f"resumed at step {progress.total} (done): nothing is left to train"


def _before(run: TrainingRun) -> dict[str, Any]:
    """The scores before training: made once, read back when a run is continued."""
    split = run.config.eval.split
    folder = run.run_dir.eval_path(f"{split}-before")
    begun = run.progress.total > 0 or run.progress.warmup_step > 0
    if begun or (folder / METRICS_FILE).is_file():
        fix = "restore it from a copy: the parts are no longer those from before training"
        return read_record(folder / METRICS_FILE, fix=fix)
    run.evidence_probe()
    _save_indexes(run.run_dir, run.parts)
    return _evaluate(run, f"{split}-before", 0)


def _train_stages(run: TrainingRun) -> None:
    """Warm-up, end-to-end training, concatenation; each continues where it stopped."""
    progress, settings = run.progress, run.config.train
    if progress.stage == "warmup":
        if settings.generator_warmup_steps:
            _train_generator(run, warm_up_stage(run.config, run.n_examples))
        run.check_evidence()
        progress.stage = "train"
    run.stage = train_stage(run.config, run.objective, run.n_examples)
    if progress.stage in ("train", "done") and run.goes_on():
        progress.stage = "train"
        _first_look(run)
        run.start_stage(run.stage)
        train(run)
        _last_look(run)
    run.rebuild_if_stale()
    if progress.concat_step < settings.concat_steps:
        if progress.concat_step == 0:
            _settle(run)  # the generator is tuned on what will be kept
        progress.stage = "concat"
        _train_generator(run, concatenation_stage(run.config, run.n_examples))
    progress.stage = "done"
    run.save()


def _train_generator(run: TrainingRun, stage: Stage) -> None:
    """A stage of the generator's own, where it has anything to train."""
    if not run.parts.generator.is_trainable:
        run.event(f"skipped: {stage.title}: the generator has nothing to train")
        return
    run.start_stage(stage)
    train(run)


def _first_look(run: TrainingRun) -> None:
    """Measure the start; of a run that goes on beyond its end, keep the state it goes on from."""
    if run.watch is None:
        return
    if not run.watch.readings:
        run.look()
    elif run.watch.decision().kept == run.progress.step and not has_kept_state(run.run_dir):
        keep_state(run.run_dir, run.parts, run.progress)


def _last_look(run: TrainingRun) -> None:
    """Measure the end, wherever time or a collapse put it."""
    if run.watch is not None and run.watch.readings[-1].step != run.progress.step:
        run.look()


def _record_kept(run: TrainingRun) -> None:
    """Of a run that was stopped: what is to be served until it goes on."""
    watch = run.watch
    if watch is not None and watch.readings and run.config.train.keep == "best":
        record_decision(run.run_dir, watch.decision(), run.progress.total)


def _watch(run: TrainingRun, checkpoint: Checkpoint | None) -> Watch | None:
    """The watch of a run that held rows back, with what it has seen so far."""
    held = run.parts.dataset.splits.get(HELD_BACK)
    if not held:
        return None
    if checkpoint is None:
        stored = []
    elif "watch" in checkpoint.state:
        stored = checkpoint.value("watch")
    else:  # of an earlier version, which kept them in the log alone
        stored = [row for row in run.run_dir.read_metrics() if row.get("kind") == "watch"]
    settings = run.config.train
    return Watch(
        run.parts,
        run.windows,
        measure=choose_measure(settings.watch, held),
        folder=run.run_dir.path,
        inv_temperature=1.0 / run.config.retriever.temperature,
        seed=settings.seed,
        readings=map(Reading.of_row, stored),
    )


def _settle(run: TrainingRun) -> Decision | None:
    """Go back to the best state, if that is not the present one; say what was decided."""
    progress, watch = run.progress, run.watch
    if watch is None or not watch.readings:
        return None
    decision = watch.decision(run.config.train.keep)
    # Joined passages were tuned on what was kept: it is part of the last state already.
    if decision.kept != progress.step and progress.concat_step == 0 and has_kept_state(run.run_dir):
        restore(run.run_dir, run.parts)
        if run.parts.retrievers.passages.is_trainable:
            run.rebuild_if_stale()
            keep_state(run.run_dir, run.parts, replace(progress, step=decision.kept))
    if progress.stage == "done":
        kept = decision.kept if progress.concat_step == 0 else progress.total
        record_decision(run.run_dir, replace(decision, kept=kept), progress.total)
        run.event(decision.reason, "warning" if decision.worse else "info")
    return decision


def _after(run: TrainingRun) -> dict[str, Any]:
    for line in (
        *run.parts.retrievers.truncation_summary().splitlines(),
        *run.parts.generator.truncation.summary().splitlines(),
    ):
        run.event(f"truncated: {line}")
    return _evaluate(run, run.config.eval.split, run.progress.total)


def _evaluate(run: TrainingRun, folder: str, step: int) -> dict[str, Any]:
    split = run.config.eval.split
    evaluation: Evaluation = evaluate_parts(
        run.parts, run.config, split, progress=_staged(run.reporter, split)
    )
    write(evaluation, run.run_dir.eval_path(folder))
    result = evaluation.to_json()
    run.run_dir.append_metrics({"kind": "eval", "step": step, "split": split, **result})
    run.reporter.evaluated(step, result)
    run.run_dir.log_event(f"step {step}: {headline(result)}")
    return result


def _staged(reporter: Reporter, split: str) -> EvalProgress:
    """Turns (stage, done, total) into the reporter's stages."""
    current = ""

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal current
        if stage != current:
            current = stage
            reporter.stage(f"evaluate on {split}: {stage}", total)
        reporter.advance(done)

    return tell


def _finish(run: TrainingRun, result: TrainResult, forecast_bytes: int) -> None:
    """Log the summary, draw the plots (where matplotlib is installed) and the report."""
    from jsarag.eval.plots import has_matplotlib, write_plots
    from jsarag.eval.report import write_report

    summary = {
        "kind": "summary",
        "step": result.steps,
        "seconds": result.seconds,
        "generator_forwards": result.generator_forwards,
        "kept": None if result.decision is None else asdict(result.decision),
        "before": result.before,
        "after": result.after,
    }
    run.run_dir.append_metrics(summary)
    peak = result.peak_bytes
    run.run_dir.append_metrics(
        {"kind": "memory", "peak_bytes": peak, "forecast_bytes": forecast_bytes}
    )
    run.event(f"memory: peak {peak / 2**30:.2f} GiB, forecast {forecast_bytes / 2**30:.2f} GiB")
    if has_matplotlib():
        write_plots(run.run_dir)
    else:
        run.event(
            "plots/*.png left out: matplotlib is not installed (pip install 'jsarag[plots]'); "
            "report.html has the same charts"
        )
    report = write_report(run.run_dir)
    run.event(f"report: {report}")
    run.reporter.finished({**summary, "run_dir": str(result.run_dir), "report": str(report)})
