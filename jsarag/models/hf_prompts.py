"""From generator inputs to the token ids a Hugging Face model reads, cut by one rule.

The context keeps its last ``max_context_tokens``, a passage's text its first
``max_passage_tokens``, its title the first quarter of that, a response its first
``max_response_tokens`` with the end of sequence. Where several passages would not fit the model
together, each gets an equal, smaller share; the context never pays for them. Everything cut is
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsarag.errors import ConfigError
from jsarag.models.chat import CHAT, ChatTemplate
from jsarag.models.prompts import PromptTemplate, TruncationCounter
from jsarag.models.responses import ResponseCodec
from jsarag.models.truncation import cut_texts, token_ids
from jsarag.types import GeneratorInput, Passage

_LEAST_PASSAGE_TOKENS = 8
# Room for what cutting at word boundaries and joining fields may add.
_SLACK = 8


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """The template and the token limits of its fields.

    ``template`` is a text with fields (``prompts.PromptTemplate``), or 'chat' for the tokeniser's
    own chat template.
    """

    template: str = "{title} {passage}\n{context}\n"
    max_context_tokens: int = 96
    max_passage_tokens: int = 160
    max_response_tokens: int = 48


class PromptBuilder:
    """Renders and tokenises prompts and responses for one model.

    Args:
        tokenizer: the model's tokeniser.
        settings: template and limits.
        positions: the longest input the model can read, in tokens.
        is_encoder_decoder: whether the response goes to a decoder of its own, so that the prompt
            need not leave room for it.
        counter: told what was cut.
    """

    def __init__(
        self,
        tokenizer: Any,
        settings: PromptSettings,
        *,
        positions: int,
        is_encoder_decoder: bool,
        counter: TruncationCounter,
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self._chat = ChatTemplate(tokenizer) if settings.template == CHAT else None
        self.template = self._chat or PromptTemplate(settings.template)
        self.positions = positions
        self.is_encoder_decoder = is_encoder_decoder
        self.counter = counter
        end = None if self._chat is None else self._chat.end_id
        self.codec = ResponseCodec(tokenizer, settings.max_response_tokens, counter, eos_id=end)
        self.eos_id = self.codec.eos_id
        self.pad_id = self.eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self._fixed = len(self._tokenise([self.template.render("", [("", "")])])[0])
        self.passage_limit(1, settings.max_response_tokens)

    @property
    def response_lead(self) -> list[int]:
        """Special tokens the tokeniser puts before a text, which a decoder expects first."""
        (empty,) = token_ids(self.tokenizer, [""], special=True)
        return empty[: empty.index(self.eos_id)] if self.eos_id in empty else empty

    def prompts(self, inputs: Sequence[GeneratorInput], *, reserve: int) -> list[list[int]]:
        """Prompt token ids of each input; ``reserve`` response tokens must fit behind them."""
        rendered = self.render(inputs, reserve=reserve)
        rows = self._tokenise(rendered)
        if not self.is_encoder_decoder and self._chat is None:
            rows = [self._open_ended(row) for row in rows]
        room = self._room(reserve)
        for index, row in enumerate(rows):
            self.counter.add("generator prompt", tokens=len(row), kept=min(len(row), room))
            rows[index] = row[-room:]
        return rows

    def render(self, inputs: Sequence[GeneratorInput], *, reserve: int) -> list[str]:
        """The prompts as text, fields cut to their limits."""
        contexts = self._cut(
            [item.context for item in inputs],
            self.settings.max_context_tokens,
            keep_end=True,
            field="generator context",
        )
        counts = {len(item.passages) for item in inputs if item.passages}
        cut: dict[tuple[int, str, str], tuple[str, str]] = {}
        for count in counts:
            passages = [p for item in inputs if len(item.passages) == count for p in item.passages]
            cut |= self._cut_passages(passages, count, self.passage_limit(count, reserve))
        return [
            self.template.render(
                contexts[item.context],
                [cut[len(item.passages), p.title, p.text] for p in item.passages],
            )
            for item in inputs
        ]

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Response token ids as scored: the beginning, ``eos_id`` last."""
        return self.codec.encode(texts)

    def passage_limit(self, count: int, reserve: int) -> int:
        """Text tokens each of ``count`` passages may have in one prompt.

        Raises:
            ConfigError: the model cannot read that many passages beside the context.
        """
        room = self._room(reserve) - self._fixed - self.settings.max_context_tokens - _SLACK
        # A passage takes its text, a title of a quarter of that, and a number.
        share = (room // count - _SLACK) * 4 // 5
        if share < _LEAST_PASSAGE_TOKENS:
            raise ConfigError(
                f"generator: expected room for {count} passage(s) of at least "
                f"{_LEAST_PASSAGE_TOKENS} tokens, but the model reads {self.positions} tokens, of "
                f"which the context takes {self.settings.max_context_tokens} and the response "
                f"{reserve}; lower generator.max_context_tokens, generator.max_response_tokens or "
                "the number of passages"
            )
        return min(self.settings.max_passage_tokens, share)

    def _tokenise(self, rendered: Sequence[str]) -> list[list[int]]:
        """Token ids of whole prompts; a chat template has put the special tokens there itself."""
        return token_ids(self.tokenizer, rendered, special=self._chat is None)

    def _room(self, reserve: int) -> int:
        return self.positions if self.is_encoder_decoder else self.positions - reserve

    def _cut_passages(
        self, passages: Sequence[Passage], count: int, limit: int
    ) -> dict[tuple[int, str, str], tuple[str, str]]:
        titles = self._cut([p.title for p in passages], max(4, limit // 4), field="generator title")
        texts = self._cut([p.text for p in passages], limit, field="generator passage")
        return {(count, p.title, p.text): (titles[p.title], texts[p.text]) for p in passages}

    def _cut(
        self, texts: Sequence[str], limit: int, *, field: str, keep_end: bool = False
    ) -> dict[str, str]:
        distinct = list(dict.fromkeys(texts))
        cuts = cut_texts(
            self.tokenizer,
            distinct,
            limit,
            keep="end" if keep_end else "start",
            counter=self.counter,
            field=field,
        )
        return dict(zip(distinct, cuts, strict=True))

    def _open_ended(self, row: list[int]) -> list[int]:
        """A causal model's prompt: no end of sequence before the response, and never empty."""
        if row and row[-1] == self.eos_id:
            row = row[:-1]
        start = self.tokenizer.bos_token_id
        return row or [self.eos_id if start is None else int(start)]
