"""Training end to end on the toy world: it learns, repeats, resumes, rebuilds, and stops itself."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch

from jsarag.em.objectives import objective_class, objective_names
from jsarag.errors import (
    CheckpointError,
    ConfigError,
    GuardError,
    MemoryForecastError,
    NumericalError,
    PreemptedError,
)
from jsarag.io.checkpoint import load_checkpoint
from jsarag.io.records import read_record
from jsarag.io.run_dir import RunDir
from jsarag.runs import open_run
from jsarag.train.evaluation import evaluate_run
from jsarag.train.reporting import SilentReporter
from jsarag.train.run import TrainResult
from jsarag.types import Estimator
from jsarag_cli.indexing import rebuild_run

Train = Callable[..., TrainResult]
JSA = ("mis", "mis-cached", "mis-recycled", "snis", "exact")


def recall(result: Mapping[str, Any], part: str = "prior") -> float:
    return float(result["retrieval"][part]["R@1"])


def weights(run_dir: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by module and name."""
    checkpoint = load_checkpoint(RunDir(run_dir), step)
    found = {f"{m}.{n}": t for m, named in checkpoint.modules.items() for n, t in named.items()}
    return found | {f"optimizer.{name}": t for name, t in checkpoint.optimizer.items()}


def rows(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in RunDir(run_dir).read_metrics() if row["kind"] == kind]


@pytest.mark.parametrize("estimator", JSA)
def test_a_planted_passage_is_found(train_toy: Train, estimator: str) -> None:
    """Without labels the prior learns which note an alias means, on questions not trained on."""
    result = train_toy("run", {"objective.estimator": estimator, "train.max_steps": 80})
    assert recall(result.before) <= 0.15
    assert recall(result.after) >= 0.45


@pytest.mark.parametrize("support", ["prior", "union", "kb"])
def test_every_support_trains(train_toy: Train, support: str) -> None:
    result = train_toy("run", {"objective.support": support, "train.max_steps": 80})
    assert recall(result.after) >= recall(result.before) + 0.3


def test_rag_learns_too(train_toy: Train) -> None:
    settings = {"objective.name": "rag", "objective.support": "prior", "objective.k": 16}
    result = train_toy("run", {**settings, "train.max_steps": 80})
    assert recall(result.after) >= recall(result.before) + 0.3


def test_without_evidence_nothing_is_learned(train_toy: Train) -> None:
    """The control: the same run with the likelihood left out of the weights."""
    result = train_toy("run", {"objective.evidence_weight": 0, "train.max_steps": 80})
    assert recall(result.after) <= recall(result.before) + 0.1


def test_the_same_seed_gives_the_same_run(train_toy: Train) -> None:
    first, second = train_toy("a", {"train.max_steps": 5}), train_toy("b", {"train.max_steps": 5})
    one, two = weights(first.run_dir), weights(second.run_dir)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [[row["loss"] for row in rows(run.run_dir, "train")] for run in (first, second)]
    assert losses[0] == losses[1]


