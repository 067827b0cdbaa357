"""Responses as token ids and back, for the generators that use the encoder's tokeniser.

One rule for both offline generators: a response keeps its beginning, ends with the end-of-sequence
token, and whatever is cut is counted. Leaves prompts of Hugging Face models to ``hf_prompts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jsarag.errors import ConfigError
from jsarag.models.prompts import TruncationCounter
from jsarag.models.truncation import token_ids


def end_of_sequence(tokenizer: Any) -> int:
    """The token id that ends a response: the tokeniser's end of sequence, else its separator.

    Raises:
        ConfigError: the tokeniser has neither.
    """
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise ConfigError(
        "generator: expected a tokeniser with an end-of-sequence or separator token, found "
        "neither, so responses could never end; set eos_token in its tokenizer_config.json"
    )


class ResponseCodec:
    """Responses to token ids and back.

    Args:
        tokenizer: a transformers tokeniser.
        max_tokens: the most tokens of a response, end of sequence included.
        counter: told what was cut, under 'generator response'.
        eos_id: the token that ends a response; None takes the tokeniser's own.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens: int,
        counter: TruncationCounter,
        *,
        eos_id: int | None = None,
    ) -> None:
        if max_tokens < 2:
            raise ConfigError(
                "generator.max_response_tokens: expected at least 2 (a token and the end of "
                f"sequence), got {max_tokens}"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.counter = counter
        self.eos_id = end_of_sequence(tokenizer) if eos_id is None else eos_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each response: the first ones, ``eos_id`` last."""
        distinct = list(dict.fromkeys(texts))
        rows = token_ids(self.tokenizer, [text.strip() for text in distinct], special=False)
        known: dict[str, list[int]] = {}
        for text, row in zip(distinct, rows, strict=True):
            # A response that spells out the end token would end twice.
            row = [token for token in row if token != self.eos_id]
            kept = row[: self.max_tokens - 1]
            self.counter.add("generator response", tokens=len(row), kept=len(kept))
            known[text] = [*kept, self.eos_id]
        return [known[text] for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids up to the first ``eos_id``, special tokens left out."""
        kept: list[int] = []
        for token in ids:
            if token == self.eos_id:
                break
            kept.append(int(token))
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()
