"""What an estimator's candidates and scores cost in seconds, by running the two stations.

Without gradient, on a few examples together; the way back through the models costs every estimator
alike, by what has weight.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from jsarag.em.chains import ChainStore
from jsarag.em.objectives.jsa import Jsa
from jsarag.em.problem import EMSettings, Problem
from jsarag.em.proposals import scored_slots
from jsarag.em.scoring import response_scores, retriever_scores
from jsarag.types import Candidates, Estimator, Support

# How often something is timed at most, and the seconds that are enough.
_REPEATS, _ENOUGH_S = 5, 0.2


@dataclass
class StationCosts:
    """Measures the stations candidates and score of some examples, one setting at a time.

    ``held`` int64 [B] are rows that cached chains hold.
    """

    problem: Problem
    em: EMSettings
    held: Tensor
    _known: dict[tuple[str, EMSettings], float] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        """How many examples are timed together."""
        return len(self.problem.example_ids)

    def draws(self, estimator: Estimator, mis_steps: int) -> float:
        """Median seconds an example; estimators of equal draws share a measurement."""
        measured: Estimator = "mis-cached" if estimator == "mis-cached" else "snis"
        settings = replace(self.em, estimator=measured, mis_steps=mis_steps)
        return self._retrieval(settings) + self._generator(settings)

    def enumeration(self, support: Support, k: int) -> float:
        """The same for the estimator that enumerates."""
        settings = replace(self.em, estimator="exact", support=support, k=k)
        # Under kb the union is enumerated, too: the generator reads the same pairs.
        scored = replace(settings, support="union") if support == "kb" else settings
        return self._retrieval(settings) + self._generator(scored)

    def _retrieval(self, settings: EMSettings) -> float:
        def run() -> float:
            found = self._candidates(settings)
            scores = found.retriever or retriever_scores(self.problem, settings, found.rows)
            return float(scores.prior_logp[0, 0])

        return self._median("retrieval", settings, run)

    def _generator(self, settings: EMSettings) -> float:
        found = self._candidates(settings)
        chosen = scored_slots(found)

        def run() -> float:
            return float(response_scores(self.problem, settings, found.rows, chosen)[0, 0])

        return self._median("generator", settings, run)

    def _candidates(self, settings: EMSettings) -> Candidates:
        chains = ChainStore()
        chains.put(self.problem.example_ids, self.held)
        return Jsa(settings, chains).candidates(self.problem)

    def _median(self, station: str, settings: EMSettings, run: Callable[[], float]) -> float:
        """Of some runs; each ends with a number on the host, so a GPU's work is in its time."""
        key = (station, settings)
        if key not in self._known:
            spent: list[float] = []
            while len(spent) < _REPEATS and sum(spent) < _ENOUGH_S:
                began = time.perf_counter()
                run()
                spent.append(time.perf_counter() - began)
            self._known[key] = sorted(spent)[len(spent) // 2] / self.examples
        return self._known[key]
