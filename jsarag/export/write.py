"""One export from an opened run: check, write, card, verify; then, and only then, in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jsarag.errors import ConfigError, ExportMismatchError
from jsarag.export import part_cards
from jsarag.export.card import Facts, facts_of
from jsarag.export.folder import export_folder, require_free
from jsarag.export.generator import language_model, write_generator
from jsarag.export.request import Embed, Request, TrainedRun, trains_posterior
from jsarag.export.sentence_transformers import parts_to_write, role_of, write_encoder
from jsarag.export.silver import SPLIT, Count, Label, Progress, silver_labels
from jsarag.export.silver_formats import WRITERS, write_labels
from jsarag.export.verify import (
    Check,
    require_sentence_transformers,
    verify_encoder,
    verify_generator,
    verify_silver,
)
from jsarag.models.hf_generator import HFGenerator
from jsarag.models.prompts import passage_text, render_context
from jsarag.models.retrievers import PartName
from jsarag.types import Example, GeneratorInput

TEXTS = 64
PAIRS = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        dest: the folder.
        to: the target.
        parts: what it holds; for silver labels the shape.
        checks: every comparison made; None where none was asked for.
        notes: what was left out, and why.
    """

    dest: Path
    to: str
    parts: tuple[str, ...]
    checks: tuple[Check, ...] | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON types; ``verified`` is None where nothing was compared."""
        return {
            "export": str(self.dest),
            "to": self.to,
            "parts": list(self.parts),
            "verified": None if self.checks is None else all(one.passed for one in self.checks),
            "checks": [one.to_json() for one in self.checks or ()],
            "notes": list(self.notes),
        }


def export(
    run: TrainedRun,
    dest: Path | str,
    request: Request,
    *,
    served: Embed | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write parts of a run for other tools.

    Args:
        run: opened, in evaluation mode.
        dest: the folder; it appears when everything is written and, where asked for, verified.
        request: what and how.
        served: what the search server answers for texts; compared with the prior's export.
        progress: told about examples labelled.

    Raises:
        ConfigError: the run has no such part, or ``dest`` holds something else.
        ExportMismatchError: the result, loaded in the foreign tool, gives other numbers.
        BackendUnavailableError: ``verify`` needs a package that is not installed.
    """
    dest = Path(dest)
    request.check(run.config)
    require_free(dest, force=request.force)
    if request.verify and request.to == "sentence-transformers":
        require_sentence_transformers()
    facts = facts_of(run)
    with export_folder(dest, _about(facts, request), force=request.force) as folder:
        if request.to == "sentence-transformers":
            done = _write_encoders(run, folder, request, facts, served)
        elif request.to == "hf":
            done = _write_generator(run, folder, request, facts)
        else:
            done = _write_silver(run, folder, request, facts, progress)
        failed = [one for one in done.checks or () if not one.passed]
        if failed:
            raise ExportMismatchError(
                f"{dest}: not written, since the export differs from the trainer: "
                + "; ".join(
                    f"{one.what}: {one.measure} {one.value:.9g}, expected {one.limit:g}"
                    for one in failed
                ),
                [one.to_json() for one in done.checks or ()],
            )
    return Exported(dest, done.to, done.parts, done.checks, done.notes)


def _about(facts: Facts, request: Request) -> dict[str, Any]:
    return {
        "to": request.to,
        "part": request.part,
        "adapter": request.adapter,
        "format": request.format,
        "run": facts.run,
        "step": facts.step,
        "dataset_digest": facts.digest,
    }


