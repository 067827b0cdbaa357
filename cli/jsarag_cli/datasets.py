"""Data sets as the ``data`` verbs need them: what is known, how one is loaded, what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from jsarag_cli.output import facts, table

if TYPE_CHECKING:
    from jsarag.data.check import CheckReport
    from jsarag.data.registry import Dataset
    from jsarag.limits import Cut
    from jsarag.train.reporting import Reporter

_MIB = 2**20


def known_datasets() -> list[dict[str, Any]]:
    """Every data set by name: title, files, source, recipe; JSON types."""
    from jsarag.config.recipes import list_recipes
    from jsarag.data.formats import all_formats

    recipes = set(list_recipes())
    found: list[dict[str, Any]] = [
        {
            "name": "demo",
            "title": "made on the spot, needs no files",
            "files": [],
            "source": "",
            "splits": ["train", "dev"],
        }
    ]
    for format_ in all_formats().values():
        files = [
            {"name": need.name, "holds": need.holds, "optional": need.optional}
            for need in format_.files
        ]
        found.append(
            {
                "name": format_.name,
                "title": format_.title,
                "files": files,
                "source": format_.source,
                "splits": list(format_.splits),
            }
        )
    return [{**entry, "recipe": entry["name"] in recipes} for entry in found]


def _recipe_names() -> list[str]:
    from jsarag.config.recipes import list_recipes

    return list_recipes()


def show_datasets(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Names with titles and files."""
    made = table("name", "recipe", "data set", "files")
    for entry in found:
        files = ", ".join(
            file["name"] + (" (optional)" if file["optional"] else "") for file in entry["files"]
        )
        made.add_row(entry["name"], "yes" if entry["recipe"] else "", entry["title"], files)
    console.print(made)
    console.print(
        "\nAny folder with kb.jsonl and train.jsonl is a data set, too: --dataset FOLDER",
        style="dim",
    )
    others = sorted(set(_recipe_names()) - {entry["name"] for entry in found})
    console.print(
        f"Recipes for other folders: {', '.join(others)} (`jsarag train --list-recipes`)",
        style="dim",
        markup=False,
    )


def known_recipes() -> list[dict[str, str]]:
    """Every shipped recipe: name, models, and what it is for and wants; JSON types."""
    from jsarag.config.load import resolve
    from jsarag.config.recipes import list_recipes, recipe_header

    found = []
    for name in list_recipes():
        config = resolve(recipe=name, environment={}).config
        found.append(
            {
                "name": name,
                "retriever": config.retriever.model,
                "generator": config.generator.model,
                "about": recipe_header(name),
            }
        )
    return found


def show_recipes(found: Sequence[Mapping[str, str]], console: Console) -> None:
    """Names with models, and what each is for."""
    made = table("recipe", "retriever", "generator", "for")
    for entry in found:
        made.add_row(*(Text(entry[key]) for key in ("name", "retriever", "generator", "about")))
    console.print(made)
    console.print(
        "\ntrain --dataset FOLDER --recipe NAME takes a recipe's settings for your data",
        style="dim",
    )


def parse_map(text: str | None) -> dict[str, str]:
    """``--map ours=theirs,...`` as a dictionary, with the messages of the setting.

    Raises:
        ConfigError: a pair without '='.
    """
    if text is None:
        return {}
    from jsarag.config.load import flag

    return dict(flag("data.map", text, "flag --map").value)


def load_all(
    dataset: str,
    format_name: str | None,
    *,
    data_dir: Path | None,
    field_map: Mapping[str, str],
    splits: Sequence[str],
) -> Dataset:
    """A data set with the splits asked for, or all it has.

    Args:
        dataset: a folder or a name.
        format_name: read the folder as this official format.
        data_dir, field_map: as for ``load_dataset``.
        splits: empty for all.

    Raises:
        DataError: it cannot be read, or lacks a split that was asked for.
    """
    from jsarag.data.formats import get_format
    from jsarag.data.registry import load_dataset, read_format

    if format_name is not None:
        format_, folder = get_format(format_name), Path(dataset).expanduser()

        def read(wanted: Sequence[str]) -> Dataset:
            return read_format(format_, folder, field_map=field_map, splits=wanted)
    else:

        def read(wanted: Sequence[str]) -> Dataset:
            return load_dataset(dataset, data_dir=data_dir, field_map=field_map, splits=wanted)

    return read(splits or _present(read))


def _present(read: Callable[[Sequence[str]], Dataset]) -> list[str]:
    """The splits that can be read; without any, 'train', so that reading it says why."""
    from jsarag.data.registry import SPLITS
    from jsarag.errors import DataError

    found = []
    for split in SPLITS:
        try:
            read((split,))
        except DataError:
            continue
        found.append(split)
    return found or [SPLITS[0]]


