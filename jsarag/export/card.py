"""Model cards: this run's numbers, how a part reads text, and how to load it elsewhere.

``README.md`` with a YAML head, as model hubs read it. Reads the run's folder, no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jsarag._version import __version__
from jsarag.config.schema import Config
from jsarag.eval.report_format import figure, signed
from jsarag.eval.run_record import EvalRecord, RunRecord, read_run
from jsarag.export.origin import Origin, origin_of
from jsarag.export.request import TrainedRun
from jsarag.io.atomic import write_text

CARD = "README.md"
RETRIEVAL = ("R@1", "R@5", "R@10", "MRR@10")
GENERATION = ("EM", "F1", "BLEU-4", "ROUGE-L")


@dataclass(frozen=True, slots=True)
class Facts:
    """What every card of a run says.

    Attributes:
        run: the folder's name.
        step: of the state exported; None for parts as they began.
        dataset: its name and the digest of what was read.
        config: the run's.
        record: its evaluations.
    """

    run: str
    step: int | None
    dataset: str
    digest: str
    config: Config
    record: RunRecord

    @property
    def signature(self) -> str:
        """What the numbers depend on, '' where nothing was evaluated."""
        after = self.record.after
        return "" if after is None else str(after.metrics.get("signature") or "")


def facts_of(run: TrainedRun) -> Facts:
    """Read what the cards of a run say."""
    dataset = run.parts.dataset
    return Facts(
        run=run.run_dir.path.resolve().name,
        step=run.step,
        # The last part alone: a path says where the data lay on one machine.
        dataset=Path(dataset.name).name,
        digest=dataset.digest,
        config=run.config,
        record=read_run(run.run_dir),
    )


def write_card(folder: Path, head: Mapping[str, Any], sections: Sequence[str]) -> None:
    """Write ``README.md``.

    Args:
        folder: where.
        head: the YAML head; entries of None are left out.
        sections: Markdown, one block each; empty ones are left out.
    """
    kept = {name: value for name, value in head.items() if value is not None}
    front = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
    body = "\n\n".join(section.strip("\n") for section in sections if section.strip())
    write_text(folder / CARD, f"---\n{front}---\n\n{body}\n")


def head(
    facts: Facts,
    base: Origin,
    *,
    library: str,
    pipeline: str,
    tags: Sequence[str],
    retrievers: Sequence[str] = (),
    generation: bool = False,
) -> dict[str, Any]:
    """A model card's YAML head, this run's scores in it.

    Args:
        facts: of the run.
        base: the model the part began as.
        library, pipeline, tags: as model hubs sort models by.
        retrievers: whose scores it carries: 'prior', 'posterior'.
        generation: whether it carries the responses'.
    """
    task = "text-generation" if generation else "information-retrieval"
    metrics = _results(facts, retrievers, generation)
    result = {
        "task": {"type": task},
        "dataset": {
            "type": facts.dataset,
            "name": facts.dataset,
            "split": facts.record.split,
        },
        "metrics": metrics,
    }
    return {
        "library_name": library,
        "pipeline_tag": pipeline,
        "license": base.licence,
        "base_model": base.hub_id,
        "tags": [*tags, "retrieval-augmented-generation", "jsarag"],
        "model-index": [{"name": facts.run, "results": [result]}] if metrics else None,
    }


def scores(facts: Facts, retrievers: Sequence[str], *, generation: bool = False) -> str:
    """The section with before, after, intervals and paired differences."""
    record = facts.record
    if record.after is None:
        return "## Scores\n\nThe run was not evaluated."
    lines = [
        "## Scores",
        "",
        f"On the split `{record.split}` of `{facts.dataset}`, before and after training, with 95% "
        "intervals; the difference is paired, row by row.",
        "",
        "| score | before | after | 95% of after | difference (95%) |",
        "|---|---|---|---|---|",
    ]
    for group, metric in _named(retrievers, generation):
        lines.append(_score_line(record, group, metric))
    lines += ["", "Signature of the evaluation:", "", f"    {facts.signature or 'none'}"]
    return "\n".join(lines)


def training(facts: Facts, base: Origin) -> str:
    """The section on how the run was trained, and the licence of what it began as."""
    config = facts.config
    objective = config.objective
    state = "as before training" if facts.step is None else f"after {facts.step:,} steps"
    named = base.name if base.hub_id in (None, base.name) else f"{base.name} ({base.hub_id})"
    licence = base.licence or "not known on the machine that exported it; look it up before sharing"
    frozen = ", ".join(config.train.freeze) or "none"
    return "\n".join(
        [
            "## Training",
            "",
            f"- run: `{facts.run}`, state {state}, seed {config.train.seed}",
            f"- objective: `{objective.name}`, support `{objective.support}`, estimator "
            f"`{objective.estimator}`, likelihood `{objective.likelihood}`",
            f"- frozen parts: {frozen}",
            f"- retriever: `{origin_of(config.retriever.model).name}`; generator: "
            f"`{origin_of(config.generator.model).name}`",
            f"- data: `{facts.dataset}`, digest `{facts.digest[:16]}`",
            f"- this part began as: {named}",
            f"- licence of that model: {licence}",
            f"- written by jsarag {__version__}",
        ]
    )


def _named(retrievers: Sequence[str], generation: bool) -> list[tuple[str, str]]:
    pairs = [(name, metric) for name in retrievers for metric in RETRIEVAL]
    return pairs + [("generation", metric) for metric in GENERATION if generation]


def _group(record: EvalRecord | None, group: str) -> Mapping[str, Any]:
    if record is None:
        return {}
    found = (
        record.metrics.get("generation")
        if group == "generation"
        else (record.metrics.get("retrieval") or {}).get(group)
    )
    return found if isinstance(found, Mapping) else {}


def _score_line(record: RunRecord, group: str, metric: str) -> str:
    before, after = _group(record.before, group), _group(record.after, group)
    interval = (after.get("intervals") or {}).get(metric)
    compared = getattr(record.comparison, group) if record.comparison is not None else {}
    difference = compared.get(metric)
    return "| {} | {} | {} | {} | {} |".format(
        metric if group == "generation" else f"{group} {metric}",
        _figure(metric, before.get(metric)),
        _figure(metric, after.get(metric)),
        " to ".join(_figure(metric, bound) for bound in interval) if interval else "-",
        "-"
        if difference is None
        else f"{signed(metric, difference.value)} ({signed(metric, difference.low)} to "
        f"{signed(metric, difference.high)})",
    )


def _figure(metric: str, value: Any) -> str:
    return "-" if value is None else figure(metric, float(value))


def _results(facts: Facts, retrievers: Sequence[str], generation: bool) -> list[dict[str, Any]]:
    found = []
    for group, metric in _named(retrievers, generation):
        value = _group(facts.record.after, group).get(metric)
        if value is not None:
            name = metric if group == "generation" else f"{group} {metric}"
            kind = metric.lower().replace("@", "_at_").replace("-", "_")
            found.append({"type": kind, "value": round(float(value), 6), "name": name})
    return found
