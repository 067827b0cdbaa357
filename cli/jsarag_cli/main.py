"""The ``jsarag`` command: its verbs, and the edge where errors become exit codes.

Exit codes: 0 fine, 1 our fault, 2 usage or configuration, 3 bad data, 4 environment, 5 does not fit
in memory, 6 stopped by a guard, 75 saved and pre-empted, 76 a process of several is gone, 130
Ctrl-C. Verbs parse, make one library
call and print; nothing heavy is imported before one runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli import (
    ask,
    bench,
    compare,
    data,
    demo,
    diagnose,
    doctor,
    evaluate,
    export,
    index,
    serve_index,
    train,
)
from jsarag_cli.output import leads, note

_CONTEXT = {
    # Options may be spelled with underscores, too.
    "help_option_names": ["--help", "-h"],
    "token_normalize_func": lambda token: token.replace("_", "-"),
    # typer coerces an absent --help from None to bool, and imports pydantic for it (40 ms).
    "default_map": {
        "help": False,
        "index": {"help": False},
        "data": {"help": False},
        "bench": {"help": False},
    },
}

app = typer.Typer(
    name="jsarag",
    help="Train retrieval-augmented generation end to end by joint stochastic approximation.",
    no_args_is_help=True,
    # Its options would be coerced on every call, and importing pydantic for that doubles --help.
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_CONTEXT,
)

_START, _RUNS, _SEARCH, _CHECKS = "Start here", "Runs", "Search", "Data and checks"
app.command("demo", rich_help_panel=_START)(demo.demo)
app.command("doctor", rich_help_panel=_START)(doctor.doctor)
app.command("train", rich_help_panel=_RUNS)(train.train)
app.command("eval", rich_help_panel=_RUNS)(evaluate.evaluate)
app.command("compare", rich_help_panel=_RUNS)(compare.compare)
app.command("diagnose", rich_help_panel=_RUNS)(diagnose.diagnose)
app.command("ask", rich_help_panel=_RUNS)(ask.ask)
app.command("export", rich_help_panel=_RUNS)(export.export)
app.add_typer(index.app, name="index", rich_help_panel=_SEARCH)
app.command("serve-index", rich_help_panel=_SEARCH)(serve_index.serve_index)
app.add_typer(data.app, name="data", rich_help_panel=_CHECKS)
app.add_typer(bench.app, name="bench", rich_help_panel=_CHECKS)


def _version(wanted: bool) -> None:
    if wanted:
        from jsarag import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
) -> None:
    """Train retrieval-augmented generation end to end by joint stochastic approximation."""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: without the program's name.

    Returns:
        The exit code; what went wrong stands on stderr.
    """
    from jsarag.errors import JsaragError, LostProcessError
    from jsarag.io.threads import set_thread_defaults

    set_thread_defaults(os.environ)
    arguments, debug = _without_debug(arguments)
    try:
        app(arguments, prog_name="jsarag")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code == 130 and leads():
            note("interrupted", level="warning")
        return code
    except JsaragError as error:
        if debug:
            import traceback

            traceback.print_exc()
        # Process 0 hears what the others fail of, and says it once; unless it is the one gone.
        if leads() or isinstance(error, LostProcessError):
            note(str(error), level="error")
        return error.exit_code
    except KeyboardInterrupt:
        if leads():
            note("interrupted", level="warning")
        return 130
    except Exception as error:  # noqa: BLE001 - the one place; all else has been named already
        from jsarag.io.faults import is_fault, storage_error

        if isinstance(error, OSError) and is_fault(error) and not debug:
            fault = storage_error(error.filename or "the working folder", error)
            note(str(fault), level="error")
            return fault.exit_code
        _report(error, debug)
        return 1
    return 0


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """``--debug`` may stand anywhere before a ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*kept, *arguments[end:]], len(kept) < end


def _report(error: Exception, debug: bool) -> None:
    import tempfile
    import traceback

    text = traceback.format_exc()
    if debug:
        sys.stderr.write(text)
        return
    from jsarag.io.atomic import write_text

    summary = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    with tempfile.NamedTemporaryFile(prefix="jsarag-", suffix=".log", delete=False) as file:
        path = Path(file.name)
    write_text(path, text)
    note(
        f"{summary}\nThis is a fault of jsarag, not yours. The traceback is in {path}; "
        "--debug shows it here",
        level="error",
    )


if __name__ == "__main__":
    main()
