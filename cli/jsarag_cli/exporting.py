"""Opens the run that is exported, asks a server of it, and shows what was compared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from jsarag_cli.output import note_choice, table

if TYPE_CHECKING:
    from fastapi import FastAPI
    from torch import Tensor

    from jsarag.export.request import Embed, Request
    from jsarag.export.write import Exported
    from jsarag.runs import OpenRun
    from jsarag.train.reporting import Reporter

_ROUTE = "/v1/embeddings"
# The application is asked without a socket; a key of its own keeps JSARAG_API_KEY out of it.
_KEY = "export"


def export_run(
    run: Path, dest: Path, request: Request, *, device: str | None, reporter: Reporter
) -> Exported:
    """Open a run and export it; what cannot work is refused before anything is loaded.

    Raises:
        CheckpointError: no run. ConfigError: a part the run does not have, or a taken folder.
        ExportMismatchError: the result differs from the trainer.
    """
    from jsarag.config.load import load_run_config
    from jsarag.export.folder import require_free
    from jsarag.export.write import export
    from jsarag.io.run_dir import RunDir
    from jsarag.runs import open_run

    run_dir = RunDir(run)
    run_dir.identity()
    config = load_run_config(run_dir.check_config()).config
    request.check(config)
    require_free(dest, force=request.force)
    reporter.stage("open run", None)
    opened = open_run(run, device=device)
    note_choice(opened)
    reporter.stage(f"export to {request.to}", None)
    serves = request.verify and request.to == "sentence-transformers"
    return export(opened, dest, request, served=server_of(opened) if serves else None)


def server_of(opened: OpenRun) -> Embed | None:
    """What the search server of a run answers on its embeddings route; None without its extra."""
    if find_spec("fastapi") is None:
        return None
    from jsarag.serve.app import create_app
    from jsarag.serve.server import Limits

    parts = opened.parts
    app = create_app(
        parts.prior_index,
        parts.retrievers.prior,
        parts.dataset.kb,
        opened.run_dir.path.name,
        api_key=_KEY,
        limits=Limits(max_query_chars=1 << 20),
    )

    def embed(texts: Sequence[str]) -> Tensor:
        import torch

        answer = asyncio.run(_post(app, {"input": list(texts)}))
        return torch.tensor([row["embedding"] for row in answer["data"]], dtype=torch.float32)

    return embed


async def _post(app: FastAPI, body: Mapping[str, Any]) -> dict[str, Any]:
    """One request to the application as a web server would hand it over, without a socket."""
    content = json.dumps(body).encode()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": _ROUTE,
        "raw_path": _ROUTE.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {_KEY}".encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    answer: dict[str, Any] = json.loads(b"".join(one.get("body", b"") for one in sent))
    return answer


def check_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    """Comparisons as a table: what, the number, what it must be."""
    made = table("compared", "number", "found", "limit", "of", "", numbers=(2, 3, 4))
    for one in checks:
        limit = one["limit"]
        verdict = ("shown only", "dim") if limit is None else ("same", "green")
        if not one["passed"]:
            verdict = ("DIFFERS", "bold red")
        made.add_row(
            one["what"],
            one["measure"],
            f"{one['value']:.9g}",
            "-" if limit is None else f"{limit:g}",
            f"{one['count']:,}",
            Text(*verdict),
        )
    return made
