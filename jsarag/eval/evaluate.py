"""One evaluation: search with both retrievers, generate, score, and say exactly how.

Takes an index, encoders and a generator as they are and changes none of them. The JSON's keys are a
public contract; :func:`write` puts them into a run folder, ``compare`` reads two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from jsarag._version import __version__
from jsarag.errors import ConfigError, NumericalError
from jsarag.eval.decoding import MODES, Decoded, Grounding, decode
from jsarag.eval.generation import (
    BLEU_MISSING,
    GENERATION_METRICS,
    GenerationScores,
    bleu_signature,
    generation_row,
    has_bleu,
    score_generation,
)
from jsarag.eval.retrieval import RetrievalScores, retrieval_depth, score_retrieval
from jsarag.eval.significance import IntArray, Statistic, group_rows, intervals
from jsarag.index.engines import EXACT
from jsarag.index.interfaces import SearchIndex
from jsarag.index.rows import excluded_rows
from jsarag.io.atomic import write_folder, write_jsonl
from jsarag.io.records import write_record
from jsarag.models.generator import Generator
from jsarag.types import Example, Passage

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"
# Passages whose text goes into predictions.jsonl, and how much of it: enough to read, not a copy
# of the knowledge base per evaluation.
_TEXTS = 5
_TEXT_LENGTH = 320

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): stages 'search prior', 'search posterior', 'generate'."""

Encode = Callable[[Sequence[Example]], Tensor]
"""Query embeddings [B, D] of some examples."""


class Passages(Protocol):
    """What evaluation needs of a knowledge base."""

    def __getitem__(self, row: int, /) -> Passage:
        """The passage of a row."""

    def __contains__(self, passage_id: object, /) -> bool:
        """Whether a passage has this id."""

    def row_of(self, passage_id: str, /) -> int:
        """The row of an id; DataError where there is none."""


@dataclass(frozen=True, slots=True)
class EvalInputs:
    """What is evaluated.

    Attributes:
        examples: the rows of a split.
        kb: the passages, by row and by id.
        prior_index: searched with ``encode_contexts``.
        posterior_index: searched with ``encode_posterior``; both or neither.
        encode_contexts: e_eta(x) of examples, [B, D].
        encode_posterior: e_phi(x, y) of examples.
        generator: None leaves generation out.
        render_context: the context as the generator reads it.
        inv_temperature: 1/T, for p(h|x) over the passages a response is generated from.
        engine: how the indexes search, for the signature.
    """

    examples: Sequence[Example]
    kb: Passages
    prior_index: SearchIndex
    posterior_index: SearchIndex | None
    encode_contexts: Encode
    encode_posterior: Encode | None
    generator: Generator | None
    render_context: Callable[[Example], str]
    inv_temperature: float
    engine: str = EXACT


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """How it is evaluated; the names are the configuration's (group ``eval``).

    ``max_examples`` limits generation to the first rows; retrieval is scored on all of them.
    """

    k: int = 10
    decoding: str = "top1"
    decoding_passages: int = 4
    max_examples: int | None = None
    max_new_tokens: int = 40
    bootstrap_samples: int = 2000
    generation: bool = True
    seed: int = 1
    batch_size: int = 32


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result: scores with intervals, the signature, and every row.

    Attributes:
        retrieval: 'prior' and 'posterior' (None without one) -> metrics, intervals, counts.
        generation: metrics, intervals and n, or None.
        signature: everything the numbers depend on that is not the weights or the rows' content.
        predictions: one JSON row per example, in order.
        notes: what was left out, and why.
    """

    retrieval: dict[str, dict[str, Any] | None]
    generation: dict[str, Any] | None
    signature: str
    predictions: list[dict[str, Any]]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The stable JSON shape; scores without a value are None."""
        return {
            "retrieval": self.retrieval,
            "generation": self.generation,
            "signature": self.signature,
            "notes": list(self.notes),
        }


class _Found(NamedTuple):
    """Passages of one example, best first: rows and scores f32 [n]; no padding."""

    rows: list[int]
    scores: Tensor


