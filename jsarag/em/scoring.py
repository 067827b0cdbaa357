"""Log-probabilities of the candidates: both retrievers with gradient, the generator as asked.

Everything in log space, in f32 (f64 where the embeddings are f64). The only file of the package
that decides which passage vectors a probability is made of: the live ones where the passage encoder
trains, the index's otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jsarag.em.problem import EMSettings, Problem
from jsarag.em.support import posterior_of
from jsarag.errors import ConfigError
from jsarag.types import PassageEmbedder, RetrieverScores, TokenLogp


def retriever_scores(
    problem: Problem, settings: EMSettings, rows: Tensor, *, posterior: bool = True
) -> RetrieverScores:
    """log p(h|x) and log q(h|x,y) of candidates, normalised over the settings' support.

    Args:
        problem: the batch.
        settings: support, T, and whether log q may move a shared passage encoder.
        rows: int64 [B, C] candidate rows, -1 pads.
        posterior: whether q is wanted.

    Notes:
        Under ``kb`` this costs one pass over the index for both retrievers where they share it (and
        another one in the backward pass). Re-encoded candidates replace their stale vectors
        inside the partition.
    """
    mask = rows >= 0
    vectors = _passage_vectors(problem, settings, rows, posterior)
    prior = _scaled_scores(problem.queries.prior, vectors.prior, mask, settings)
    if not posterior:
        return RetrieverScores(_normalised(problem, settings, rows, [prior])[0], None)
    assert vectors.posterior is not None
    queries = posterior_of(problem)[1]
    scores = [prior, _scaled_scores(queries, vectors.posterior, mask, settings)]
    return RetrieverScores(*_normalised(problem, settings, rows, scores))


def response_scores(problem: Problem, settings: EMSettings, rows: Tensor, chosen: Tensor) -> Tensor:
    """log p(y|x,h) of the chosen slots, each pair scored once.

    Args:
        problem: the batch.
        settings: sum over tokens or mean per token.
        rows: int64 [B, C] candidate rows.
        chosen: bool [B, C] slots to score; all must hold a passage.

    Returns:
        [B, C] in nats, -inf elsewhere.
    """
    # sync: the number of chosen pairs decides the shape.
    example, slot = chosen.nonzero(as_tuple=True)
    logp = pair_scores(problem, settings, example, rows[example, slot])
    full = torch.full(rows.shape, -torch.inf, dtype=logp.dtype, device=logp.device)
    return full.index_put((example, slot), logp)


def pair_scores(problem: Problem, settings: EMSettings, example: Tensor, row: Tensor) -> Tensor:
    """log p(y|x,h) [P] of pairs int64 [P], as the likelihood setting defines it."""
    scored = problem.score_responses(example, row)
    dtype = working_dtype(problem)
    logp = scored.logp.to(device=example.device, dtype=dtype)
    if settings.likelihood == "mean":
        return logp / scored.tokens.to(device=example.device, dtype=dtype).clamp_min(1)
    return logp


def token_scores(problem: Problem, settings: EMSettings, rows: Tensor, chosen: Tensor) -> TokenLogp:
    """log p(y_t|x,h,y_<t) of the chosen slots, each pair scored once.

    Args:
        problem: the batch.
        settings: of the method; the likelihood is the sum over tokens.
        rows: int64 [B, C] candidate rows.
        chosen: bool [B, C] slots to score; at least one per example.

    Returns:
        logp [B, C, T] in nats, 0 where padded or not chosen, and mask bool [B, T] of the responses'
        tokens, which are the same whatever the passage.

    Raises:
        ConfigError: the likelihood is a mean, which a product over tokens knows nothing of.
    """
    assert problem.score_tokens is not None
    if settings.likelihood != "sum":
        raise ConfigError(
            "objective.likelihood: expected 'sum' where tokens are weighed one by one, found "
            f"{settings.likelihood!r}; use --likelihood sum or another objective"
        )
    # sync: the number of chosen pairs decides the shape.
    example, slot = chosen.nonzero(as_tuple=True)
    scored = problem.score_tokens(example, rows[example, slot])
    logp = scored.logp.to(device=rows.device, dtype=working_dtype(problem))
    full = logp.new_zeros(*rows.shape, logp.shape[1]).index_put((example, slot), logp)
    mask = torch.zeros(len(rows), logp.shape[1], dtype=torch.bool, device=rows.device)
    mask[example] = scored.mask.to(rows.device)
    return TokenLogp(full, mask)


def joined_score(problem: Problem, settings: EMSettings, rows: Tensor) -> Tensor:
    """log p(y | x, passages joined in one prompt), [B].

    Args:
        problem: the batch.
        settings: sum over tokens or mean per token.
        rows: int64 [B, J] in the order they are read, -1 pads.
    """
    return pair_scores(problem, settings, torch.arange(len(rows), device=rows.device), rows)


def stale_posterior_logp(
    problem: Problem, settings: EMSettings, rows: Tensor, tile_lse: Tensor
) -> Tensor:
    """log q of rows under the index's own vectors and partition: the density ``draw`` draws from.

    Args:
        problem: the batch.
        settings: T.
        rows: int64 [B], -1 gives an arbitrary finite number.
        tile_lse: [B, tiles] of the scan the draws were made from.
    """
    index, queries = posterior_of(problem)
    vectors = index.vectors(rows.clamp(min=0)).to(queries.device)
    queries = queries.detach().to(vectors.dtype)
    scores = (queries * vectors).sum(dim=1) * settings.inv_temperature
    return scores - tile_lse.to(queries.device).logsumexp(dim=1)


def working_dtype(problem: Problem) -> torch.dtype:
    """f32, or f64 where the queries are f64."""
    return torch.promote_types(problem.queries.prior.dtype, torch.float32)


class _Vectors(NamedTuple):
    """[B, C, D] each; the posterior's are None where it was not asked for."""

    prior: Tensor
    posterior: Tensor | None