class StopAfter(SilentReporter):
    """Sends the process a signal when a step of a kind is done."""

    def __init__(self, kind: str, step: int, number: int) -> None:
        self.kind, self.at, self.number = kind, step, number

    def step(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == self.kind and record[f"{self.kind}_step"] == self.at:
            signal.raise_signal(self.number)


TRAINED_PASSAGES = {
    "train.freeze": "none",
    "index.rebuild_every": "0-:3",
    "objective.estimator": "mis-cached",
    "objective.support": "kb",
    "train.max_steps": 8,
}
STAGES = {
    "generator.model": "copy",
    "generator.max_response_tokens": 12,
    "generator.layers": 1,
    "train.generator_warmup_steps": 4,
    "train.concat_steps": 3,
    "train.max_steps": 4,
}
# A language model in chunks smaller than a batch, its pairs drawn, its adapters with dropout.
LANGUAGE_MODEL = {
    "generator.model": "tiny",
    "generator.template": "{context}\\n{title} {passage}\\n",
    "generator.lora.rank": 2,
    "generator.lora.dropout": 0.2,
    "objective.mstep_passages": 2,
    "train.chunk_tokens": 128,
    "train.generator_warmup_steps": 2,
    "train.max_steps": 4,
}


@pytest.mark.parametrize(
    ("settings", "stop"),
    [
        ({"train.max_steps": 8}, ("train", 3)),
        (LANGUAGE_MODEL, ("train", 2)),
        (LANGUAGE_MODEL, ("warmup", 1)),
        (TRAINED_PASSAGES, ("train", 4)),
        (TRAINED_PASSAGES, ("train", 3)),
        (STAGES, ("warmup", 2)),
        (STAGES, ("train", 2)),
        (STAGES, ("concat", 1)),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(
    train_toy: Train, settings: dict[str, Any], stop: tuple[str, int]
) -> None:
    assert_resumes(train_toy, settings, stop)


@pytest.mark.slow
@pytest.mark.parametrize("name", objective_names())
@pytest.mark.parametrize("last", [False, True], ids=["first-support", "last-support"])
def test_every_objective_resumes_bit_for_bit(train_toy: Train, name: str, last: bool) -> None:
    """With a language model's adapters, chunks, drawn pairs, and the best state kept."""
    supports = objective_class(name).supports
    settings = LANGUAGE_MODEL | {
        "objective.name": name,
        "objective.support": supports[-1 if last else 0],
        "objective.k": 2,  # as many as the small model can read beside each other
        "train.held_back": 8,
    }
    assert_resumes(train_toy, settings, ("train", 2))


@pytest.mark.slow
@pytest.mark.parametrize("support", ["prior", "union", "kb"])
@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_every_estimator_resumes_bit_for_bit(
    train_toy: Train, estimator: str, support: str
) -> None:
    """With trained passages, an index rebuilt on the way, and the best state kept."""
    settings = TRAINED_PASSAGES | {
        "objective.estimator": estimator,
        "objective.support": support,
        "train.held_back": 8,
        "train.learning_rate": 1e-3,  # ten times that, and the watch stops some as collapsed
    }
    assert_resumes(train_toy, settings, ("train", 4))


def assert_resumes(train_toy: Train, settings: dict[str, Any], stop: tuple[str, int]) -> None:
    """Weights, optimizer, chains, data order, draws, index: all as if it had never stopped."""
    whole = train_toy("whole", settings)
    with pytest.raises(PreemptedError):
        train_toy("cut", settings, reporter=StopAfter(*stop, signal.SIGTERM))
    resumed = train_toy("cut", settings, resume=True)
    expected, found = weights(whole.run_dir), weights(resumed.run_dir)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert different == []
    for kind in ("warmup", "train", "concat"):
        curves = [
            [(row[f"{kind}_step"], row["loss"]) for row in rows(run.run_dir, kind)]
            for run in (whole, resumed)
        ]
        assert curves[0] == curves[1]
    assert recall(whole.after) == recall(resumed.after)
    assert whole.before == resumed.before
    assert whole.decision == resumed.decision


def test_the_forecast_of_memory_holds(train_toy: Train) -> None:
    result = train_toy("run", LANGUAGE_MODEL)
    (memory,) = rows(result.run_dir, "memory")
    assert memory["peak_bytes"] == pytest.approx(memory["forecast_bytes"], rel=0.15)
    assert (result.run_dir / "probe.json").is_file()


def test_ctrl_c_saves(train_toy: Train) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_toy("run", {}, reporter=StopAfter("train", 2, signal.SIGINT))
    result = train_toy("run", {})
    assert result.steps == 30


def test_a_finished_run_can_be_lengthened(train_toy: Train) -> None:
    train_toy("run", {"train.max_steps": 3, "train.schedule": "constant"})
    longer = train_toy("run", {"train.max_steps": 6, "train.schedule": "constant"}, resume=True)
    whole = train_toy("whole", {"train.max_steps": 6, "train.schedule": "constant"})
    one, two = weights(longer.run_dir), weights(whole.run_dir)
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_other_settings_do_not_enter_a_runs_folder(train_toy: Train) -> None:
    train_toy("run", {"train.max_steps": 1})
    with pytest.raises(CheckpointError, match=r"objective\.k"):
        train_toy("run", {"train.max_steps": 1, "objective.k": 3})


def test_nothing_to_resume_is_an_error_and_leaves_nothing(train_toy: Train, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--resume"):
        train_toy("run", {}, resume=True)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    train_toy: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train.max_steps": 4, "train.generator_warmup_steps": 3, "train.log_steps": 1}
    whole = train_toy("whole", settings)

    class Killed(Exception):
        pass

    def die(run: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("jsarag.train.training_run.TrainingRun.save", die)
        with pytest.raises(Killed):
            train_toy("cut", settings)
    listener = Listener()
    again = train_toy("cut", settings, resume=True, reporter=listener)
    assert listener.about("nothing was saved before it was stopped")
    expected, found = weights(whole.run_dir), weights(again.run_dir)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    kinds = [
        [(row["kind"], row.get("step")) for row in RunDir(run.run_dir).read_metrics()]
        for run in (whole, again)
    ]
    assert kinds[0] == kinds[1], "no row of the lost attempt is left"


def test_a_finished_run_says_what_a_second_start_does(train_toy: Train) -> None:
    train_toy("run", {"train.max_steps": 2})
    same, longer = Listener(), Listener()
    train_toy("run", {"train.max_steps": 2}, reporter=same)
    assert same.about("nothing is left to train")
    train_toy("run", {"train.max_steps": 3}, reporter=longer)
    assert longer.about("had ended there, and goes on to step 3")


def test_the_scores_before_training_stay_those_of_the_same_rows(train_toy: Train) -> None:
    """A resumed run reads its scores before training back, so their split must not change."""
    train_toy("run", {"train.max_steps": 1})
    with pytest.raises(CheckpointError, match=r"eval\.split"):
        train_toy("run", {"train.max_steps": 2, "eval.split": "train"})


class Listener(SilentReporter):
    """Remembers what the user is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def event(self, text: str, level: str = "info") -> None:
        self.said.append((text, level))

    def about(self, words: str) -> list[tuple[str, str]]:
        return [item for item in self.said if words in item[0]]


def test_memory_is_forecast_before_anything_is_embedded(
    train_toy: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    monkeypatch.setattr("jsarag.train.forecast.available_memory_bytes", lambda: 300_000)
    # What a chunk takes is measured, and differs from machine to machine: here, nothing.
    monkeypatch.setattr("jsarag.train.probe.peak_bytes", lambda work, device: 0)
    with pytest.raises(MemoryForecastError, match="Use --freeze prior"):
        train_toy("run", {}, reporter=listener)
    [(text, _)] = listener.about("memory forecast: ")
    assert "24 passages x 32 f32" in text
    assert text in (tmp_path / "run" / "events.log").read_text(encoding="utf-8")
    assert not (tmp_path / "run" / "index").exists()


def test_cut_passages_are_said_before_anything_is_embedded(train_toy: Train) -> None:
    listener = Listener()
    limits = {"retriever.max_passage_tokens": 8, "train.max_steps": 1}
    train_toy("run", limits, reporter=listener)
    [(text, level)] = listener.about("tokens of the passages are cut")
    assert "by retriever.max_passage_tokens=8; what stands there" in text
    assert level == "warning"
    untouched = Listener()
    train_toy("whole", {"train.max_steps": 1}, reporter=untouched)
    assert untouched.about("tokens of the passages are cut") == []


def test_a_lost_index_is_said_when_a_run_is_continued(train_toy: Train) -> None:
    first = train_toy("run", {"train.max_steps": 1, "train.schedule": "constant"})
    shutil.rmtree(first.run_dir / "index" / "gen-0")
    listener = Listener()
    train_toy("run", {"train.max_steps": 2, "train.schedule": "constant"}, reporter=listener)
    [(text, level)] = listener.about("expected the index this run was using")
    assert "gen-0" in text
    assert level == "warning"


def test_an_index_built_anew_keeps_its_generation(train_toy: Train) -> None:
    result = train_toy("run", {**TRAINED_PASSAGES, "train.max_steps": 6})
    generation = open_run(result.run_dir).parts.prior_index.generation
    shutil.rmtree(result.run_dir / "index" / f"gen-{generation}")
    assert open_run(result.run_dir).parts.prior_index.generation == generation == 2


def test_with_everything_frozen_there_is_nothing_to_train(train_toy: Train) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        train_toy("run", {"train.freeze": "prior,posterior,passages"})


def test_the_first_training_rows_can_be_taken(train_toy: Train) -> None:
    listener = Listener()
    result = train_toy(
        "run", {"data.max_train_examples": 5, "train.max_steps": 1}, reporter=listener
    )
    assert len(open_run(result.run_dir).parts.dataset.splits["train"]) == 5
    assert listener.about("the first 5 of 72 training rows")


def test_the_collapse_window_counts_steps_not_batches(train_toy: Train) -> None:
    settings = {
        "guards.collapse_window": 3,
        "guards.min_distinct_ratio": 1.0,
        "train.gradient_accumulation_steps": 3,
        "train.batch_size": 24,
    }
    with pytest.raises(GuardError, match=r"step 3: .*the last 3 steps' 216 contexts"):
        train_toy("run", settings)


def test_rows_and_scores_reach_a_tracker(train_toy: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, float]] = []
    fake = ModuleType("trackio")
    vars(fake).update(init=lambda **_: None, log=logged.append, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    train_toy("run", {"output.report_to": "trackio", "train.max_steps": 2})
    assert [row["train/step"] for row in logged if "train/loss" in row] == [1, 2]
    assert [row["eval/step"] for row in logged if "eval/retrieval/prior/R@1" in row] == [0, 2]


def test_a_rebuild_changes_what_is_retrieved(train_toy: Train) -> None:
    result = train_toy("run", {**TRAINED_PASSAGES, "train.max_steps": 6})
    before = open_run(result.run_dir, untrained=True).parts.prior_index
    run = open_run(result.run_dir)
    # Two rebuilds on schedule, the second one with the last weights: none is due at the end.
    assert run.parts.prior_index.generation == 2
    assert before.drift(run.parts.prior_index) > 1e-3
    assert evaluate_run(run).to_json()["retrieval"] == result.after["retrieval"]
    certified = evaluate_run(run, engine="certified").to_json()
    assert certified["retrieval"] == result.after["retrieval"]
    assert "|engine:certified|" in certified["signature"]


def test_separate_passage_encoders_have_separate_indexes(train_toy: Train) -> None:
    settings = {**TRAINED_PASSAGES, "retriever.passage_encoder": "separate"}
    result = train_toy("run", settings)
    parts = open_run(result.run_dir).parts
    assert parts.prior_index.drift(parts.posterior_index) > 1e-4
    assert recall(result.after, "posterior") >= 0.0


def test_untrained_is_what_was_there_before(train_toy: Train) -> None:
    result = train_toy("run", {"train.max_steps": 10})
    evaluation = evaluate_run(open_run(result.run_dir, untrained=True)).to_json()
    assert evaluation["retrieval"] == result.before["retrieval"]
    trained = evaluate_run(open_run(result.run_dir)).to_json()
    assert trained["retrieval"] == result.after["retrieval"]


def test_frozen_parts_do_not_move(train_toy: Train) -> None:
    result = train_toy("run", {"train.freeze": "passages,posterior", "train.max_steps": 3})
    before = open_run(result.run_dir, untrained=True).parts.retrievers.checkpoint_states()
    after = open_run(result.run_dir).parts.retrievers.checkpoint_states()

    def moved(part: str) -> bool:
        return any(not torch.equal(before[part][n], after[part][n]) for n in before[part])

    assert [moved(part) for part in ("prior", "posterior", "passages")] == [True, False, False]


def test_nan_stops_the_run_and_keeps_the_last_good_state(train_toy: Train) -> None:
    with pytest.raises(NumericalError, match=r"NaN|not finite"):
        train_toy("run", {"train.learning_rate": 1e30, "train.schedule": "constant"})


def test_collapse_stops_the_run(train_toy: Train) -> None:
    settings = {"guards.collapse_window": 2, "guards.min_distinct_ratio": 1.0}
    with pytest.raises(GuardError, match="collapsed"):
        train_toy("run", settings)


def test_max_seconds_ends_training(train_toy: Train) -> None:
    result = train_toy("run", {"train.max_steps": 100_000, "train.max_seconds": 1.0})
    assert 0 < result.steps < 100_000
    assert result.seconds < 20


def test_every_station_is_timed(train_toy: Train) -> None:
    result = train_toy("run", {"train.max_steps": 2})
    stations = rows(result.run_dir, "train")[0]["stations"]
    names = "batch encode candidates score weights loss backward optimizer"
    assert set(names.split()) <= set(stations)
    assert all(seconds >= 0 for seconds in stations.values())


def test_a_run_leaves_what_it_promises(train_toy: Train) -> None:
    result = train_toy("run", {"train.max_steps": 2})
    expected = (
        "config.resolved.yaml env.json metrics.jsonl events.log report.html checkpoints/last "
        "checkpoints/step-2/COMPLETE checkpoints/step-2/prior.safetensors "
        "checkpoints/step-2/posterior.safetensors checkpoints/step-2/generator.safetensors "
        "checkpoints/step-2/optimizer.safetensors checkpoints/step-2/state.json "
        "index/gen-0/manifest.json eval/dev/metrics.json eval/dev/predictions.jsonl "
        "eval/dev-before/metrics.json"
    )
    assert [name for name in expected.split() if not (result.run_dir / name).exists()] == []
    stored = read_record(result.run_dir / "eval/dev/metrics.json", fix="evaluate again")
    assert stored == json.loads(json.dumps(result.after))


def test_contradicting_settings_are_refused_before_any_work(train_toy: Train) -> None:
    with pytest.raises(ConfigError, match="rebuild_every"):
        train_toy("run", {"index.rebuild_every": "0-:3"})


def test_an_index_that_a_run_is_continued_with_is_not_replaced(
    train_toy: Train, tmp_path: Path
) -> None:
    with pytest.raises(PreemptedError):
        train_toy("run", TRAINED_PASSAGES, reporter=StopAfter("train", 4, signal.SIGTERM))
    options: dict[str, Any] = {"device": None, "reporter": SilentReporter()}
    manifest = tmp_path / "run" / "index" / "gen-1" / "manifest.json"
    before = manifest.read_bytes()
    with pytest.raises(ConfigError, match="--output"):
        rebuild_run(tmp_path / "run", output=None, **options)
    assert manifest.read_bytes() == before
    folder = rebuild_run(tmp_path / "run", output=tmp_path / "elsewhere", **options)
    assert (folder / "manifest.json").is_file()