def _write_encoders(
    run: TrainedRun, folder: Path, request: Request, facts: Facts, served: Embed | None
) -> Exported:
    retrievers = run.parts.retrievers
    parts = parts_to_write(retrievers, request.part, posterior=trains_posterior(run.config))
    checks: list[Check] = []
    for name in parts:
        place = folder
        if request.part is None:
            place = folder / name.replace("_", "-")
            place.mkdir()
        encoder = retrievers.parts()[name]
        write_encoder(encoder, role_of(name), place)
        part_cards.write_encoder_card(place, facts, retrievers, name)
        if request.verify:
            texts, others = _compared(run, name, served)
            checks += verify_encoder(place, name, encoder, texts, others)
    if request.part is None:
        part_cards.write_encoders_card(folder, facts, parts)
    found = tuple(checks) if request.verify else None
    notes: tuple[str, ...] = ()
    if request.verify and served is None and "prior" in parts:
        notes = ("the server was not compared: it needs `pip install 'jsarag[serve]'`",)
    return Exported(folder, request.to, tuple(parts), found, notes)


def _compared(
    run: TrainedRun, part: PartName, served: Embed | None
) -> tuple[list[str], dict[str, Tensor]]:
    """Texts for a part to encode, and what the index or the server has for them."""
    parts, data = run.parts, run.config.data
    kb = parts.dataset.kb
    if role_of(part) == "passage":
        rows = _spread(len(kb), TEXTS)
        index = parts.posterior_index if part == "posterior_passages" else parts.prior_index
        where = torch.tensor(rows, dtype=torch.int64, device=index.embeddings.device)
        stored = index.embeddings[where]
        return [passage_text(kb[row]) for row in rows], {"index": stored}
    examples = _examples(run, TEXTS)
    if part == "posterior":
        return parts.retrievers.posterior_texts(examples, data.posterior_turns), {}
    texts = [render_context(example, data.context_turns) for example in examples]
    return texts, {} if served is None else {"server": served(texts)}


def _write_generator(run: TrainedRun, folder: Path, request: Request, facts: Facts) -> Exported:
    generator = language_model(run.parts.generator)
    write_generator(generator, folder, adapter=request.adapter)
    part_cards.write_generator_card(folder, facts, generator, adapter=request.adapter)
    checks = None
    if request.verify:
        pairs = _pairs(run, generator)
        checks = tuple(verify_generator(folder, generator, pairs, adapter=request.adapter))
    return Exported(folder, request.to, ("generator",), checks)


@torch.no_grad()
def _pairs(run: TrainedRun, generator: HFGenerator) -> list[GeneratorInput]:
    """Some training examples, each with the passage the prior finds first."""
    parts, data = run.parts, run.config.data
    examples = [example for example in _examples(run, PAIRS) if example.response.strip()]
    if not examples:
        raise ConfigError(
            "--verify: expected training examples with a response to score, found none; leave "
            "--verify out"
        )
    queries = parts.retrievers.encode_contexts(examples, data.context_turns)
    rows = parts.prior_index.search(queries, 1).ids[:, 0].tolist()
    return [
        GeneratorInput(
            render_context(example, data.generator_turns),
            (parts.dataset.kb[row],),
            example.response,
        )
        for example, row in zip(examples, rows, strict=True)
    ]


def _write_silver(
    run: TrainedRun, folder: Path, request: Request, facts: Facts, progress: Progress | None
) -> Exported:
    assert request.format is not None
    count = Count()
    labels: list[Label] = list(silver_labels(run, request, count, progress))
    if not labels:
        raise ConfigError(
            f"--to silver: expected training examples with a response, found {count.examples} "
            "examples and none to label; use a run on a data set that has answers"
        )
    kb = run.parts.dataset.kb
    write_labels(labels, folder)
    WRITERS[request.format](labels, kb, folder, facts.dataset)
    part_cards.write_silver_card(folder, facts, request, count)
    checks = tuple(verify_silver(folder, request.format, labels)) if request.verify else None
    limit = run.config.data.max_train_examples
    notes = count.notes()
    if limit is not None and limit == count.examples:
        notes = (f"data.max_train_examples: the first {limit:,} training rows are labelled", *notes)
    return Exported(folder, request.to, (request.format,), checks, notes)


def _examples(run: TrainedRun, most: int) -> Sequence[Example]:
    examples = run.parts.dataset.splits[SPLIT]
    return [examples[place] for place in _spread(len(examples), most)]


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` places of ``count``, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]
