"""``jsarag serve-index``: search a run or an index folder over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from jsarag_cli.output import note


def serve_index(
    source: Annotated[Path, typer.Argument(metavar="RUN|INDEX", help="A run or index folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="0 picks a free one.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the bearer key; else JSARAG_API_KEY, if set.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow a public address without a key.")
    ] = False,
    allow_host: Annotated[
        list[str],
        typer.Option(
            metavar="NAME", help="A name this server is reached under, where it asks for no key."
        ),
    ] = [],  # noqa: B006 - typer copies it
    k: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most passages one query may ask for.")
    ] = 1000,
    compat: Annotated[
        list[str],
        typer.Option(metavar="SERVER", help="Offer its routes, too: search-r1 (/retrieve)."),
    ] = [],  # noqa: B006 - typer copies it
    name: Annotated[str | None, typer.Option(help="What answers call the index.")] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How to search: exact; certified (the same answers from int8, for more memory); "
            "faiss:FACTORY, such as faiss:HNSW32.",
        ),
    ] = "exact",
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: a run's own.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare vectors and texts on opening.")
    ] = True,
) -> None:
    """Serve search over HTTP, with a page to try it at /. SIGTERM drains, then ends with 0.

    While it is still loading, SIGTERM ends it with 0, and Ctrl-C with 130, at once. With
    JSARAG_ADMIN_KEY set, that key opens POST /v1/index/reload.
    """
    from jsarag.index.engines import check_engine
    from jsarag.serve.run import ending_while_loading

    check_engine(engine)
    with ending_while_loading():
        from jsarag.serve.app import create_app
        from jsarag.serve.run import serve
        from jsarag.serve.security import ADMIN_KEY_VARIABLE, check_bind, read_api_key
        from jsarag.serve.server import Limits
        from jsarag_cli.serving import open_engine

        key = read_api_key(os.environ, api_key_file)
        check_bind(host, key, insecure)  # before minutes of loading
        opened, own_name = open_engine(source, device, engine, note, check=verify)
        name = name or own_name
        app = create_app(
            opened.index,
            opened.encoder,
            opened.passages,
            name,
            api_key=key,
            limits=Limits(max_k=k),
            compat=compat,
            admin_key=read_api_key(os.environ, variable=ADMIN_KEY_VARIABLE),
            reload=lambda: open_engine(source, device, engine, note, check=verify)[0],
            hosts=[host, *allow_host],
        )
        guarded = "with a key" if key else "without a key"
        serve(
            app,
            host,
            port,
            insecure=insecure,
            on_listening=lambda url: note(f"serving '{name}' {guarded} at {url}"),
        )
