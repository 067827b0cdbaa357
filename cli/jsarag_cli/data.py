"""``jsarag data``: build, list, check, convert and fetch data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli.output import note, print_json, result_console, size
from jsarag_cli.progress import make_reporter

app = typer.Typer(help="Build, list, check, convert and fetch data sets.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_Map = Annotated[
    str | None,
    typer.Option("--map", metavar="OURS=THEIRS,...", help="Rename columns, e.g. answers=Answer."),
]
_Splits = Annotated[
    list[str], typer.Option("--split", help="Only this split; repeatable. Default: all there are.")
]


@app.command()
def build(
    documents: Annotated[
        list[Path], typer.Argument(metavar="DOCS...", help="Folders and files of documents.")
    ],
    questions: Annotated[
        Path, typer.Option(metavar="FILE", help="A table of questions: CSV, TSV, XLSX, JSONL.")
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="The data set to write.")],
    map_: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="ROLE=COLUMN,...",
            help="Columns of question, answer, id, conversation, source; guessed by name.",
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose tokens are counted. Default: minilm.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=24, help="Of a passage. Default: what training reads."),
    ] = None,
    overlap_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Repeated by the next. Default: a sixth of that."),
    ] = None,
    dev_fraction: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the questions, for dev.")
    ] = 0.2,
    split_by: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="Rows that share it stay together: auto, source, conversation, answer, question.",
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(metavar="N", help="Chooses the rows of dev.")] = 0,
    json: _Json = False,
) -> None:
    """Make a data set of documents and a table of questions. Ends with 3 if nothing can be read."""
    from jsarag_cli.building import build_options, run_build, show_build

    options = build_options(encoder, max_tokens, overlap_tokens, map_, dev_fraction, split_by, seed)
    report = run_build(documents, questions, output, options)
    if json:
        print_json(report.as_dict())
    else:
        show_build(report)


@app.command("list")
def list_(json: _Json = False) -> None:
    """The data sets this package reads, their files, and which have a recipe."""
    from jsarag_cli.datasets import known_datasets, show_datasets

    found = known_datasets()
    if json:
        print_json({"datasets": found})
    else:
        show_datasets(found, result_console())


@app.command()
def check(
    dataset: Annotated[str, typer.Argument(help="A folder, or a name with --data-dir.")],
    data_dir: Annotated[Path | None, typer.Option(help="Official files of a data set.")] = None,
    map_: _Map = None,
    splits: _Splits = [],  # noqa: B006 - typer copies it
    max_problems: Annotated[int, typer.Option(metavar="N", min=1, help="Problems to show.")] = 20,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose token limits apply.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose token limits apply.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The shipped recipe whose models and limits apply.")
    ] = None,
    json: _Json = False,
) -> None:
    """Read a data set to its end and report what is wrong with it. Ends with 3 if anything is.

    Says, too, how much of it the token limits of training would cut.
    """
    from jsarag.data.check import check_dataset
    from jsarag_cli.datasets import measure_limits, parse_map, show_check, show_limits

    report = check_dataset(
        dataset,
        data_dir=data_dir,
        field_map=parse_map(map_),
        splits=splits or None,
        max_problems=max_problems,
    )
    limits = measure_limits(dataset, report, encoder=encoder, generator=generator, recipe=recipe)
    if json:
        print_json({**report.as_dict(), "limits": [cut.as_dict() for cut in limits]})
    else:
        show_check(report, result_console())
        show_limits(limits, result_console())
    if not report.ok:
        raise typer.Exit(3)


@app.command()
def convert(
    dataset: Annotated[str, typer.Argument(help="A folder, or a name with --data-dir.")],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="Read the folder as this format (`data list`).")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Official files of a data set.")] = None,
    map_: _Map = None,
    splits: _Splits = [],  # noqa: B006 - typer copies it
    dev_fraction: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Cut a dev split off the training rows."),
    ] = None,
    json: _Json = False,
) -> None:
    """Write a data set as a folder with kb.jsonl and train.jsonl, dev.jsonl, test.jsonl."""
    from jsarag.data.convert import convert as write_folder
    from jsarag_cli.datasets import load_all, parse_map

    loaded = load_all(dataset, format_, data_dir=data_dir, field_map=parse_map(map_), splits=splits)
    if dev_fraction is not None:
        from jsarag.data.building.splits import cut_dev

        loaded = cut_dev(loaded, dev_fraction)
    for text in loaded.notes:
        note(text)
    written = write_folder(loaded, target)
    if json:
        print_json({"folder": str(target), "rows": written})
        return
    counts = ", ".join(f"{count:,} rows in {name}" for name, count in written.items())
    result_console().print(f"{target}: {counts}", markup=False, soft_wrap=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The data set (`data list`).")],
    url: Annotated[
        str | None, typer.Option(help="Address of one file; the package ships none.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Where to; default: data/NAME in this folder.")
    ] = None,
    file_name: Annotated[str | None, typer.Option(help="Default: the address's last part.")] = None,
    json: _Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Download one published file; what was interrupted continues, what is there is verified."""
    from jsarag.data.fetch import fetch as download
    from jsarag_cli.datasets import told_in_mib

    folder = output_dir or Path("data") / name
    with make_reporter(quiet=quiet) as reporter:
        got = download(name, folder, url, file_name=file_name, progress=told_in_mib(reporter))
    if json:
        print_json(
            {
                "path": str(got.path),
                "bytes": got.bytes,
                "sha256": got.sha256,
                "downloaded": got.downloaded,
                "first": got.first,
            }
        )
        return
    how = "fetched" if got.downloaded else "was there already and is whole"
    result_console().print(f"{got.path} {how}, {size(got.bytes)}, sha256 {got.sha256}")
    if got.first:
        note("its digest was recorded now; nothing but this download vouches for it")
