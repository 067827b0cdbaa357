"""Evaluating a run's parts: hands models, indexes and texts to ``eval.evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsarag.assemble import Parts
from jsarag.config.schema import Config
from jsarag.errors import DataError
from jsarag.eval.evaluate import EvalInputs, EvalSettings, Evaluation, Progress, evaluate
from jsarag.index.engines import EXACT, make_engine
from jsarag.index.interfaces import SearchIndex
from jsarag.models.prompts import render_context
from jsarag.runs import OpenRun


def evaluate_parts(
    parts: Parts,
    config: Config,
    split: str,
    *,
    generation: bool | None = None,
    engine: str = EXACT,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the parts as they are on a split.

    Args:
        parts: models and indexes; they are put into evaluation mode and back.
        config: ``data`` windows and the ``eval`` group.
        split: 'dev', 'test', ...
        generation: None takes ``eval.generation``.
        engine: how the vectors are searched (:mod:`jsarag.index.engines`).
        progress: told about rows done.

    Raises:
        DataError: the data set has no such split.
    """
    if split not in parts.dataset.splits:
        raise DataError(
            f"split '{split}': the data set has {', '.join(sorted(parts.dataset.splits))}; add "
            f"{split}.jsonl beside kb.jsonl, or choose another --split"
        )
    data, settings, retrievers = config.data, config.eval, parts.retrievers
    prior = make_engine(engine, parts.prior_index)
    posterior: SearchIndex | None = prior
    if parts.posterior_index is None:
        posterior = None
    elif parts.posterior_index is not parts.prior_index:
        posterior = make_engine(engine, parts.posterior_index)
    was_training = retrievers.training
    retrievers.eval()
    parts.generator.eval()
    try:
        return evaluate(
            EvalInputs(
                examples=parts.dataset.splits[split],
                kb=parts.dataset.kb,
                prior_index=prior,
                posterior_index=posterior,
                encode_contexts=lambda batch: retrievers.encode_contexts(batch, data.context_turns),
                encode_posterior=lambda batch: retrievers.encode_posterior(
                    batch, data.posterior_turns
                ),
                generator=parts.generator,
                render_context=lambda example: render_context(example, data.generator_turns),
                inv_temperature=1.0 / config.retriever.temperature,
                engine=engine,
            ),
            EvalSettings(
                k=settings.k,
                decoding=settings.decoding,
                decoding_passages=settings.decoding_passages,
                max_examples=settings.max_examples,
                max_new_tokens=settings.max_new_tokens,
                bootstrap_samples=settings.bootstrap_samples,
                generation=settings.generation if generation is None else generation,
                seed=config.train.seed,
            ),
            progress,
        )
    finally:
        retrievers.train(was_training)
        parts.generator.train(was_training)


def evaluate_run(
    run: OpenRun,
    split: str | None = None,
    *,
    engine: str = EXACT,
    progress: Progress | None = None,
) -> Evaluation:
    """Score an opened run on a split; None takes ``eval.split``."""
    split = split or run.config.eval.split
    return evaluate_parts(run.parts, run.config, split, engine=engine, progress=progress)


def headline(result: Mapping[str, Any]) -> str:
    """One line of an evaluation for logs: the prior's and posterior's retrieval, answer F1."""
    shown = []
    for name in ("prior", "posterior"):
        scores = (result.get("retrieval") or {}).get(name)
        if scores and scores.get("R@1") is not None:
            shown.append(
                f"{name} R@1 {scores['R@1']:.3f} R@10 {scores['R@10']:.3f} "
                f"MRR@10 {scores['MRR@10']:.3f}"
            )
    generation = result.get("generation")
    if generation and generation.get("F1") is not None:
        shown.append(f"answer F1 {generation['F1']:.3f}")
    return "; ".join(shown) or "nothing to score (no gold passages, no generator)"
