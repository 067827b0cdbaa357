"""Rankings and gold passages as TREC's ``run`` and ``qrels`` files: for ir_measures, trec_eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsarag.errors import DataError
from jsarag.eval.evaluate import Evaluation
from jsarag.io.atomic import write_text

QRELS_FILE = "qrels.txt"
_RANKINGS = {"prior": "passages", "posterior": "posterior_passages"}


def write_trec(evaluation: Evaluation, folder: Path | str) -> list[Path]:
    """Write ``run.prior.txt``, ``run.posterior.txt`` (where there is one) and ``qrels.txt``.

    A run file holds the ``eval.k`` best passages of every row, so measures deeper than that need a
    larger ``eval.k``. ``Success@k`` of these files is our R@k (any gold passage counts), ``RR@10``
    our MRR@10. Rows without gold are in no qrels, as they are in none of our scores.

    Args:
        evaluation: with its predictions.
        folder: made if need be; files of the same names there are replaced.

    Returns:
        The files, qrels last.

    Raises:
        DataError: an id with white space, which the format separates its columns by.
    """
    rows = evaluation.predictions
    written = []
    for part, key in _RANKINGS.items():
        if any(key in row for row in rows):
            lines = [line for row in rows for line in _ranking(row["id"], row[key], part)]
            written.append(_write(Path(folder) / f"run.{part}.txt", lines))
    judged = [(row["id"], passage) for row in rows for passage in row["gold_passages"]]
    lines = [f"{_cell(row)} 0 {_cell(passage)} 1" for row, passage in judged]
    return [*written, _write(Path(folder) / QRELS_FILE, lines)]


def _ranking(row: str, passages: Sequence[Mapping[str, Any]], part: str) -> list[str]:
    lines = []
    score = np.float32(np.inf)
    for passage in passages:
        # Tools sort by score, in 32 bits, and break ties by id: keep our order.
        score = min(np.float32(passage["score"]), np.nextafter(score, np.float32(-np.inf)))
        lines.append(
            f"{_cell(row)} Q0 {_cell(passage['id'])} {passage['rank']} {score:.9g} jsarag-{part}"
        )
    return lines


def _cell(text: str) -> str:
    if len(text.split()) != 1 or text != text.strip():
        raise DataError(
            f"--trec: expected ids without white space, found {text!r}, which would tear TREC's "
            "columns apart; rename it, or read predictions.jsonl"
        )
    return text


def _write(path: Path, lines: Sequence[str]) -> Path:
    write_text(path, "".join(f"{line}\n" for line in lines))
    return path