def evaluate(
    inputs: EvalInputs, settings: EvalSettings, progress: Progress | None = None
) -> Evaluation:
    """Score retrieval (prior and posterior) and generation on the examples.

    Passages an example excludes are never retrieved for it. Without gradient; deterministic given
    weights, rows and settings. Put modules into evaluation mode before calling.

    Args:
        inputs: what to evaluate.
        settings: how.
        progress: told about rows done.

    Raises:
        ConfigError: unknown decoding mode, or numbers below 1.
        DataError: an example excludes a passage the knowledge base does not have.
        NumericalError: an encoder returned NaN or infinity.
    """
    _check(settings)
    tell = progress or (lambda stage, done, total: None)
    with torch.no_grad():
        prior = _search(inputs, settings, inputs.prior_index, inputs.encode_contexts, "prior", tell)
        posterior = None
        if inputs.posterior_index is not None and inputs.encode_posterior is not None:
            posterior = _search(
                inputs,
                settings,
                inputs.posterior_index,
                inputs.encode_posterior,
                "posterior",
                tell,
            )
        responses = _generate(inputs, settings, prior, tell)
    return _collect(inputs, settings, prior, posterior, responses)


def write(evaluation: Evaluation, folder: Path | str) -> None:
    """Write ``metrics.json`` and ``predictions.jsonl``; an earlier evaluation there is replaced."""
    with write_folder(folder) as temporary:
        write_record(temporary / METRICS_FILE, evaluation.to_json())
        write_jsonl(temporary / PREDICTIONS_FILE, evaluation.predictions)


def _check(settings: EvalSettings) -> None:
    if settings.decoding not in MODES:
        raise ConfigError(
            f"eval.decoding: expected one of {', '.join(MODES)}, found '{settings.decoding}'; "
            "name one of them"
        )
    for name in ("k", "decoding_passages", "max_new_tokens", "bootstrap_samples", "batch_size"):
        if getattr(settings, name) < 1:
            raise ConfigError(
                f"eval.{name}: expected at least 1, found {getattr(settings, name)}; raise it"
            )


def _search(
    inputs: EvalInputs,
    settings: EvalSettings,
    index: SearchIndex,
    encode: Encode,
    name: str,
    tell: Progress,
) -> list[_Found]:
    depth = max(retrieval_depth(settings.k), settings.decoding_passages)
    found: list[_Found] = []
    total = len(inputs.examples)
    for start in range(0, total, settings.batch_size):
        batch = inputs.examples[start : start + settings.batch_size]
        queries = encode(batch)
        if not bool(queries.isfinite().all()):  # sync: once per batch
            raise NumericalError(
                f"evaluation: expected finite {name} query embeddings, found NaN or infinity among "
                f"rows {start} to {start + len(batch) - 1}; the {name} encoder's weights are "
                "broken, evaluate an earlier checkpoint"
            )
        scan = index.search(queries, depth, exclude=excluded_rows(inputs.kb, batch, queries.device))
        for ids, scores in zip(scan.ids.cpu(), scan.scores.cpu(), strict=True):
            real = ids >= 0
            found.append(_Found(ids[real].tolist(), scores[real]))
        tell(f"search {name}", start + len(batch), total)
    return found


def _generate(
    inputs: EvalInputs, settings: EvalSettings, prior: Sequence[_Found], tell: Progress
) -> list[Decoded] | None:
    if inputs.generator is None or not settings.generation:
        return None
    limit = len(prior) if settings.max_examples is None else settings.max_examples
    total = min(limit, len(prior))
    results: list[Decoded] = []
    for start in range(0, total, settings.batch_size):
        stop = min(start + settings.batch_size, total)
        items = [
            _grounding(inputs, settings, inputs.examples[row], prior[row])
            for row in range(start, stop)
        ]
        results += decode(
            inputs.generator, items, settings.decoding, max_new_tokens=settings.max_new_tokens
        )
        tell("generate", stop, total)
    return results


