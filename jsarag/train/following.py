"""Processes 1, 2, ... of a run: the same steps on their share of the rows, and nothing else.

Process 0 decides (``run.py``): which stage comes, whether another step is made, when a run is over.
It alone evaluates, embeds, saves and writes. The others wait for its word, take the same way
through ``loop.py``, and read what it has written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from jsarag.assemble import Parts, make_parts
from jsarag.config.schema import Config
from jsarag.data.registry import Dataset
from jsarag.errors import CheckpointError, ConfigError
from jsarag.index.flat import FlatIndex
from jsarag.io.checkpoint import Checkpoint, load_checkpoint
from jsarag.io.run_dir import RunDir
from jsarag.models.generator import Generator
from jsarag.models.retrievers import PartName, RetrieverParts
from jsarag.parallel.sharded_index import ShardedIndex
from jsarag.parallel.team import WAIT, Team
from jsarag.runs import saved_index
from jsarag.train.loop import train
from jsarag.train.probe import PROBE_FILE, Probe
from jsarag.train.reporting import Level, Reporter, SilentReporter
from jsarag.train.signals import StopSignal
from jsarag.train.stages import Stage, concatenation_stage, train_stage, warm_up_stage
from jsarag.train.training_run import TrainingRun, share_indexes
from jsarag.train.watch import hold_back


class FollowedRun(TrainingRun):
    """A run whose files, decisions and evaluations are process 0's."""

    def rebuild(self) -> None:
        """Wait for the next index generation, and open it."""
        self.open_index(self.team.meet("index").words[0])

    def open_index(self, generation: int) -> None:
        """Swap the index for one that process 0 has made.

        Raises:
            CheckpointError: it is not in the run's folder.
        """
        parts, find = self.parts, _index_of_leader(self.run_dir, generation)
        separate = parts.retrievers.has_separate_passages
        parts.prior_index = find("passages", parts.retrievers, parts.dataset).to(parts.device)
        parts.posterior_index = (
            find("posterior_passages", parts.retrievers, parts.dataset).to(parts.device)
            if separate
            else parts.prior_index
        )
        share_indexes(parts, self.config.index.placement, self.team)
        self.progress.generation = generation

    def evaluate_if_due(self) -> None:
        """Process 0's; where the index is sharded it needs help to search."""
        while (heard := self.team.meet(WAIT)).name != "evaluated":
            self.help(heard.name, heard.words)

    def help(self, name: str, words: list[Any]) -> None:
        """Take part in a search of process 0's, if what it called is one."""
        for index in (self.parts.prior_index, self.parts.posterior_index):
            if isinstance(index, ShardedIndex) and index.help(name, words):
                return

    def save(self) -> None:
        """Process 0's."""

    def event(self, text: str, level: Level = "info") -> None:
        """Process 0 says it."""


class FollowedFolder(RunDir):
    """A run's folder that is read: its logs are written by process 0."""

    def append_metrics(self, row: Any) -> None:
        """Process 0's."""

    def log_event(self, text: str) -> None:
        """Process 0's."""

    def rewind_metrics(self, **reached: int) -> int:
        """Process 0's."""
        return 0

    def restart_metrics(self) -> int:
        """Process 0's."""
        return 0


class MakeRun(Protocol):
    """Makes the run of one process out of its parts."""

    def __call__(
        self,
        config: Config,
        parts: Parts,
        run_dir: RunDir,
        reporter: Reporter,
        stop: StopSignal,
        checkpoint: Checkpoint | None,
        team: Team,
    ) -> TrainingRun: ...


def require_divisible(config: Config, team: Team) -> None:
    """Refuse what several processes cannot do alike.

    Raises:
        ConfigError: a batch has fewer rows than there are processes, or is needed as a whole.
    """
    if team.size == 1:
        return
    if config.train.batch_size < team.size:
        raise ConfigError(
            f"train.batch_size: expected at least one example for each of {team.size} processes, "
            f"found {config.train.batch_size}; raise --batch-size (and lower "
            "--gradient-accumulation-steps), or start fewer processes"
        )
    if config.objective.support == "batch":
        raise ConfigError(
            "objective.support: with several processes expected prior, union or kb, found 'batch': "
            "its negatives are the other examples of a batch, which lie on other processes; use "
            "--support kb, or one process"
        )


def follow(
    config: Config, team: Team, make: MakeRun, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Take part in a run until process 0 says it is over.

    Args:
        config: as process 0 has it.
        team: this process's.
        make: of the run.
        dataset: the data, where they have been read already.

    Returns:
        Process 0's last words.

    Raises:
        JsaragError: as process 0, or whichever process failed.
        KeyboardInterrupt, PreemptedError: a signal came; process 0 has saved the state.
    """
    told = team.meet("run").words[0]
    run_dir = FollowedFolder(told["folder"])
    checkpoint = None if told["step"] is None else load_checkpoint(run_dir, told["step"])
    ready: dict[str, Any] = {}

    def wait_for_index(dataset: Dataset, retrievers: RetrieverParts, generator: Generator) -> None:
        ready.update(team.meet("parts").words[0])
        Probe.load(run_dir.path / PROBE_FILE).apply(retrievers, generator)

    parts = make_parts(
        config,
        splits=(),
        checkpoint=checkpoint,
        open_index=_index_of_leader(run_dir, told["generation"]),
        generation=told["generation"],
        before_index=wait_for_index,
        dataset=dataset,
    )
    share_indexes(parts, config.index.placement, team)
    parts.dataset = hold_back(parts.dataset, config.train.held_back, config.train.seed)
    with StopSignal() as stop:
        run = make(config, parts, run_dir, SilentReporter(), stop, checkpoint, team)
        assert isinstance(run, FollowedRun)
        run.forecast_bytes = ready["forecast_bytes"]
        return _obey(run)


def _obey(run: FollowedRun) -> dict[str, Any]:
    while True:
        heard = run.team.meet(WAIT, signal=run.stop.number)
        word = heard.words[0]
        if heard.name == "end":
            found: dict[str, Any] = word
            return found
        if heard.name == "index":
            run.open_index(word)
        elif heard.name == "stage":
            run.team.copy_from_leader(run.optimizer.weights)
            run.enter(_stage(run, word))
            train(run)
        elif heard.name == "goes on":  # asked before a stage: with a signal, process 0 stops there
            run.stop.adopt(heard.signal)
            run.stop_if_asked()
        else:
            run.help(heard.name, heard.words)


def _stage(run: TrainingRun, kind: Literal["warmup", "train", "concat"]) -> Stage:
    if kind == "train":
        return train_stage(run.config, run.objective, run.n_examples)
    makes: Callable[[Config, int], Stage] = (
        warm_up_stage if kind == "warmup" else concatenation_stage
    )
    return makes(run.config, run.n_examples)


def _index_of_leader(
    run_dir: RunDir, generation: int
) -> Callable[[PartName, RetrieverParts, Dataset], FlatIndex]:
    find = saved_index(run_dir, generation, may_lag=True)

    def find_or_refuse(part: PartName, retrievers: RetrieverParts, dataset: Dataset) -> FlatIndex:
        found = find(part, retrievers, dataset)
        if found is None:
            raise CheckpointError(
                f"{run_dir.index_path(generation)}: expected the index that process 0 has written, "
                "found none that fits; all processes must see one --output-dir and one data set"
            )
        return found

    return find_or_refuse
