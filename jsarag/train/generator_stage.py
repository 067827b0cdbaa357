"""The generator's own stages: warm-up before end-to-end training, concatenation after it.

Both are plain maximum likelihood of the response given passages somebody chose: before, the
posterior's own top passages (a generator that knows nothing carries no evidence about passages);
after, the prior's top passages joined in one prompt, as it will decode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from jsarag import randomness
from jsarag.data.batching import BatchSchedule
from jsarag.models.prompts import render_context
from jsarag.train.guards import require_finite
from jsarag.train.optimizer import schedule_factor
from jsarag.train.problem import Batch, excluded_rows
from jsarag.train.training_run import TrainingRun
from jsarag.types import GeneratorInput, Passage

ChoosePassages = Callable[[Batch], list[tuple[Passage, ...]]]


def warm_up(run: TrainingRun) -> None:
    """Train p(y|x,h) on passages drawn from the posterior's own top few."""
    settings, progress = run.config.train, run.progress
    if not run.parts.generator.is_trainable:
        run.event("generator warm-up skipped: the generator has nothing to train")
        return

    def choose(batch: Batch) -> list[tuple[Passage, ...]]:
        return _posterior_passages(run, batch, settings.generator_warmup_top)

    total = settings.generator_warmup_steps
    run.start_stage("warm up the generator", total, progress.warmup_step)
    batches = BatchSchedule(
        len(run.parts.dataset.splits["train"]), settings.batch_size, settings.seed + 1
    )
    while progress.warmup_step < total:
        _step(run, "warmup", progress.warmup_step, total, batches, choose)
        progress.warmup_step += 1
        _after(run, "warmup", progress.warmup_step, total)


def train_concatenated(run: TrainingRun) -> None:
    """Tune the generator on the prior's top passages joined in one prompt."""
    settings, progress = run.config.train, run.progress
    if not run.parts.generator.is_trainable:
        run.event("concatenation stage skipped: the generator has nothing to train")
        return

    def choose(batch: Batch) -> list[tuple[Passage, ...]]:
        return _prior_passages(run, batch, settings.concat_passages)

    total = settings.concat_steps
    run.start_stage("tune the generator on joined passages", total, progress.concat_step)
    batches = BatchSchedule(
        len(run.parts.dataset.splits["train"]), settings.batch_size, settings.seed + 2
    )
    while progress.concat_step < total:
        _step(run, "concat", progress.concat_step, total, batches, choose)
        progress.concat_step += 1
        _after(run, "concat", progress.concat_step, total)


def _step(
    run: TrainingRun,
    kind: str,
    step: int,
    total: int,
    batches: BatchSchedule,
    choose: ChoosePassages,
) -> None:
    """One optimizer step of negative log-likelihood: summed over tokens, mean over the batch."""
    settings = run.config.train
    randomness.seed_torch(run.seed, kind, step)  # for dropout inside LoRA
    run.optimizer.zero_grad()
    for micro_batch in range(run.accumulation):
        with run.clock("batch"):
            batch = run.examples(batches.at(step * run.accumulation + micro_batch))
        with run.clock("candidates"):
            passages = choose(batch)
        with run.clock("loss"):
            scored = run.parts.generator.response_logp(
                [
                    GeneratorInput(
                        render_context(example, run.windows.generator_turns),
                        group,
                        example.response,
                    )
                    for example, group in zip(batch.examples, passages, strict=True)
                ]
            )
            loss = -scored.logp.mean()
        with run.clock("backward"):
            torch.autograd.backward(loss / run.accumulation)
        run.means.add({"loss": loss, "nll_per_token": -scored.logp.sum() / scored.tokens.sum()})
    with run.clock("optimizer"):
        norms = run.optimizer.clip()
        require_finite(loss, norms, step + 1)
        # Constant after a short rise: what follows (training, decoding) wants a settled generator,
        # not one whose learning rate was annealed for this stage alone.
        run.optimizer.step(
            schedule_factor("constant", step, min(settings.warmup_steps, total), total)
        )


def _after(run: TrainingRun, kind: str, step: int, total: int) -> None:
    settings = run.config.train
    run.count_seconds()
    run.reporter.advance(step)
    if step % settings.log_steps == 0 or step == total:
        run.log_row(kind, step)
    if settings.save_steps and step % settings.save_steps == 0:
        run.save()
    run.stop_if_asked()


@torch.no_grad()
def _posterior_passages(run: TrainingRun, batch: Batch, top: int) -> list[tuple[Passage, ...]]:
    """One of the posterior's ``top`` passages per example, drawn by q among them."""
    parts = run.parts
    queries = parts.retrievers.encode_posterior(batch.examples, run.windows.posterior_turns)
    exclude = excluded_rows(parts.dataset.kb, batch.examples, parts.device)
    found = parts.posterior_index.search(queries, top, exclude)
    share = (found.scores.double() / parts.retrievers.temperature).softmax(dim=1).cpu()
    coins = randomness.uniforms(run.seed, "generator warm-up", batch.ids, batch.visits, 1)
    slots = (share.cumsum(dim=1) < coins).sum(dim=1, keepdim=True)
    # Rounding may leave the sum a hair below 1, and a small knowledge base fewer than ``top``.
    last = (found.ids.cpu() >= 0).sum(dim=1, keepdim=True) - 1
    slots = slots.minimum(last)
    rows = found.ids.cpu().gather(1, slots).flatten().tolist()
    return [(parts.dataset.kb[row],) for row in rows]


@torch.no_grad()
def _prior_passages(run: TrainingRun, batch: Batch, top: int) -> list[tuple[Passage, ...]]:
    """The prior's ``top`` passages per example, best first."""
    parts = run.parts
    queries = parts.retrievers.encode_contexts(batch.examples, run.windows.context_turns)
    exclude = excluded_rows(parts.dataset.kb, batch.examples, parts.device)
    found = parts.prior_index.search(queries, top, exclude)
    return [tuple(parts.dataset.kb[row] for row in rows if row >= 0) for rows in found.ids.tolist()]
