"""Two evaluations of the same rows, side by side: differences with intervals and p-values.

Reads the rows of ``predictions.jsonl`` and nothing else, so runs made long ago or elsewhere can be
compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsarag.errors import DataError
from jsarag.eval.evaluate import PREDICTIONS_FILE
from jsarag.eval.generation import scores_from_rows
from jsarag.eval.significance import Difference, Statistic, differences, group_rows, mean_statistic
from jsarag.io.faults import storage_error

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``after`` minus ``before``.

    Attributes:
        prior, posterior, generation: metric -> difference, None where one dialogue or none is
            left; empty where one of the two evaluations lacks these scores.
        rows: examples both were evaluated on.
        dropped: examples only one of them has.
    """

    prior: dict[str, Difference | None]
    posterior: dict[str, Difference | None]
    generation: dict[str, Difference | None]
    rows: int
    dropped: int

    def to_json(self) -> dict[str, Any]:
        """JSON types: each difference as {"value", "low", "high", "p_value"}."""

        def plain(group: Mapping[str, Difference | None]) -> dict[str, Any]:
            return {name: None if item is None else item._asdict() for name, item in group.items()}

        return {
            "retrieval": {"prior": plain(self.prior), "posterior": plain(self.posterior)},
            "generation": plain(self.generation),
            "rows": self.rows,
            "dropped": self.dropped,
        }


def compare_predictions(
    before: Sequence[Row], after: Sequence[Row], *, samples: int = 2000, seed: int = 1
) -> Comparison:
    """Paired comparison of two evaluations' rows, matched by example id.

    Args:
        before: rows of one evaluation.
        after: rows of the other.
        samples: bootstrap resamples and random exchanges.
        seed: of both.
    """
    known = {row["id"]: row for row in before}
    pairs = [(known[row["id"]], row) for row in after if row["id"] in known]
    found = {
        name: _compare(pairs, name, samples=samples, seed=seed)
        for name in ("prior", "posterior", "generation")
    }
    return Comparison(**found, rows=len(pairs), dropped=len(before) + len(after) - 2 * len(pairs))


def read_predictions(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of an evaluation folder's ``predictions.jsonl``.

    Raises:
        DataError: the file is missing or holds a line that is no JSON object.
    """
    path = Path(folder) / PREDICTIONS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            "expected an evaluation's predictions, found no such file; run `jsarag eval` first",
            path=path,
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"expected UTF-8, found byte 0x{error.object[error.start]:02x} at position "
            f"{error.start}; evaluate again",
            path=path,
        ) from error
    except OSError as error:
        raise storage_error(path, error) from error
    rows = []
    # Not splitlines(): texts may hold U+2028 and its like, which JSON leaves as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"expected one JSON object per line ({error}); evaluate again",
                path=path,
                line=number,
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                "expected one JSON object per line; evaluate again", path=path, line=number
            )
        rows.append(row)
    return rows


def _compare(
    pairs: Sequence[tuple[Row, Row]], group: str, *, samples: int, seed: int
) -> dict[str, Difference | None]:
    scored = [
        (first, second)
        for first, second in pairs
        if first["metrics"].get(group) and second["metrics"].get(group)
    ]
    if not scored:
        return {}
    groups = group_rows(
        [second["dialogue_id"] for _, second in scored], [second["id"] for _, second in scored]
    )
    return differences(
        _statistics([first["metrics"][group] for first, _ in scored], group),
        _statistics([second["metrics"][group] for _, second in scored], group),
        groups,
        samples=samples,
        seed=seed,
    )


def _statistics(rows: Sequence[Mapping[str, Any]], group: str) -> dict[str, Statistic]:
    if group == "generation":
        return scores_from_rows(rows).statistics()
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: mean_statistic([row[name] for row in rows]) for name in names}
