"""``jsarag index``: build, import, change, export, rebuild, describe and verify an index folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from jsarag_cli.output import facts, note, print_json, result_console, size
from jsarag_cli.progress import make_reporter

app = typer.Typer(
    help="Build, import, change, rebuild, describe and verify an index.", no_args_is_help=True
)

_Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
_Index = Annotated[
    Path, typer.Argument(metavar="INDEX", help="Of `index build` or `index import`.")
]
_Rows = Annotated[
    Path, typer.Argument(metavar="ROWS", help="Passages: a JSON Lines file, as for `index build`.")
]
_Keep = Annotated[
    int, typer.Option(metavar="N", min=0, help="Generations before the new one that stay.")
]
_BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Passages per forward pass.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Output = Annotated[Path, typer.Option(help="The index folder to write.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace an earlier index.")]
_Pooling = Annotated[str, typer.Option(help="auto, mean, cls or last.")]
_QueryPrefix = Annotated[
    str | None, typer.Option(help="Before every query, e.g. 'query: '; default: none.")
]
_QueryTokens = Annotated[
    int | None, typer.Option(metavar="N", min=8, help="Tokens read of a query; default: 128.")
]
_Folder = Annotated[Path, typer.Argument(metavar="INDEX|RUN", help="An index, or a run's.")]


@app.command()
def build(
    kb: Annotated[Path, typer.Option(help="Passages: a JSON Lines file with id, text, title.")],
    output: _Output,
    encoder: Annotated[str, typer.Option(help="minilm, a folder, a hub id, or a run.")] = "minilm",
    dtype: Annotated[str, typer.Option(help="f32, bf16 or f16.")] = "f32",
    pooling: _Pooling = "auto",
    query_prefix: _QueryPrefix = None,
    passage_prefix: Annotated[
        str | None, typer.Option(help="Before every passage; default: none.")
    ] = None,
    max_passage_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=8, help="Tokens read of a passage; default: 160."),
    ] = None,
    max_context_tokens: _QueryTokens = None,
    batch_size: _BatchSize = 64,
    device: _Device = "auto",
    force: _Force = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Embed a knowledge base and write an index folder.

    With a run as --encoder its passage encoder embeds, its prior reads the queries, and the
    settings are the run's.
    """
    from jsarag_cli.indexing import EncoderChoice, build_folder, require_free

    require_free(output, force=force)  # before minutes of embedding
    choice = EncoderChoice(
        encoder, pooling, query_prefix, passage_prefix, max_context_tokens, max_passage_tokens
    )
    with make_reporter(quiet=quiet) as reporter:
        build_folder(
            kb, choice, output, dtype=dtype, batch_size=batch_size, device=device, reporter=reporter
        )
    info(output, json=json)


@app.command("import")
def import_(
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="A .npy, .parquet or .faiss file.")
    ],
    kb: Annotated[Path, typer.Option(help="Their passages, as for `index build`.")],
    output: _Output,
    encoder: Annotated[
        str, typer.Option(help="What they were made with: minilm, a folder, a hub id, a run.")
    ] = "minilm",
    ids: Annotated[
        Path | None,
        typer.Option(help="The passage of every vector, one id a line; default: the kb's order."),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Parquet's column of ids; default: id.")
    ] = None,
    vector_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of vectors; default: vector, embedding.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="f32, bf16 or f16, as stored here.")] = "f32",
    pooling: _Pooling = "auto",
    query_prefix: _QueryPrefix = None,
    passage_prefix: Annotated[
        str | None, typer.Option(help="What stood before every passage; default: none.")
    ] = None,
    max_passage_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=8, help="Tokens that were read of a passage; default: 160."),
    ] = None,
    max_context_tokens: _QueryTokens = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=4, help="Passages embedded again, as a proof.")
    ] = 32,
    device: _Device = "auto",
    force: _Force = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Make an index of vectors you have: only a sample is embedded again, to prove them.

    Training uses them with `jsarag train --index DIR`; docs/your-vectors.md.
    """
    from jsarag_cli.importing import import_folder
    from jsarag_cli.indexing import EncoderChoice, require_free

    require_free(output, force=force)
    choice = EncoderChoice(
        encoder, pooling, query_prefix, passage_prefix, max_context_tokens, max_passage_tokens
    )
    with make_reporter(quiet=quiet) as reporter:
        import_folder(
            vectors,
            kb,
            choice,
            output,
            ids_path=ids,
            id_column=id_column,
            vector_column=vector_column,
            dtype=dtype,
            samples=samples,
            device=device,
            reporter=reporter,
        )
    info(output, json=json)


@app.command()
def insert(
    folder: _Index,
    rows: _Rows,
    keep: _Keep = 1,
    batch_size: _BatchSize = 64,
    device: _Device = "auto",
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Add passages; only they are embedded. Ids that are there already are an error."""
    _change(folder, "insert", rows, keep, batch_size, device, json=json, quiet=quiet)


