"""The demo dataset: made in a second from ``demo_texts.toml``, the same on every machine.

Owners of sixty machines ask about faults in everyday words; the workshop's notes answer in the
workshop's words. Each note has a decoy, a note on the same machine that shares the owner's words
and answers nothing, so word overlap alone finds the decoy. The reply is built from the right note's
facts: it tells which passage was meant, and that is all label-free training has to learn from. The
last machines of each kind appear in dev only; what carries over to them is which fault is behind
which complaint. Gold passages are recorded for evaluation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from jsarag import randomness
from jsarag.types import Example, Passage

SEED = 2508
DEV_MACHINES = 4
"""Machines of each kind that no training row is about."""
TRAIN_ROWS, DEV_ROWS, DEV_ROWS_NEW = 700, 200, 160
"""Sizes; ``DEV_ROWS_NEW`` of the dev rows are about machines training never saw."""

_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class DemoData:
    """Passages in kb order, and the rows of both splits."""

    passages: tuple[Passage, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class _Case:
    """One machine with one fault: its facts, texts and the key of its note."""

    key: str
    name: str
    kind: str
    fault: int
    new: bool
    asks: tuple[str, ...]
    note: str
    decoy: str
    replies: tuple[str, ...]


def make_demo() -> DemoData:
    """Generate the dataset; takes no arguments because there is only one."""
    texts = _texts()
    cases = list(_cases(texts))
    passages, ids = _knowledge_base(texts, cases)
    seen = [case for case in cases if not case.new]
    new = [case for case in cases if case.new]
    train_asks = _ask_order("train", seen)
    train = _rows("train", texts, _spread(seen, train_asks, TRAIN_ROWS), ids)
    # Dev questions about known machines use a wording that training did not use for that note.
    held_out = {case.key: order[::-1] for case, order in zip(seen, train_asks, strict=True)}
    known_cases = [seen[at] for at in randomness.permutation(SEED, "demo known", 0, len(seen))]
    known = _spread(
        known_cases, [held_out[case.key] for case in known_cases], DEV_ROWS - DEV_ROWS_NEW
    )
    fresh = _spread(new, _ask_order("dev", new), DEV_ROWS_NEW)
    return DemoData(passages, train, _rows("dev", texts, [*fresh, *known], ids))


def _texts() -> dict[str, Any]:
    file = resources.files("jsarag.data") / "demo_texts.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _cases(texts: dict[str, Any]) -> Iterator[_Case]:
    parts: set[str] = set()
    for machine in texts["machine"]:
        names = machine["names"]
        for place, name in enumerate(names):
            for fault, words in enumerate(machine["fault"]):
                draw = randomness.generator(SEED, "demo facts", name, fault)
                facts = _facts(draw, name, parts)
                yield _Case(
                    key=f"{name}/{fault}",
                    name=name,
                    kind=machine["kind"],
                    fault=fault,
                    new=place >= len(names) - DEV_MACHINES,
                    asks=tuple(ask.format(**facts) for ask in words["ask"]),
                    note=_choice(draw, words["fix"]).format(**facts),
                    decoy=_choice(draw, words["decoy"]).format(**facts),
                    replies=tuple(reply.format(**facts) for reply in words["say"]),
                )


def _facts(draw: np.random.Generator, name: str, parts: set[str]) -> dict[str, Any]:
    """The slots of one machine's fault; its part code occurs nowhere else."""
    while True:
        letters = "".join(_choice(draw, _LETTERS) for _ in range(2))
        part = f"{letters}-{draw.integers(100, 1000)}"
        if part not in parts:
            break
    parts.add(part)
    return {
        "name": name,
        "part": part,
        "x": int(draw.integers(2, 10)),
        "y": int(draw.integers(12, 61)),
        "z": int(draw.integers(11, 49)) * 10,
    }


def _knowledge_base(
    texts: dict[str, Any], cases: Sequence[_Case]
) -> tuple[tuple[Passage, ...], dict[str, str]]:
    """All passages, shuffled before they are numbered so that no id tells note from decoy.

    Returns:
        The passages, and the id of each case's note by the case's key.
    """
    drafts: list[tuple[str, str, str]] = []
    for case in cases:
        title = f"{case.name} {case.kind}"
        drafts += [(case.key, title, case.note), ("", title, case.decoy)]
    for machine in texts["machine"]:
        for name in machine["names"]:
            draw = randomness.generator(SEED, "demo general", name)
            facts = _facts(draw, name, set())
            title = f"{name} {machine['kind']}"
            drafts += [("", title, entry["text"].format(**facts)) for entry in texts["general"]]
    passages: list[Passage] = []
    ids: dict[str, str] = {}
    for place, at in enumerate(randomness.permutation(SEED, "demo passages", 0, len(drafts))):
        key, title, text = drafts[at]
        passages.append(Passage(f"note-{place + 1:04d}", text, title))
        if key:
            ids[key] = passages[-1].id
    return tuple(passages), ids


def _ask_order(purpose: str, cases: Sequence[_Case]) -> list[list[int]]:
    """For each case, the order in which its wordings are used."""
    return [
        randomness.generator(SEED, "demo asks", purpose, case.key)
        .permutation(len(case.asks))
        .tolist()
        for case in cases
    ]


def _spread(
    cases: Sequence[_Case], orders: Sequence[Sequence[int]], count: int
) -> list[tuple[_Case, int]]:
    """``count`` (case, wording) pairs: every case once, then as many as needed a second time."""
    rounds = [
        (case, order[turn])
        for turn in range(-(-count // len(cases)))
        for case, order in zip(cases, orders, strict=True)
    ]
    return rounds[:count]


def _rows(
    split: str, texts: dict[str, Any], drafts: Sequence[tuple[_Case, int]], ids: dict[str, str]
) -> tuple[Example, ...]:
    rows = []
    for place, at in enumerate(randomness.permutation(SEED, f"demo {split}", 0, len(drafts))):
        case, wording = drafts[at]
        draw = randomness.generator(SEED, "demo row", split, case.key, wording)
        question = _choice(draw, texts["openings"]) + case.asks[wording]
        question = (
            f"{question[0].upper()}{question[1:]}. {_choice(draw, texts['closings'])}".strip()
        )
        replies = [case.replies[turn] for turn in draw.permutation(len(case.replies))]
        identity = f"demo-{split}-{place + 1:03d}"
        rows.append(
            Example(
                id=identity,
                answers=tuple(replies),
                question=question,
                gold_passages=(ids[case.key],),
                dialogue_id=f"{case.key}",
            )
        )
    return tuple(rows)


def _choice(draw: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(draw.integers(len(items)))]
