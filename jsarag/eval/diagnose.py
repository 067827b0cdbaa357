"""What a run folder shows of how the method went: over training, on some rows, by question.

Two sources: the folder's own records (what was logged, what was retrieved before and after), read
here; and a :class:`Sample` of training rows that was scored with the run's models, made by
``train/diagnose.py``. Drawing them is ``diagnose_page``'s and the command line's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jsarag.eval.chain_facts import ChainFacts
from jsarag.eval.estimator_errors import EstimatorRow
from jsarag.eval.panels import station_seconds
from jsarag.eval.report_format import is_number
from jsarag.eval.run_record import EvalRecord, RunRecord

# Key of a row in metrics.jsonl -> what it is called.
SERIES: Mapping[str, str] = {
    "acceptance_rate": "acceptance rate",
    "ess": "effective sample size",
    "prior_posterior_overlap": "prior/posterior overlap",
    "kl_posterior": "KL(w || q), nats",
    "weight_entropy": "entropy of v, nats",
    "evidence_spread": "evidence spread, nats",
    "distinct_candidates": "passages scored, an example",
    "distinct_passages": "distinct first passages",
    "distinct_ratio": "the same, as a share",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Training rows scored with the run's parts at one state.

    Attributes:
        checkpoint: ``untrained`` or ``last``. step: of the state, None where untrained.
        rows: how many. top: passages taken from each retriever. passages: scored, an example.
        visits: replicates of every sampling estimator.
        chosen: the run's own ``estimator``, ``support``, ``mis_steps`` and ``k``.
        tail: mass of p and q outside the pool, which is ignored.
        divergences: see :func:`jsarag.eval.estimator_errors.divergences`.
        distinct_first: distinct passages among the prior's first ones.
        chain: on the pool, in closed form.
        errors: every estimator at every setting.
        timed_rows: examples the seconds were measured on.
        notes: what the reader must know.
    """

    checkpoint: str
    step: int | None
    rows: int
    top: int
    passages: float
    visits: int
    chosen: Mapping[str, Any]
    tail: Mapping[str, Mapping[str, float]]
    divergences: Mapping[str, float]
    distinct_first: int
    chain: ChainFacts
    errors: Sequence[EstimatorRow]
    timed_rows: int
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {
            "chosen": dict(self.chosen),
            "tail": {name: dict(value) for name, value in self.tail.items()},
            "divergences": dict(self.divergences),
            "chain": self.chain.to_json(),
            "errors": [row.to_json() for row in self.errors],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """A retrieved passage: its place from 1, its name, whether it is gold."""

    rank: int
    title: str
    gold: bool


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the evaluated split and the place of its gold passage, before and after.

    A rank is None where no gold passage was among those retrieved (or nothing was evaluated then).
    """

    id: str
    context: str
    gold: Sequence[str]
    gold_title: str
    before: int | None
    after: int | None
    posterior_before: int | None
    posterior_after: int | None
    retrieved_before: Sequence[Found]
    retrieved_after: Sequence[Found]

    @property
    def failed(self) -> bool:
        """Whether a passage that is not gold comes first."""
        return self.after != 1

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Questions:
    """All questions with gold passages, in the split's order.

    Attributes:
        split: its name. k: passages stored of each retrieval. items: the questions.
        without_gold: questions left out. has_before: whether the start was evaluated, too.
    """

    split: str
    k: int
    items: Sequence[Question]
    without_gold: int
    has_before: bool

    @property
    def better(self) -> list[Question]:
        """Where the gold passage rose; the largest rises first."""
        return sorted((item for item in self.items if self._change(item) < 0), key=self._change)

    @property
    def worse(self) -> list[Question]:
        """Where it fell; the largest falls first."""
        fallen = [item for item in self.items if self._change(item) > 0]
        return sorted(fallen, key=lambda item: -self._change(item))

    @property
    def failures(self) -> list[Question]:
        """Where no gold passage comes first: what fell, then what was not found, then by rank."""
        failed = [item for item in self.items if item.failed]
        return sorted(
            failed,
            key=lambda item: (-max(self._change(item), 0), item.after is not None, item.after or 0),
        )

    def share(self, when: str, most: int) -> float | None:
        """Share of questions with a gold passage among the first ``most``; 'before' or 'after'."""
        if not self.items or (when == "before" and not self.has_before):
            return None
        ranks = [item.before if when == "before" else item.after for item in self.items]
        found = [rank for rank in ranks if rank is not None and rank <= most]
        return len(found) / len(ranks)

    def to_json(self) -> dict[str, Any]:
        """JSON types: shares found, ids that got better and worse, failures whole."""
        return {
            "split": self.split,
            "k": self.k,
            "n": len(self.items),
            "without_gold": self.without_gold,
            "found": {
                when: {"at_1": self.share(when, 1), "at_k": self.share(when, self.k)}
                for when in ("before", "after")
            },
            "better": [item.id for item in self.better],
            "worse": [item.id for item in self.worse],
            "failures": [item.to_json() for item in self.failures],
        }

    def _change(self, item: Question) -> int:
        """How far the gold passage fell; not retrieved counts as the first place beyond."""
        if not self.has_before:
            return 0
        return (item.after or self.k + 1) - (item.before or self.k + 1)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything ``jsarag diagnose`` shows; a part that is not there is None.

    ``record`` is the folder's content, ``notes`` what could not be read or was left out.
    """

    record: RunRecord
    sample: Sample | None = None
    questions: Questions | None = None
    notes: Sequence[str] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """``{"run", "step", "finished", "training", "sample", "questions", "notes"}``."""
        return {
            "run": self.record.name,
            "step": self.record.step,
            "finished": self.record.finished,
            "training": {
                "series": training_series(self.record),
                "stations": station_seconds(self.record.rows),
            },
            "sample": None if self.sample is None else self.sample.to_json(),
            "questions": None if self.questions is None else self.questions.to_json(),
            "notes": list(self.notes),
        }


def training_series(record: RunRecord) -> dict[str, dict[str, list[float]]]:
    """The logged numbers of :data:`SERIES` there are: name -> ``{"steps", "values"}``."""
    rows = [row for row in record.rows_of("train") if is_number(row.get("step"))]
    found = {}
    for name in SERIES:
        points = [(row["step"], float(row[name])) for row in rows if is_number(row.get(name))]
        if points:
            steps, values = zip(*points, strict=True)
            found[name] = {"steps": list(steps), "values": list(values)}
    return found


def read_questions(record: RunRecord, titles: Mapping[str, str] | None = None) -> Questions | None:
    """Pair the rows of the evaluations before and after training.

    Args:
        record: of the run.
        titles: of passages by id, where known; what was retrieved names itself.

    Returns:
        None where no evaluation stored its rows.
    """
    before, after = _rows(record.before), _rows(record.after)
    if not after:  # not trained yet: what the start finds is all there is
        before, after = [], before
    if not after:
        return None
    earlier = {row.get("id"): row for row in before}
    known = _titles([*before, *after]) | dict(titles or {})
    labelled = [row for row in after if row.get("gold_passages")]
    items = [_question(row, earlier.get(row.get("id")), known) for row in labelled]
    stored = max((len(row.get("passages") or []) for row in after), default=0)
    return Questions(record.split, stored, items, len(after) - len(items), bool(before))


def unnamed_gold(questions: Questions) -> set[str]:
    """Ids of gold passages nothing retrieved ever named; their titles are in the data set alone."""
    return {id for item in questions.items if item.gold_title == item.gold[0] for id in item.gold}


def _rows(found: EvalRecord | None) -> list[dict[str, Any]]:
    return [] if found is None else found.predictions


def _titles(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {
        str(passage["id"]): str(passage["title"])
        for row in rows
        for passage in row.get("passages") or []
        if passage.get("id") is not None and passage.get("title")
    }


def _question(
    row: Mapping[str, Any], earlier: Mapping[str, Any] | None, titles: Mapping[str, str]
) -> Question:
    gold = [str(name) for name in row["gold_passages"]]
    past: Mapping[str, Any] = earlier or {}
    return Question(
        id=str(row.get("id", "")),
        context=str(row.get("context", "")),
        gold=gold,
        gold_title=next((titles[name] for name in gold if titles.get(name)), gold[0]),
        before=_gold_rank(past, "passages"),
        after=_gold_rank(row, "passages"),
        posterior_before=_gold_rank(past, "posterior_passages"),
        posterior_after=_gold_rank(row, "posterior_passages"),
        retrieved_before=_retrieved(past),
        retrieved_after=_retrieved(row),
    )


def _gold_rank(row: Mapping[str, Any], key: str) -> int | None:
    places = enumerate(row.get(key) or [], start=1)
    return next((place for place, passage in places if passage.get("gold")), None)


def _retrieved(row: Mapping[str, Any]) -> list[Found]:
    return [
        Found(
            place, str(passage.get("title") or passage.get("id") or ""), bool(passage.get("gold"))
        )
        for place, passage in enumerate(row.get("passages") or [], start=1)
    ]
