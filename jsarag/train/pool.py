"""Scores of candidates, once for every pair: the pools that estimators are replayed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jsarag.em.problem import EMSettings, Problem
from jsarag.em.proposals import propose
from jsarag.em.scoring import pair_scores, retriever_scores
from jsarag.em.support import distinct, posterior_of
from jsarag.eval.estimator_errors import Pool

# Pairs between two words to whoever is watching.
_PAIRS = 128


@dataclass(frozen=True, slots=True)
class ScoredCandidates:
    """A batch's pool but for the generator's scores; ``example`` int64 [P] of each pair."""

    problem: Problem
    rows: Tensor
    prior_logp: Tensor
    posterior_logp: Tensor
    prior_rank: Tensor
    posterior_rank: Tensor
    example: Tensor
    row: Tensor

    def finish(self, em: EMSettings, advance: Callable[[int], None]) -> Pool:
        """Score each pair, in pieces that let the user see progress."""
        parts = []
        for start in range(0, len(self.example), _PAIRS):
            piece = slice(start, start + _PAIRS)
            parts.append(pair_scores(self.problem, em, self.example[piece], self.row[piece]))
            advance(min(start + _PAIRS, len(self.example)))
        logp = torch.cat(parts).double().cpu()
        mask = self.rows >= 0
        response = torch.full(self.rows.shape, -torch.inf, dtype=torch.float64)
        return Pool(
            ids=list(self.problem.example_ids),
            rows=self.rows,
            prior_logp=self.prior_logp,
            posterior_logp=self.posterior_logp,
            response_logp=response.masked_scatter(mask, logp),
            prior_rank=self.prior_rank,
            posterior_rank=self.posterior_rank,
            temperature=em.temperature,
            evidence_weight=em.evidence_weight,
            seed=em.seed,
        )


def score_candidates(problem: Problem, em: EMSettings, top: int, draws: int) -> ScoredCandidates:
    """Both retrievers' first ``top``, what ``draws`` draws fell on, and both log-probabilities."""
    over_kb = replace(em, support="kb", estimator="snis", mis_steps=draws)
    posterior_index, posterior = posterior_of(problem)
    queries = ((problem.prior_index, problem.queries.prior), (posterior_index, posterior))
    lists = [
        index.scan(query, top, em.inv_temperature, tile_lse=False, exclude=problem.exclude).ids.to(
            query.device
        )
        for index, query in queries
    ]
    drawn = propose(problem, over_kb)
    rows = distinct(torch.cat([*lists, drawn.rows], dim=1))
    scores = retriever_scores(problem, over_kb, rows)
    assert scores.posterior_logp is not None
    example, slot = (rows >= 0).nonzero(as_tuple=True)
    prior_rank, posterior_rank = (_ranks(found, rows).cpu() for found in lists)
    return ScoredCandidates(
        problem=problem,
        rows=rows.cpu(),
        prior_logp=scores.prior_logp.double().cpu(),
        posterior_logp=scores.posterior_logp.double().cpu(),
        prior_rank=prior_rank,
        posterior_rank=posterior_rank,
        example=example,
        row=rows[example, slot],
    )


def _ranks(found: Tensor, rows: Tensor) -> Tensor:
    """Place of each of rows [B, C] in found [B, n], n where it is not there."""
    same = (rows[:, :, None] == found[:, None, :]) & (rows >= 0)[:, :, None]
    first = same.int().argmax(dim=2)
    return first.where(same.any(dim=2), found.shape[1])


def joined(pools: Sequence[Pool]) -> Pool:
    """One pool of all batches, padded to the fullest."""
    width = max(pool.rows.shape[1] for pool in pools)
    padding: Mapping[str, float] = {
        "rows": -1,
        "prior_logp": -torch.inf,
        "posterior_logp": -torch.inf,
        "response_logp": -torch.inf,
        "prior_rank": width,
        "posterior_rank": width,
    }
    padded: dict[str, Any] = {
        name: torch.cat(
            [
                torch.nn.functional.pad(
                    getattr(pool, name), (0, width - pool.rows.shape[1]), value=value
                )
                for pool in pools
            ]
        )
        for name, value in padding.items()
    }
    return replace(pools[0], ids=[id for pool in pools for id in pool.ids], **padded)
