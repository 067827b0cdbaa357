"""What a benchmark run found: rows, ceilings, machine; and the row that is kept on file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsarag_bench.cases import Case, Target
from jsarag_bench.timing import Timing


@dataclass(frozen=True, slots=True)
class PeerTiming:
    """A rival's timing and the dtype it computes in."""

    timing: Timing
    dtype: str


@dataclass(frozen=True, slots=True)
class TargetResult:
    """A target, what was measured against it, and whether it is met (None: not measurable)."""

    target: Target
    measured: float | None

    @property
    def met(self) -> bool | None:
        """None where whom to compare with is missing."""
        if self.measured is None:
            return None
        if self.target.at_most is not None:
            return self.measured <= self.target.at_most
        return self.measured >= (self.target.at_least or 0.0)


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One case.

    Attributes:
        max_error, error_budget: of the check that came closest to its budget, named by ``check``.
        peers: timed rivals by name.
        skipped: rivals not timed, and why.
        companions: variants of ours.
        floor_ms: time at the measured ceilings, None where none is claimed.
        peer_bytes: extra bytes of the rivals a memory target names.
    """

    case: Case
    backend: str
    timing: Timing
    extra_bytes: int | None
    check: str
    max_error: float
    error_budget: float
    peers: Mapping[str, PeerTiming]
    skipped: Mapping[str, str]
    companions: Mapping[str, Timing] = field(default_factory=dict)
    floor_ms: float | None = None
    peer_bytes: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def ratio_best_peer(self) -> float | None:
        """Best rival's median over ours: above 1 we are faster."""
        return self._ratio(list(self.peers.values()))

    @property
    def share_of_ceiling(self) -> float | None:
        """Time at the measured ceilings over ours: 1 is the best this machine can do."""
        return None if self.floor_ms is None else self.floor_ms / self.timing.median_ms

    def to_json(self) -> dict[str, Any]:
        """The keys users of ``jsarag bench --json`` rely on; a rival not timed is null."""
        peers: dict[str, float | None] = {
            name: peer.timing.median_ms for name, peer in self.peers.items()
        }
        return {
            "op": self.case.op,
            "case": self.case.name,
            "backend": self.backend,
            "dtype": self.case.dtype,
            "median_ms": self.timing.median_ms,
            "p20_ms": self.timing.p20_ms,
            "p80_ms": self.timing.p80_ms,
            "extra_bytes": self.extra_bytes,
            "max_error": self.max_error,
            "error_budget": self.error_budget,
            "peers": peers | dict.fromkeys(self.skipped),
            "ratio_best_peer": self.ratio_best_peer,
            "share_of_ceiling": self.share_of_ceiling,
        }

    def to_record(self) -> dict[str, Any]:
        """The same and everything behind it, for the file of rows."""
        return {
            **self.to_json(),
            "device": self.case.device,
            "shape": dict(self.case.shape),
            "k": self.case.k,
            "options": dict(self.case.options),
            "repetitions": self.timing.repetitions,
            "check": self.check,
            "floor_ms": self.floor_ms,
            "peer_details": {
                name: {
                    "dtype": peer.dtype,
                    "p20_ms": peer.timing.p20_ms,
                    "p80_ms": peer.timing.p80_ms,
                    "repetitions": peer.timing.repetitions,
                }
                for name, peer in self.peers.items()
            },
            "skipped": dict(self.skipped),
            "companions": {name: timing.median_ms for name, timing in self.companions.items()},
            "peer_extra_bytes": dict(self.peer_bytes),
            "targets": [
                {"text": found.target.text, "measured": found.measured, "met": found.met}
                for found in self.targets
            ],
        }

    @property
    def targets(self) -> list[TargetResult]:
        """Every target of the case, judged."""
        return [TargetResult(target, self._measured(target)) for target in self.case.targets]

    def _measured(self, target: Target) -> float | None:
        if target.memory:
            theirs = self.peer_bytes.get(target.against)
            return None if self.extra_bytes is None or not theirs else self.extra_bytes / theirs
        faster = self._against(target.against)
        if faster is None or target.at_least is not None:
            return faster
        return 1.0 / faster

    def _against(self, name: str) -> float | None:
        """Their time over ours."""
        if name == "floor":
            return self.share_of_ceiling
        if name == "best":
            return self.ratio_best_peer
        if name.startswith("best "):
            dtype = name.removeprefix("best ")
            return self._ratio([peer for peer in self.peers.values() if peer.dtype == dtype])
        if name in self.companions:
            return self.companions[name].median_ms / self.timing.median_ms
        return self._ratio([self.peers[name]]) if name in self.peers else None

    def _ratio(self, peers: Sequence[PeerTiming]) -> float | None:
        if not peers:
            return None
        return min(peer.timing.median_ms for peer in peers) / self.timing.median_ms


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole run.

    machine and ceilings: JSON types, see ``run.describe_machine`` and ``Ceilings.to_json``.
    """

    machine: Mapping[str, Any]
    ceilings: Mapping[str, Any]
    rows: Sequence[BenchRow]

    def to_json(self) -> dict[str, Any]:
        """``{"machine", "ceilings", "rows"}``."""
        return {
            "machine": dict(self.machine),
            "ceilings": dict(self.ceilings),
            "rows": [row.to_json() for row in self.rows],
        }

    def to_records(self) -> list[dict[str, Any]]:
        """A self-contained row per case: each carries machine and ceilings, its passport."""
        return [
            {
                "kind": "kernel",
                **row.to_record(),
                "machine": dict(self.machine),
                "ceilings": dict(self.ceilings),
            }
            for row in self.rows
        ]
