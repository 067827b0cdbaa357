"""``data build`` between its flags and the library: the encoder's limits, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsarag_cli.output import facts, note, result_console

if TYPE_CHECKING:
    from jsarag.data.building.build import BuildOptions, BuildReport

# A sixth of the limit is about one sentence.
_OVERLAP_SHARE = 6


def build_options(
    encoder: str | None,
    max_tokens: int | None,
    overlap_tokens: int | None,
    map_: str | None,
    dev_fraction: float,
    split_by: str,
    seed: int,
) -> BuildOptions:
    """The options of a build; limits that are not given come from the encoder and the defaults.

    Raises:
        ConfigError: a flag is wrong, or the encoder cannot read that much.
        BackendUnavailableError: the encoder is not there.
    """
    from jsarag.config.keys import nearest
    from jsarag.config.schema import RetrieverConfig
    from jsarag.data.building.build import BuildOptions
    from jsarag.data.building.splits import SPLIT_BY
    from jsarag.errors import ConfigError
    from jsarag.models.hub import load_config, load_tokenizer, position_limit

    defaults = RetrieverConfig()
    name = encoder or defaults.model
    by = next((known for known in SPLIT_BY if known == split_by), None)
    if by is None:
        close = nearest(split_by, SPLIT_BY)
        guess = f" (did you mean '{close}'?)" if close else ""
        raise ConfigError(
            f"flag --split-by: expected one of {', '.join(SPLIT_BY)}, got '{split_by}'{guess}"
        )
    if not 0 < dev_fraction < 1:
        raise ConfigError(
            f"flag --dev-fraction: expected a share above 0 and below 1, got {dev_fraction}"
        )
    tokenizer = load_tokenizer(name)
    reads = position_limit(load_config(name), tokenizer)
    if max_tokens is not None and max_tokens > reads:
        raise ConfigError(
            f"flag --max-tokens: {name} reads {reads} tokens, got {max_tokens}; the rest of a "
            "passage would never be seen"
        )
    limit = max_tokens or min(reads, defaults.max_passage_tokens)
    overlap = limit // _OVERLAP_SHARE if overlap_tokens is None else overlap_tokens
    if overlap > limit // 2:
        raise ConfigError(
            f"flag --overlap-tokens: expected at most half the limit of {limit} tokens, got "
            f"{overlap}"
        )
    return BuildOptions(
        tokenizer=tokenizer,
        encoder=name,
        max_tokens=limit,
        overlap_tokens=overlap,
        field_map=column_map(map_),
        dev_fraction=dev_fraction,
        split_by=by,
        seed=seed,
    )


def column_map(text: str | None) -> dict[str, str]:
    """``--map question=Frage,answer=Antwort`` as a dictionary; ``id=`` names no column.

    Raises:
        ConfigError: a pair without '='.
    """
    from jsarag.errors import ConfigError

    found = {}
    for pair in (text or "").split(","):
        role, equals, column = pair.partition("=")
        if not pair.strip():
            continue
        if not equals:
            raise ConfigError(
                f"flag --map: expected role=COLUMN,..., got '{pair.strip()}'; for example "
                "question=Frage,answer=Antwort"
            )
        found[role.strip()] = column.strip()
    return found


def run_build(
    places: Sequence[Path], questions: Path, output: Path, options: BuildOptions
) -> BuildReport:
    """Build, and note what needs a look."""
    from jsarag.data.building.build import build_dataset
    from jsarag.data.building.summary import remarks, warnings

    report = build_dataset(places, questions, output, options)
    for text in warnings(report):
        note(text, level="warning")
    for text in remarks(report):
        note(text)
    return report


def show_build(report: BuildReport) -> None:
    """What was made, and what to do next."""
    from jsarag.config.schema import Config
    from jsarag.data.building.summary import summary

    console = result_console()
    console.print(facts(summary(report)))
    settings = Config()
    limits = {
        "retriever.max_passage_tokens": settings.retriever.max_passage_tokens,
        "generator.max_passage_tokens": settings.generator.max_passage_tokens,
    }
    needed = "".join(
        f" --set {key}={report.max_tokens}"
        for key, limit in limits.items()
        if report.longest_tokens > limit
    )
    encoder = "" if report.encoder == settings.retriever.model else f" --retriever {report.encoder}"
    commands = (
        f"jsarag data check {report.target}",
        f"jsarag train --dataset {report.target}{encoder}{needed}",
    )
    console.print(f"\n{report.target}: written. Next:", markup=False)
    for command in commands:
        console.print(f"  {command}", markup=False, soft_wrap=True)
