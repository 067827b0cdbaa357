"""Every file of a run, one after another, is cut short, flipped and removed: never in silence.

Opening (as eval, ask, export and serve do) or resuming must name the file, or come to the same
numbers as with the folder whole.
"""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jsarag.config.load import flag, resolve_run
from jsarag.errors import JsaragError
from jsarag.io.run_dir import RunDir
from jsarag.io.tensors import digest
from jsarag.runs import open_run
from jsarag.train.run import run_training
from jsarag_bench.end_to_end import toy_world

SETTINGS = {
    "objective.name": "wrag",  # keeps what was retrieved before training
    "objective.k": 3,
    "generator.model": "query-likelihood",
    "train.max_steps": 2,
    "train.keep_checkpoints": 1,
    "guards.evidence_every": 1,
    "eval.generation": False,
}
# Ruins the retriever: an earlier state is kept, and no further step is made.
WILD = {
    "train.held_back": 16,
    "train.learning_rate": 3.0,
    "train.warmup_steps": 0,
    "train.clip_norm": 100,
}
# Read when steps are made.
READ_BY_STEPS = ("evidence.json", "start.safetensors")
# (file, damage): why both may go on. 'any' damage may also be an error, which then names the file.
HARMLESS = {
    ("*COMPLETE", "cut"): "that the marker is there says all; its content is not read",
    ("*COMPLETE", "flipped"): "that the marker is there says all; its content is not read",
    ("*checkpoints/last", "gone"): "the newest checkpoint is opened, and that is said",
    ("eval/*/COMPLETE", "any"): "an evaluation's two files are read for themselves",
    (".lock", "any"): "an empty file that is locked; made again",
    ("env.json", "any"): "a record for people; written again by each start",
    ("events.log", "any"): "a log for people",
    ("report.html", "any"): "made of the other files at the end",
    ("plots/*", "any"): "made of the other files at the end",
    ("metrics.jsonl", "any"): "for reports and charts; what a run needs of it is in state.json",
    ("eval/dev/*", "any"): "a result, made again at the end; `jsarag eval` makes it at any time",
    ("eval/dev-before/predictions.jsonl", "any"): "for reports and comparisons, which name it",
    ("index/*/passages.*", "any"): "a run reads passages from its data; `index verify` reads these",
}


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {"cut": cut, "flipped": flipped, "gone": Path.unlink}


def opened(folder: Path) -> Any:
    """What eval, ask and serve work with."""
    run = open_run(folder)
    states = run.parts.retrievers.checkpoint_states()
    return (
        run.step,
        {name: digest(state) for name, state in states.items()},
        digest(
            {"vectors": run.parts.prior_index.embeddings, **run.parts.generator.checkpoint_state()}
        ),
    )


def resumed(folder: Path) -> Any:
    """What going on comes to; the first of two steps is followed by a check of the evidence."""
    resolved = resolve_run(
        file=RunDir(folder).check_config(),
        overrides=[
            flag("train.max_steps", "4", "test"),
            flag("output.output_dir", str(folder), ""),
        ],
        environment={},
    )
    result = run_training(resolved, resume=True)
    return result.steps, result.before, result.after, result.decision, opened(folder)


@pytest.fixture(scope="module")
def whole(
    toy_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Any, Any]]:
    """A run that keeps another state than its last, and what opening and resuming give."""
    folder, data = tmp_path_factory.mktemp("whole") / "run", tmp_path_factory.mktemp("easy")
    toy_world.write_data(data)
    for name in ("train", "dev"):  # questions in the notes' own words: there is something to lose
        path = data / f"{name}.jsonl"
        path.write_text(path.read_text(encoding="utf-8").replace("alias", "thing"), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jsarag.eval.plots.has_matplotlib", lambda: False)  # drawn after all reading
        toy_world.train(data, toy_encoder, folder, {**SETTINGS, **WILD})
        # Each copy is resumed under its own name; only the place differs.
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
        yield folder, opened(folder), resumed(copy)


def files_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def is_harmless(name: str, damage: str) -> bool:
    return any(
        fnmatch.fnmatch(name, pattern) and kind in (damage, "any") for pattern, kind in HARMLESS
    )


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_no_file_of_a_run_is_damaged_in_silence(
    whole: tuple[Path, Any, Any], tmp_path: Path, damage: str
) -> None:
    folder, right, next_right = whole
    names = files_of(folder)
    assert {"watch.json", "start.safetensors", "evidence.json", "probe.json"} <= set(names)
    assert any(name.startswith("kept/checkpoints/step-") for name in names)
    silent, wrong = [], []
    for name in (name for name in names if name not in READ_BY_STEPS):
        copy = tmp_path / name.replace("/", "-") / "run"
        shutil.copytree(folder, copy)
        DAMAGE[damage](copy / name)
        for act, expected in ((opened, right), (resumed, next_right)):
            try:
                found = act(copy)
            except JsaragError as error:
                if error.exit_code not in (3, 4) or str(copy / name) not in str(error):
                    wrong.append(f"{name}: {error}")
                break
            if found != expected:
                silent.append(f"{name}: {act.__name__} came to other numbers")
        else:
            if not is_harmless(name, damage):
                silent.append(f"{name}: nothing was said")
        shutil.rmtree(copy)
    assert "\n".join(silent) == ""
    assert "\n".join(wrong) == ""


@pytest.fixture(scope="module")
def going_on(
    toy_folder: Path, toy_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A run that can be continued."""
    folder = tmp_path_factory.mktemp("going-on") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jsarag.eval.plots.has_matplotlib", lambda: False)
        toy_world.train(toy_folder, toy_encoder, folder, SETTINGS)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READ_BY_STEPS)
def test_no_step_is_made_with_a_damaged_file(
    going_on: Path, tmp_path: Path, name: str, damage: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(going_on, copy)
    DAMAGE[damage](copy / name)
    with pytest.raises(JsaragError, match=name) as found:
        resumed(copy)
    assert found.value.exit_code == 4
    assert str(copy / name) in str(found.value)
