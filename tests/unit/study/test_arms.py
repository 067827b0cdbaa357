"""Arms, seeds and budgets as they are written on a command line or in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from jsarag.em.objectives import objective_class, objective_names
from jsarag.errors import ConfigError, DataError
from jsarag.study.arms import (
    Arm,
    Study,
    objective_arm,
    parse_arm,
    parse_budget,
    parse_seeds,
    parse_tune,
    read_study,
)
from jsarag_bench import end_to_end

STUDIES = sorted((Path(end_to_end.__file__).parent / "studies").glob("*.yaml"))


def test_an_arm_is_read_from_text() -> None:
    arm = parse_arm("jsa-full: objective.name=jsa objective.mstep_passages=0")
    assert arm.name == "jsa-full"
    assert arm.settings == {"objective.name": "jsa", "objective.mstep_passages": "0"}
    assert [setting.key for setting in arm.overrides()] == list(arm.settings)
    for wrong in ("objective.name=jsa", ": objective.name=jsa"):
        with pytest.raises(ConfigError, match="NAME"):
            parse_arm(wrong)
    with pytest.raises(ConfigError, match="nothing"):
        parse_arm("a: objective.nothing=1")
    with pytest.raises(ConfigError, match=r"expected group\.key=value, found 'objective'"):
        parse_arm("a: objective")


@pytest.mark.parametrize("name", objective_names())
def test_an_objective_takes_a_support_it_has(name: str) -> None:
    settings = objective_arm(name).settings
    supports = objective_class(name).supports
    assert settings.get("objective.support", "union") in supports
    assert settings["objective.name"] == name


def test_seeds_are_counted_or_listed() -> None:
    assert parse_seeds("3") == [1, 2, 3]
    assert parse_seeds("7,2, 7") == [7, 2]
    assert parse_seeds("5,") == [5]
    for wrong in ("0", "", "a", "1,b", "-2", "1.5"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(wrong)


def test_a_budget_limits_every_arm_alike() -> None:
    assert parse_budget("steps=60") == {"train.max_steps": "60"}
    seconds = parse_budget("seconds=90")
    assert seconds["train.max_seconds"] == "90"
    assert int(seconds["train.max_steps"]) > 10_000
    work = parse_budget("generator-forwards=500")
    assert work["train.max_generator_forwards"] == "500"
    for wrong in ("60", "hours=1", "steps", "steps=many", "seconds=0"):
        with pytest.raises(ConfigError, match="steps=N, seconds=N, generator-forwards=N"):
            parse_budget(wrong)


def test_what_cannot_be_compared_is_refused_before_anything_runs() -> None:
    def study(*arms: Arm, against: tuple[str, ...] = ("frozen",)) -> Study:
        return Study("s", "demo", None, [1], arms, against=against)

    jsa = objective_arm("jsa")
    assert study(jsa).check() == study(jsa)
    with pytest.raises(ConfigError, match="twice"):
        study(jsa, jsa).check()
    with pytest.raises(ConfigError, match="reserved"):
        study(Arm("frozen")).check()
    for name in ("a/b", ".."):
        with pytest.raises(ConfigError, match="folder"):
            study(Arm(name)).check()
    with pytest.raises(ConfigError, match="found none"):
        study().check()
    test = Arm("a", {"eval.split": "test"})
    with pytest.raises(ConfigError, match=r"arm 'a': eval\.split: .* 'dev', found 'test'"):
        study(test).check()
    with pytest.raises(ConfigError, match=r"objective\.k"):
        study(Arm("a", {"objective.k": "few"})).check()
    with pytest.raises(ConfigError, match=r"expected one of jsa, frozen, bm25.*found no such arm"):
        study(jsa, against=("rag",)).check()


def test_an_arm_at_anothers_seconds_runs_after_it() -> None:
    jsa, rag = objective_arm("jsa"), objective_arm("rag")

    def study(*arms: Arm) -> Study:
        return Study("s", "demo", None, [1], arms)

    fair = Arm("fair", rag.settings, equal_seconds="jsa", pace_of="rag")
    assert study(jsa, rag, fair).check()
    with pytest.raises(ConfigError, match=r"arms\.fair\.pace_of: .* \(jsa\), found 'rag'"):
        study(jsa, fair, rag).check()
    with pytest.raises(ConfigError, match=r"pace_of: .* found None"):
        study(jsa, Arm("fair", equal_seconds="jsa")).check()
    with pytest.raises(ConfigError, match="none does"):
        study(Arm("fair", equal_seconds="frozen", pace_of="jsa"), jsa).check()


def test_a_study_may_name_one_of_what_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    head = "dataset: demo\narms: {jsa: {reason: it}, rag: {reason: other, settings: {}}}\n"
    path.write_text(f"{head}seeds: 3\nagainst: jsa\ncommon: {{train.freeze: [passages, prior]}}\n")
    study = read_study(path)
    assert study.seeds == [1, 2, 3]
    assert study.against == ["jsa"]
    assert study.common == {"train.freeze": "passages,prior"}
    path.write_text(f"{head}seeds: [3]\n")
    assert read_study(path).seeds == [3]
    (tmp_path / "demo").mkdir()
    assert read_study(path, tmp_path).dataset == str(tmp_path / "demo")
    assert read_study(path, tmp_path / "elsewhere").dataset == "demo"


def test_what_is_tuned_has_values_to_choose_from(tmp_path: Path) -> None:
    found = parse_tune(["train.learning_rate=1e-5, 2e-5", "objective.k=2,4"])
    assert found == {"train.learning_rate": ["1e-5", "2e-5"], "objective.k": ["2", "4"]}
    with pytest.raises(ConfigError, match=r"expected group\.key=A,B"):
        parse_tune(["fast"])

    def study(**tune: list[str]) -> Study:
        named = {f"train.{key}": values for key, values in tune.items()}
        return Study("s", "demo", None, [1], [objective_arm("jsa")], tune=named)

    assert study(learning_rate=["1e-5", "1e-4"]).check()
    with pytest.raises(ConfigError, match=r"--tune train\.learning_rate: expected two values"):
        study(learning_rate=["1e-5"]).check()
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        study(learning_rate=["1e-5", "fast"]).check()
    with pytest.raises(ConfigError, match=r"arm 'jsa' has train\.held_back 0"):
        study(held_back=["0", "8"]).check()
    path = tmp_path / "study.yaml"
    path.write_text(
        "dataset: demo\nseeds: 1\narms: {jsa: {reason: it}}\n"
        "tune: {train.learning_rate: [1.0e-5, 2e-5], train.schedule: [linear, constant]}\n"
    )
    assert read_study(path).tune == {
        "train.learning_rate": ["1e-05", "2e-5"],
        "train.schedule": ["linear", "constant"],
    }


def test_an_unknown_key_of_a_study_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("dataset: demo\nseeds: 1\narms: {jsa: {reason: it, setings: {}}}\n")
    with pytest.raises(DataError, match=r"study\.yaml: field 'arms\.jsa\.setings'"):
        read_study(path)
    path.write_text("dataset: demo\nseed: 1\narms: {jsa: {reason: it}}\n")
    with pytest.raises(DataError, match="field 'seed': expected one of dataset"):
        read_study(path)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_can_be_read(path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    assert all(arm.reason for arm in study.arms)


def test_a_study_without_arms_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for text in ("dataset: demo", "- 1", "arms: {a: {}}", "a: [", ""):
        path.write_text(text)
        with pytest.raises(DataError, match=r"study\.yaml: expected a study"):
            read_study(path)
    with pytest.raises(DataError, match="none"):
        read_study(tmp_path / "none.yaml")