def show_check(report: CheckReport, console: Console) -> None:
    """What ``data check`` found."""
    count = report.problem_count
    verdict = "fine" if report.ok else f"{count:,} problem{'s' if count > 1 else ''}"
    console.print(
        Text.assemble(
            (report.name, "bold"), "  ", (verdict, "bold green" if report.ok else "bold red")
        )
    )
    if report.kb is not None:
        kb, words = report.kb, report.kb.words
        rows = {
            "passages": f"{kb.passages:,} ({kb.without_title:,} without title)",
            "their words": f"median {words.median}, 95 % {words.p95}, most {words.longest}",
            "nearly alike": f"{kb.near_duplicates:,}",
        }
        console.print(facts(rows))
    if report.splits:
        console.print()
        _show_splits(report, console)
    for problem in report.problems:
        console.print(Text.assemble(("error: ", "bold red"), str(problem)), soft_wrap=True)
    hidden = report.problem_count - len(report.problems)
    if hidden > 0:
        console.print(f"and {hidden:,} more problems (--max-problems shows more)", style="dim")
    for text in report.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)
    for pair in report.kb.near_examples if report.kb is not None else ():
        console.print(
            Text.assemble(
                ("nearly alike ", "cyan"),
                f"({pair.similarity:.0%} of their word pairs): {pair.earlier} and {pair.later}\n",
                (f"  {' '.join(pair.earlier_text.split())}\n", "dim"),
                (f"  {' '.join(pair.later_text.split())}", "dim"),
            ),
            soft_wrap=True,
        )
    for text in report.notes:
        console.print(Text.assemble(("note: ", "cyan"), text), soft_wrap=True)


def measure_limits(
    dataset: str,
    report: CheckReport,
    *,
    encoder: str | None,
    generator: str | None,
    recipe: str | None,
) -> list[Cut]:
    """What the token limits of a run on this data would cut; nothing where nothing was read.

    A model that is not there is noted, and takes only this part of a check away.

    Raises:
        ConfigError: the recipe is unknown.
    """
    from jsarag.config.load import flag, resolve_run
    from jsarag.errors import BackendUnavailableError
    from jsarag.fitting import fit_limits
    from jsarag.limits import measure_examples, measure_passages
    from jsarag_cli.output import note

    given = {"retriever.model": ("encoder", encoder), "generator.model": ("generator", generator)}
    overrides = [
        flag(key, value, f"flag --{name}") for key, (name, value) in given.items() if value
    ]
    resolved = resolve_run(dataset=dataset, recipe=recipe, overrides=overrides)
    if report.data is None:
        return []
    examples = [row for rows in report.data.splits.values() for row in rows]
    try:
        config = fit_limits(resolved, report.data.kb.passages).config
        passages = measure_passages(config, report.data.kb.passages)
        return [*passages, *measure_examples(config, examples)]
    except BackendUnavailableError as error:
        note(f"what the token limits cut was not measured: {error}", level="warning")
        return []


def show_limits(cuts: Sequence[Cut], console: Console) -> None:
    """What the token limits cut, a warning each; one line where they cut nothing."""
    found = [cut for cut in cuts if cut.texts_cut]
    for cut in found:
        console.print(Text.assemble(("warning: ", "yellow"), cut.describe()), soft_wrap=True)
    if cuts and not found:
        console.print("no text is longer than the token limits of training", style="dim")


def _show_splits(report: CheckReport, console: Console) -> None:
    made = table("", *report.splits, numbers=range(1, 1 + len(report.splits)))
    rows: dict[str, Callable[[Any], str]] = {
        "rows": lambda split: f"{split.rows:,}",
        "dialogues": lambda split: f"{split.dialogues:,}",
        "with gold passages": lambda split: f"{1 - split.gold_missing_share:.0%}",
        "gold passages per row": lambda split: f"{split.gold_per_row:.2f}",
        "answer word for word in gold": lambda split: f"{split.gold_answer_share:.0%}",
        "gold also gold in train": lambda split: f"{split.gold_in_train_share:.0%}",
        "repeated rows": lambda split: f"{split.repeated_rows:,}",
        "contexts also in train": lambda split: f"{split.asked_in_train:,}",
        "those with an answer of train": lambda split: f"{split.answered_in_train:,}",
        "context words (median, 95 %)": lambda split: (
            f"{split.context_words.median}, {split.context_words.p95}"
        ),
        "response words (median, 95 %)": lambda split: (
            f"{split.response_words.median}, {split.response_words.p95}"
        ),
    }
    for name, shown in rows.items():
        made.add_row(name, *(shown(split) for split in report.splits.values()))
    console.print(made)


def told_in_mib(reporter: Reporter) -> Callable[[int, int | None], None]:
    """A (bytes, bytes in all) callback as one stage counted in MiB."""
    started = False

    def tell(done: int, total: int | None) -> None:
        nonlocal started
        if not started:
            started = True
            reporter.stage("fetch (MiB)", None if total is None else -(-total // _MIB))
        reporter.advance(done // _MIB)

    return tell
