"""The evidence check during a run: which examples and passages it looks at, and when.

The lists are taken once, from the *untrained* retrievers, and kept in the run folder: a posterior
trained on a likelihood agrees with it by construction, so later lists would prove nothing. What the
check computes is ``models/evidence.py``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jsarag import randomness
from jsarag.assemble import Parts
from jsarag.config.schema import GuardConfig
from jsarag.errors import CheckpointError
from jsarag.index.rows import excluded_rows
from jsarag.io.records import read_record, write_record
from jsarag.models.evidence import Evidence, evidence_check, generator_scorer
from jsarag.models.prompts import render_context
from jsarag.train.problem import Windows
from jsarag.types import Example

_BATCH = 64


@dataclass(frozen=True, slots=True)
class EvidenceProbe:
    """Training examples (positions in the split) and the lists both retrievers had for them.

    posterior_rows, prior_rows: int64 [n, m], best first, -1 pads.
    """

    indices: list[int]
    posterior_rows: Tensor
    prior_rows: Tensor

    def save(self, path: Path) -> None:
        """Keep the lists for a continued run."""
        write_record(
            path,
            {
                "indices": self.indices,
                "posterior_rows": self.posterior_rows.tolist(),
                "prior_rows": self.prior_rows.tolist(),
            },
        )

    @classmethod
    def load(cls, path: Path) -> EvidenceProbe:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        fix = (
            "restore it from a copy, or switch the check off with --set guards.evidence_every=0: "
            "trained retrievers cannot make these lists again"
        )
        content = read_record(path, fix=fix)
        try:
            return cls(
                list(content["indices"]),
                torch.tensor(content["posterior_rows"], dtype=torch.int64),
                torch.tensor(content["prior_rows"], dtype=torch.int64),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: expected lists of passages ({error!r}); {fix}"
            ) from error


@torch.no_grad()
def make_probe(parts: Parts, guards: GuardConfig, windows: Windows, seed: int) -> EvidenceProbe:
    """Choose training examples and search for them with the retrievers as they are."""
    train = parts.dataset.splits["train"]
    order = randomness.permutation(seed, "evidence examples", 0, len(train))
    indices = sorted(order[: guards.evidence_examples].tolist())
    depth = 2 * guards.evidence_passages
    lists: dict[str, list[Tensor]] = {"posterior": [], "prior": []}
    for start in range(0, len(indices), _BATCH):
        batch = [train[index] for index in indices[start : start + _BATCH]]
        exclude = excluded_rows(parts.dataset.kb, batch, parts.device)
        queries = {
            "posterior": parts.retrievers.encode_posterior(batch, windows.posterior_turns),
            "prior": parts.retrievers.encode_contexts(batch, windows.context_turns),
        }
        for name, index in (("posterior", parts.posterior_index), ("prior", parts.prior_index)):
            lists[name].append(index.search(queries[name], depth, exclude).ids.cpu())
    return EvidenceProbe(indices, torch.cat(lists["posterior"]), torch.cat(lists["prior"]))


def check_evidence(
    parts: Parts, probe: EvidenceProbe, guards: GuardConfig, windows: Windows, seed: int
) -> Evidence:
    """Run the check with the generator as it is now."""
    train = parts.dataset.splits["train"]
    examples: Sequence[Example] = [train[index] for index in probe.indices]
    responses = [example.response for example in examples]
    scorer = generator_scorer(
        parts.generator,
        [render_context(example, windows.generator_turns) for example in examples],
        responses,
        lambda row: parts.dataset.kb[row],
    )
    return evidence_check(
        probe.posterior_rows,
        probe.prior_rows,
        responses,
        scorer,
        passages=guards.evidence_passages,
        seed=seed,
    )