def _passage_vectors(
    problem: Problem, settings: EMSettings, rows: Tensor, posterior: bool
) -> _Vectors:
    """The vectors log p and log q are made of; a shared encoder runs once for both."""
    prior = _vectors(problem, rows, of_posterior=False)
    if not posterior:
        return _Vectors(prior, None)
    if not problem.passages_shared:
        return _Vectors(prior, _vectors(problem, rows, of_posterior=True))
    detached = settings.detach_posterior_from_passages
    return _Vectors(prior, prior.detach() if detached else prior)


def _vectors(problem: Problem, rows: Tensor, *, of_posterior: bool) -> Tensor:
    if problem.passages_trained:
        embedder = problem.embed_posterior if of_posterior else problem.embed_prior
        assert embedder is not None
        return _live_vectors(embedder, rows)
    index = posterior_of(problem)[0] if of_posterior else problem.prior_index
    flat = index.vectors(rows.clamp(min=0).flatten())
    return flat.to(rows.device).view(*rows.shape, flat.shape[1])


def _live_vectors(embedder: PassageEmbedder, rows: Tensor) -> Tensor:
    """Encode each distinct passage of the batch once; padding repeats the first one."""
    mask = rows >= 0
    # sync: the number of distinct passages decides the shape.
    unique, position = torch.unique(rows[mask], return_inverse=True)
    live = embedder(unique)
    if len(live) == 0:
        return live.new_zeros(*rows.shape, live.shape[-1])
    positions = torch.zeros_like(rows).masked_scatter(mask, position)
    return live.index_select(0, positions.flatten()).view(*rows.shape, live.shape[1])


def _scaled_scores(queries: Tensor, vectors: Tensor, mask: Tensor, settings: EMSettings) -> Tensor:
    """e(h)·e(x) / T, [B, C]; -inf on padding."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        products = torch.einsum("bd,bcd->bc", queries.to(dtype), vectors.to(dtype))
    return (products * settings.inv_temperature).masked_fill(~mask, -torch.inf)


def _normalised(
    problem: Problem, settings: EMSettings, rows: Tensor, scores: list[Tensor]
) -> list[Tensor]:
    """log-softmax of the prior's and then the posterior's scores over the support."""
    if settings.support != "kb":
        return [part.log_softmax(dim=1) for part in scores]
    partitions = _log_partitions(problem, settings, rows, len(scores) == 2)
    if problem.passages_trained:
        partitions = [
            torch.logaddexp(rest, part.logsumexp(dim=1))
            for rest, part in zip(partitions, scores, strict=True)
        ]
    return [part - partition[:, None] for part, partition in zip(scores, partitions, strict=True)]


def _log_partitions(
    problem: Problem, settings: EMSettings, rows: Tensor, posterior: bool
) -> list[Tensor]:
    """log sum exp(score / T) [B] over the index; without the candidates where they are live."""
    exclude = problem.exclude
    if problem.passages_trained:
        exclude = rows if exclude is None else torch.cat([exclude, rows], dim=1)
    inv_temperature, prior = settings.inv_temperature, problem.queries.prior
    if not posterior:
        return [problem.prior_index.log_partition(prior, inv_temperature, exclude)]
    index, queries = posterior_of(problem)
    if not problem.passages_shared:
        return [
            problem.prior_index.log_partition(prior, inv_temperature, exclude),
            index.log_partition(queries, inv_temperature, exclude),
        ]
    both = None if exclude is None else exclude.repeat(2, 1)
    partitions = index.log_partition(torch.cat([prior, queries]), inv_temperature, both)
    return list(partitions.chunk(2))
