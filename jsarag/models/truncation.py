"""Shortens text to a number of tokens by cutting the string, not the token list.

Cutting the string and tokenising the whole prompt afterwards keeps a tokeniser's behaviour at word
and field boundaries; joining token lists does not. Which end survives is the caller's rule
(``prompts`` states it); the pieces a cut leaves are counted there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jsarag.models.prompts import TruncationCounter

Keep = Literal["start", "end"]


def token_ids(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    """Untruncated token ids of each text, with or without the tokeniser's special tokens."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=special, truncation=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def cut_texts(
    tokenizer: Any,
    texts: Sequence[str],
    limit: int,
    *,
    keep: Keep,
    counter: TruncationCounter,
    field: str,
) -> list[str]:
    """The texts, each shortened to its first or last ``limit`` tokens, special tokens not counted.

    Args:
        tokenizer: a transformers tokeniser.
        texts: any texts; those short enough come back unchanged.
        limit: the most tokens kept.
        keep: which end survives.
        counter: told about every text, under ``field``.
        field: the counter's name for these texts.
    """
    if not texts:
        return []
    lengths, cuts = _measure(tokenizer, texts, limit, keep)
    for length in lengths:
        counter.add(field, tokens=length, kept=min(length, limit))
    return cuts


def fit_text(
    tokenizer: Any, text: str, limit: int, *, keep: Keep, before: str = "", after: str = ""
) -> tuple[list[int], str]:
    """Token ids of ``before + text + after``, special tokens included, at most ``limit`` of them.

    Only ``text`` is cut. Returns the ids and what is left of ``text``.
    """

    def encode(part: str) -> list[int]:
        return token_ids(tokenizer, [before + part + after], special=True)[0]

    ids = encode(text)
    if len(ids) <= limit:
        return ids, text
    room = limit - len(encode(""))
    part = text
    while True:
        part = _measure(tokenizer, [part], room, keep)[1][0]
        ids = encode(part)
        if len(ids) <= limit or not part:
            return ids[:limit], part
        # A cut inside a word may tokenise into more pieces than it had: leave the next one out too.
        room -= 1


def _measure(
    tokenizer: Any, texts: Sequence[str], limit: int, keep: Keep
) -> tuple[list[int], list[str]]:
    """Token counts of the texts and the texts cut to ``limit`` tokens."""
    if not tokenizer.is_fast:
        return _measure_without_offsets(tokenizer, texts, limit, keep)
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    lengths, cuts = [], []
    for text, offsets in zip(texts, encoded["offset_mapping"], strict=True):
        lengths.append(len(offsets))
        if len(offsets) <= limit:
            cuts.append(text)
        elif limit <= 0:
            cuts.append("")
        elif keep == "start":
            cuts.append(text[: offsets[limit - 1][1]])
        else:
            cuts.append(text[offsets[-limit][0] :])
    return lengths, cuts


def _measure_without_offsets(
    tokenizer: Any, texts: Sequence[str], limit: int, keep: Keep
) -> tuple[list[int], list[str]]:
    """For tokenisers written in Python, which know no offsets: decode what is kept."""
    rows = token_ids(tokenizer, texts, special=False)
    cuts = []
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) <= limit:
            cuts.append(text)
        elif limit <= 0:
            cuts.append("")
        else:
            cuts.append(str(tokenizer.decode(ids[:limit] if keep == "start" else ids[-limit:])))
    return [len(ids) for ids in rows], cuts
