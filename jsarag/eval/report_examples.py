"""Some questions of a report: what was retrieved and answered before and after training.

The choice is a rule, not a selection of successes: the largest gains, the largest losses and some
that stayed wrong, or without gold passages those whose retrieval changed most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from jsarag.eval.run_record import RunRecord

_GAINS, _LOSSES, _WRONG = 3, 2, 1
_CHANGED = 6
_SHOWN = 4
_LONGEST = 700

Row = Mapping[str, Any]


class Pair(NamedTuple):
    """The same question before (None if not stored) and after."""

    before: Row | None
    after: Row


def examples(record: RunRecord) -> str:
    """The section, or '' where no rows are stored."""
    pairs = _pairs(record)
    if not pairs:
        return ""
    known = [pair for pair in pairs if pair.after.get("gold_passages")]
    chosen = _by_gold(known) if known else _by_change(pairs)
    if not chosen:
        return ""
    rule = (
        "Chosen by rule: where the gold passage rose most, fell most, and where it stayed out of "
        "reach."
        if known
        else "Chosen by rule: where retrieval changed most. No gold passages are known."
    )
    late = "After training" if record.finished else "Latest"
    cards = "".join(_card(pair, late) for pair in chosen)
    return f'<h2>Examples from {escape(record.split)}</h2><p class="lead">{rule}</p>{cards}'


def _pairs(record: RunRecord) -> list[Pair]:
    after = record.after.predictions if record.after is not None else []
    before = record.before.predictions if record.before is not None else []
    if not after:
        return [Pair(None, row) for row in before]
    known = {row.get("id"): row for row in before}
    return [Pair(known.get(row.get("id")), row) for row in after]


def _by_gold(pairs: Sequence[Pair]) -> list[Pair]:
    moved = [(_rank(pair.before) - _rank(pair.after), place) for place, pair in enumerate(pairs)]
    gains = sorted((item for item in moved if item[0] > 0), key=lambda item: (-item[0], item[1]))
    losses = sorted(item for item in moved if item[0] < 0)
    wrong = [item for item in moved if item[0] == 0 and _rank(pairs[item[1]].after) > 1]
    chosen = [*gains[:_GAINS], *losses[:_LOSSES], *wrong[:_WRONG]]
    if not chosen:
        chosen = moved[: _GAINS + _LOSSES]
    return [pairs[place] for _, place in chosen]


def _by_change(pairs: Sequence[Pair]) -> list[Pair]:
    def kept(pair: Pair) -> int:
        before = {item.get("id") for item in _passages(pair.before)}
        return sum(item.get("id") in before for item in _passages(pair.after))

    return sorted(pairs, key=kept)[:_CHANGED]


def _rank(row: Row | None) -> int:
    """Rank of the first gold passage; one below the stored ones where none of them is gold."""
    passages = _passages(row)
    ranks = (place for place, item in enumerate(passages, start=1) if item.get("gold"))
    return next(ranks, len(passages) + 1)


def _passages(row: Row | None) -> list[Row]:
    return [] if row is None else list(row.get("passages") or [])


def _card(pair: Pair, late: str) -> str:
    row = pair.after
    lists = [_list("Before training", pair.before)] if pair.before is not None else []
    lists.append(_list(late if pair.before is not None else "Retrieved", row))
    return (
        f'<article class="card example"><header><h3>{_heading(pair)}</h3>'
        f'<span class="id">{escape(str(row.get("id", "")))}</span></header>'
        f'<p class="context">{escape(_shortened(str(row.get("context", "")), keep_end=True))}</p>'
        f'{_answers(pair)}<div class="lists">{"".join(lists)}</div></article>'
    )


def _heading(pair: Pair) -> str:
    if not pair.after.get("gold_passages"):
        return "No gold passage known"
    before, after = _rank(pair.before), _rank(pair.after)
    if pair.before is None:
        return f"Gold passage {_place(pair.after)}"
    if before == after:
        return f"Gold passage stays {_place(pair.after)}"
    tone = "good" if after < before else "bad"
    return f'Gold passage <span class="{tone}">{_place(pair.before)} → {_place(pair.after)}</span>'


def _place(row: Row) -> str:
    rank, stored = _rank(row), len(_passages(row))
    return f"at rank {rank}" if rank <= stored else f"beyond rank {stored}"


def _answers(pair: Pair) -> str:
    answers = [str(answer) for answer in pair.after.get("answers") or []]
    items = [("Response", " / ".join(answers[:3]))] if answers else []
    for name, row in (("Generated before", pair.before), ("Generated after", pair.after)):
        text = None if row is None else row.get("prediction")
        if text is not None:
            items.append((name, str(text) or "(empty)"))
    pairs = "".join(f"<dt>{name}</dt><dd>{escape(_shortened(text))}</dd>" for name, text in items)
    return f'<dl class="answers">{pairs}</dl>' if pairs else ""


def _list(title: str, row: Row | None) -> str:
    passages = _passages(row)
    items = "".join(_item(passage) for passage in passages[:_SHOWN])
    below = next((item for item in passages[_SHOWN:] if item.get("gold")), None)
    more = ""
    if below is not None:
        more = f'<p class="below">… gold passage at rank {int(below["rank"])}: {_name(below)}</p>'
    empty = "" if passages else '<p class="below">nothing retrieved</p>'
    return f"<div><h4>{title}</h4><ol>{items}</ol>{more}{empty}</div>"


def _item(passage: Row) -> str:
    gold = bool(passage.get("gold"))
    badge = ' <span class="badge">● gold</span>' if gold else ""
    text = str(passage.get("text") or "")
    score = passage.get("score")
    meta = f' <span class="meta">{score:.3f}</span>' if isinstance(score, int | float) else ""
    excerpt = f'<span class="excerpt">{escape(text)}</span>' if text else ""
    rank = escape(str(passage.get("rank", "")))
    return (
        f'<li{" class=gold" if gold else ""}><span class="rank">{rank}</span>'
        f"<div><b>{_name(passage)}</b>{badge}{meta}{excerpt}</div></li>"
    )


def _name(passage: Row) -> str:
    return escape(str(passage.get("title") or passage.get("id") or ""))


def _shortened(text: str, *, keep_end: bool = False) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"… {text[-_LONGEST:]}" if keep_end else f"{text[:_LONGEST]} …"
