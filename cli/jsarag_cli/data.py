"""``jsarag data``: list, check, convert and fetch data sets."""

from __future__ import annotations

import typer

app = typer.Typer(help="List, check, convert and fetch data sets.", no_args_is_help=True)