def _grounding(
    inputs: EvalInputs, settings: EvalSettings, example: Example, found: _Found
) -> Grounding:
    count = settings.decoding_passages
    return Grounding(
        inputs.render_context(example),
        tuple(inputs.kb[row] for row in found.rows[:count]),
        (found.scores[:count] * inputs.inv_temperature).log_softmax(dim=0),
    )


def _collect(
    inputs: EvalInputs,
    settings: EvalSettings,
    prior: Sequence[_Found],
    posterior: Sequence[_Found] | None,
    responses: Sequence[Decoded] | None,
) -> Evaluation:
    examples = inputs.examples
    groups = group_rows([item.dialogue_id for item in examples], [item.id for item in examples])
    ranked = {"prior": prior, "posterior": posterior}
    retrieval: dict[str, dict[str, Any] | None] = {}
    scored: dict[str, RetrievalScores] = {}
    for name, found in ranked.items():
        if found is None:
            retrieval[name] = None
            continue
        scored[name] = _score_ranking(inputs, settings, found)
        retrieval[name] = _retrieval_json(scored[name], groups, settings)
    generated = None
    answers = [item.answers for item in examples[: len(responses or ())]]
    if responses is not None:
        generated = score_generation([item.text for item in responses], answers)
    generation = None if generated is None else _generation_json(generated, groups, settings)
    predictions = [
        _prediction(inputs, settings, row, ranked, scored, responses, generated)
        for row in range(len(examples))
    ]
    without_gold = scored["prior"].without_gold
    notes = _notes(inputs, generated, without_gold)
    bleu = bleu_signature(answers) if generated is not None else ""
    signature = _signature(inputs, settings, len(examples), without_gold, generation, bleu)
    return Evaluation(retrieval, generation, signature, predictions, notes)


def _score_ranking(
    inputs: EvalInputs, settings: EvalSettings, found: Sequence[_Found]
) -> RetrievalScores:
    ranked = [[inputs.kb[row].id for row in item.rows] for item in found]
    return score_retrieval(ranked, [item.gold_passages for item in inputs.examples], k=settings.k)


def _retrieval_json(
    scores: RetrievalScores, groups: IntArray, settings: EvalSettings
) -> dict[str, Any]:
    groups = _renumbered(groups[scores.positions])
    result = _scores_json(scores.statistics(), groups, settings)
    return {**result, "n": len(scores.positions), "without_gold": scores.without_gold}


def _generation_json(
    scores: GenerationScores, groups: IntArray, settings: EvalSettings
) -> dict[str, Any]:
    statistics = scores.statistics()
    count = len(scores.values["EM"])
    result = _scores_json(statistics, _renumbered(groups[:count]), settings)
    # Every key is always there; BLEU is null without sacrebleu.
    every = {name: result.get(name) for name in GENERATION_METRICS}
    return {**every, "intervals": result["intervals"], "n": count}


def _scores_json(
    statistics: Mapping[str, Statistic], groups: IntArray, settings: EvalSettings
) -> dict[str, Any]:
    found = intervals(statistics, groups, samples=settings.bootstrap_samples, seed=settings.seed)
    empty = len(groups) == 0
    result: dict[str, Any] = {
        name: None if empty else item.value for name, item in statistics.items()
    }
    result["intervals"] = {
        name: None if interval is None else list(interval) for name, interval in found.items()
    }
    return result


