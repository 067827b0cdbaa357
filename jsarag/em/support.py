"""Which passages an example may be explained by: the candidate sets, and their slots.

A set is a set: each passage once, in ascending row order whatever the order it was found in, so
that nothing downstream depends on scores' ties, on the batch or on who found a passage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jsarag.em.problem import EMSettings, PassageIndex, Problem
from jsarag.errors import ConfigError

_ABSENT = torch.iinfo(torch.int64).max


def distinct(rows: Tensor) -> Tensor:
    """Each line's distinct rows in ascending order: int64 [B, n] -> [B, C], -1 pads on the right.

    Negative entries are ignored. C is what the fullest line needs, at least 1.
    """
    ordered = rows.masked_fill(rows < 0, _ABSENT).sort(dim=1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    ordered = ordered.masked_fill(repeated, _ABSENT).sort(dim=1).values
    # sync: the fullest line decides the shape.
    width = int((ordered != _ABSENT).any(dim=0).sum())
    ordered = ordered[:, : max(width, 1)]
    return ordered.masked_fill(ordered == _ABSENT, -1)


def slots_of(rows: Tensor, wanted: Tensor) -> Tensor:
    """The slots [B, n] of wanted rows int64 [B, n] in rows [B, C] of :func:`distinct`, or -1."""
    ordered = rows.masked_fill(rows < 0, _ABSENT)
    found = torch.searchsorted(ordered, wanted.contiguous()).clamp(max=rows.shape[1] - 1)
    present = (rows.gather(1, found) == wanted) & (wanted >= 0)
    return found.masked_fill(~present, -1)


def prior_rows(problem: Problem, settings: EMSettings) -> Tensor:
    """The prior's top k, int64 [B, C] as :func:`distinct`."""
    return distinct(_top(problem.prior_index, problem.queries.prior, problem.exclude, settings))


def union_rows(problem: Problem, settings: EMSettings, start_rows: Tensor | None = None) -> Tensor:
    """U = top k of the prior, top k of the posterior and the chain's passage, each once.

    Args:
        problem: the batch.
        settings: k and T.
        start_rows: int64 [B] the stored chain states, -1 where there is none.

    Returns:
        int64 [B, C] as :func:`distinct`, k <= C <= 2k + 1 where the knowledge base has as many.
    """
    posterior_index, posterior = posterior_of(problem)
    prior = problem.queries.prior
    if problem.passages_shared:
        # One pass over the index serves both retrievers.
        exclude = None if problem.exclude is None else problem.exclude.repeat(2, 1)
        found = _top(problem.prior_index, torch.cat([prior, posterior]), exclude, settings)
        tops = list(found.chunk(2))
    else:
        tops = [
            _top(problem.prior_index, prior, problem.exclude, settings),
            _top(posterior_index, posterior, problem.exclude, settings),
        ]
    if start_rows is not None:
        tops.append(start_rows[:, None])
    return distinct(torch.cat(tops, dim=1))


def enumerated_rows(problem: Problem, settings: EMSettings) -> Tensor:
    """The candidates of an estimator that enumerates: top k of the prior, or U, int64 [B, C]."""
    if settings.support == "prior":
        return prior_rows(problem, settings)
    return union_rows(problem, settings)


def allowed(rows: Tensor, exclude: Tensor | None) -> Tensor:
    """``rows`` int64 [B] with -1 in place of what an example excludes."""
    if exclude is None:
        return rows
    return rows.masked_fill((rows[:, None] == exclude).any(dim=1), -1)


def posterior_of(problem: Problem) -> tuple[PassageIndex, Tensor]:
    """The posterior's index and query embeddings [B, D].

    Raises:
        ConfigError: the problem was built without a posterior.
    """
    if problem.posterior_index is None or problem.queries.posterior is None:
        raise ConfigError(
            "objective: this objective or support needs a posterior retriever, the run has none; "
            "use an objective with needs_posterior, or support 'prior'"
        )
    return problem.posterior_index, problem.queries.posterior


def _top(
    index: PassageIndex, queries: Tensor, exclude: Tensor | None, settings: EMSettings
) -> Tensor:
    scan = index.scan(
        queries.detach(), settings.k, settings.inv_temperature, tile_lse=False, exclude=exclude
    )
    return scan.ids.to(queries.device)
