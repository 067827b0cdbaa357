"""``jsarag demo``: the shipped demonstration, before and after training, in about two minutes."""

from __future__ import annotations

from typing import Annotated

import typer

from jsarag_cli.output import duration, print_json, result_console
from jsarag_cli.settings import DEMO_FLAGS, Overrides, with_settings

_HEADLINE = ("R@1", "R@10", "MRR@10", "F1")


@with_settings(DEMO_FLAGS)
def demo(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    *,
    overrides: Overrides,
) -> None:
    """Train on a small made-up knowledge base and show what was learned.

    No label says which passage answers a question; the retriever finds out from the answers alone.
    """
    from jsarag.config.load import resolve_run
    from jsarag_cli.train import require_no_worse, run_reported

    resolved = resolve_run(dataset="demo", overrides=overrides)
    result = run_reported(resolved, quiet=quiet)
    if json:
        print_json({"before": result.before, "after": result.after, "seconds": result.seconds})
        require_no_worse(result)
        return
    from jsarag_cli.scores import comparison_table

    console = result_console()
    console.print(comparison_table(result.before, result.after, _HEADLINE))
    console.print(f"\n{duration(result.seconds)}; the run is in {result.run_dir}", markup=False)
    require_no_worse(result)
    console.print(f"Try: jsarag ask {result.run_dir} 'a question of your own'", markup=False)