def _renumbered(groups: IntArray) -> IntArray:
    """Group numbers without gaps, so that absent dialogues are not resampled."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _prediction(
    inputs: EvalInputs,
    settings: EvalSettings,
    row: int,
    ranked: Mapping[str, Sequence[_Found] | None],
    scored: Mapping[str, RetrievalScores],
    responses: Sequence[Decoded] | None,
    generated: GenerationScores | None,
) -> dict[str, Any]:
    example = inputs.examples[row]
    gold = frozenset(example.gold_passages)
    prior, posterior = ranked["prior"], ranked["posterior"]
    assert prior is not None
    metrics: dict[str, Any] = {name: _row_metrics(item, row) for name, item in scored.items()}
    response = responses[row] if responses is not None and row < len(responses) else None
    if generated is not None and response is not None:
        metrics["generation"] = generation_row(generated, row)
    result: dict[str, Any] = {
        "id": example.id,
        "dialogue_id": example.dialogue_id,
        "context": inputs.render_context(example),
        "answers": list(example.answers),
        "prediction": None if response is None else response.text,
        "prediction_logp": None if response is None else response.logp,
        "gold_passages": list(example.gold_passages),
        "passages": _passage_rows(inputs.kb, prior[row], settings.k, gold, texts=True),
        "metrics": metrics,
    }
    if posterior is not None:
        result["posterior_passages"] = _passage_rows(
            inputs.kb, posterior[row], settings.k, gold, texts=False
        )
    return result


def _row_metrics(scores: RetrievalScores, row: int) -> dict[str, float] | None:
    """One row's retrieval metrics; None where it has no gold."""
    place = int(np.searchsorted(scores.positions, row))
    if place == len(scores.positions) or scores.positions[place] != row:
        return None
    return {name: float(values[place]) for name, values in scores.values.items()}


def _passage_rows(
    kb: Passages, found: _Found, k: int, gold: frozenset[str], *, texts: bool
) -> list[dict[str, Any]]:
    rows = []
    pairs = zip(found.rows[:k], found.scores[:k].tolist(), strict=True)
    for rank, (row, score) in enumerate(pairs, start=1):
        passage = kb[row]
        record: dict[str, Any] = {
            "id": passage.id,
            "title": passage.title,
            "score": score,
            "rank": rank,
            # Without gold passages nobody knows, which is not the same as no.
            "gold": passage.id in gold if gold else None,
        }
        if texts and rank <= _TEXTS:
            record["text"] = passage.text[:_TEXT_LENGTH]
        rows.append(record)
    return rows


def _notes(
    inputs: EvalInputs, generated: GenerationScores | None, without_gold: int
) -> tuple[str, ...]:
    notes = []
    if without_gold:
        notes.append(
            f"{without_gold} of {len(inputs.examples)} rows name no gold passage; retrieval is "
            "scored on the others"
        )
    strangers = sum(
        not any(name in inputs.kb for name in item.gold_passages)
        for item in inputs.examples
        if item.gold_passages
    )
    if strangers:
        notes.append(
            f"{strangers} rows have only gold passages the knowledge base does not hold; "
            "they count as misses"
        )
    if generated is not None and not has_bleu():
        notes.append(BLEU_MISSING)
    return tuple(notes)


def _signature(
    inputs: EvalInputs,
    settings: EvalSettings,
    rows: int,
    without_gold: int,
    generation: Mapping[str, Any] | None,
    bleu: str,
) -> str:
    parts = [
        f"rows:{rows}",
        f"gold:{rows - without_gold}",
        "hit:any-gold",
        f"k:{settings.k}",
        f"index:gen-{inputs.prior_index.generation}",
        f"passages:{len(inputs.prior_index)}",
    ]
    if inputs.engine != EXACT:
        parts.append(f"engine:{inputs.engine}")
    if generation is not None:
        parts += [
            f"generated:{generation['n']}",
            f"decoding:{settings.decoding}",
            f"decoding-passages:{1 if settings.decoding == 'top1' else settings.decoding_passages}",
            f"max-new-tokens:{settings.max_new_tokens}",
            "search:greedy",
            "norm:squad",
            "rouge:rouge-score-tokens,no-stemming,f",
        ]
    if bleu:
        # sacrebleu separates by '|' too; its own signature stays whole behind one key.
        parts.append(f"bleu:0-100,{bleu.replace('|', ',')}")
    parts += [
        f"intervals:95%,bootstrap-{settings.bootstrap_samples},by-dialogue,seed-{settings.seed}",
        f"torch:{torch.__version__}",
        f"numpy:{np.__version__}",
        f"jsarag:{__version__}",
    ]
    return "|".join(parts)