@app.command()
def update(
    folder: _Index,
    rows: _Rows,
    keep: _Keep = 1,
    batch_size: _BatchSize = 64,
    device: _Device = "auto",
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Replace passages of the same ids; only texts that differ are embedded."""
    _change(folder, "update", rows, keep, batch_size, device, json=json, quiet=quiet)


@app.command()
def delete(
    folder: _Index,
    ids: Annotated[
        Path, typer.Argument(metavar="IDS", help="One id a line, or a JSON Lines file with ids.")
    ],
    keep: _Keep = 1,
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Take passages out; nothing is embedded."""
    _change(folder, "delete", ids, keep, 64, "cpu", json=json, quiet=quiet)


def _change(
    folder: Path,
    operation: Literal["insert", "update", "delete"],
    file: Path,
    keep: int,
    batch_size: int,
    device: str,
    *,
    json: bool,
    quiet: bool,
) -> None:
    from jsarag_cli.changing import change_folder

    with make_reporter(quiet=quiet) as reporter:
        change_folder(
            folder,
            operation,
            file,
            keep=keep,
            batch_size=batch_size,
            device=device,
            reporter=reporter,
        )
    info(folder, json=json)


@app.command()
def rebuild(
    folder: Annotated[Path, typer.Argument(metavar="RUN|INDEX", help="A run or index folder.")],
    output: Annotated[
        Path | None, typer.Option(help="Of a run: write it here instead of into the run.")
    ] = None,
    keep: _Keep = 1,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: a run's own.")
    ] = None,
    json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Embed all passages anew: a run's by its last checkpoint, an index's as a new generation."""
    from jsarag.index.generations import is_index
    from jsarag_cli.changing import rebuild_folder
    from jsarag_cli.indexing import rebuild_run

    with make_reporter(quiet=quiet) as reporter:
        if not is_index(folder):
            folder = rebuild_run(folder, output=output, device=device, reporter=reporter)
        elif output is None:
            rebuild_folder(folder, keep=keep, device=device or "auto", reporter=reporter)
        else:
            raise typer.BadParameter(
                "an index gets a new generation in its own folder; leave it out, or use "
                "`jsarag index build` for another folder",
                param_hint="--output",
            )
    info(folder, json=json)


@app.command()
def export(
    folder: _Folder,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The file to write.")],
    to: Annotated[str, typer.Option(help="npy, parquet or faiss.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier file.")] = False,
    json: _Json = False,
) -> None:
    """Write the vectors for other tools, with their ids."""
    from jsarag.errors import ConfigError
    from jsarag.index.exporting import export_index
    from jsarag_cli.indexing import index_of

    if dest.exists() and not force:
        raise ConfigError(f"{dest}: a file lies there already; replace it with --force")
    files = export_index(index_of(folder), dest, to)
    if json:
        print_json({"files": [str(path) for path in files]})
    else:
        result_console().print("\n".join(map(str, files)), soft_wrap=True, highlight=False)


@app.command()
def info(folder: _Folder, json: _Json = False) -> None:
    """What an index folder holds, and of which encoder."""
    from jsarag_cli.indexing import describe, index_of

    folder = index_of(folder)
    record = describe(folder)
    if json:
        print_json(record)
        return
    encoder = record["encoder"]
    rows = {
        "index": folder,
        "passages": f"{record['count']:,}",
        "vectors": f"{record['width']} numbers each, {record['dtype']}",
        "generation": _generations(record["generations"]),
        "on disk": f"{size(record['bytes'])} in {record['files']} files",
        "encoder": encoder.get("model", "unknown"),
        "pooling": f"{encoder.get('pooling')}, "
        f"{'' if encoder.get('normalise') else 'not '}normalised",
        "prefixes": f"query {encoder.get('query_prefix', '')!r}, "
        f"passage {encoder.get('passage_prefix', '')!r}",
        "reads": f"{encoder.get('max_passage_tokens')} tokens of a passage, "
        f"{encoder.get('max_query_tokens')} of a query",
        "weights": str(encoder.get("weights_digest", ""))[:16],
        "made": f"{record['created']} by jsarag {record['jsarag']}",
    }
    result_console().print(facts(rows))


def _generations(rows: list[dict[str, Any]]) -> str:
    """The one in use and what made it, then those that are kept."""
    *kept, used = rows
    change = used["change"]
    text = str(used["generation"])
    if change is not None:
        text += f" ({change['operation']} of {change['rows']:,}, {change['embedded']:,} embedded)"
    if kept:
        text += f"; kept: {', '.join(str(one['generation']) for one in kept)}"
    return text


@app.command()
def verify(
    folder: _Folder,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte and embed 16 passages again.")
    ] = False,
    json: _Json = False,
) -> None:
    """Is the folder what its manifest says? Ends with 4 where it is not."""
    from jsarag_cli.indexing import find_problems, index_of

    folder = index_of(folder)
    problems = find_problems(folder, deep=deep)
    if json:
        print_json({"index": str(folder), "sound": not problems, "problems": problems})
    else:
        for problem in problems:
            note(problem, level="error")
        if not problems:
            result_console().print(f"{folder} is sound" + (", to the last byte" if deep else ""))
    if problems:
        raise typer.Exit(4)
