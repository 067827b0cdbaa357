"""Prompts through a tokeniser's own chat template: one user turn, then the answer's.

Instruction-tuned models were trained on such turns and answer best when asked in them. Leaves
cutting and tokenising to ``hf_prompts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from jsarag.errors import ConfigError
from jsarag.models.prompts import PromptTemplate
from jsarag.models.truncation import token_ids

CHAT = "chat"
# The context comes first: prompts that differ only in their passages share a long beginning.
_CONTENT = PromptTemplate("{context}\n\n{title} {passage}")
_PROBE = "answer"


class ChatTemplate:
    """Renders a prompt as the user's turn of a chat, open for the answer.

    Args:
        tokenizer: a transformers tokeniser.

    Attributes:
        end_id: the special token that ends an answer's turn; None where the template sets none, so
            that the tokeniser's end of sequence does.

    Raises:
        ConfigError: the tokeniser has no chat template, or one that takes no single user turn.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "generator.template: 'chat' needs a tokeniser with a chat template, and this "
                "model's has none; give a text with fields instead, such as "
                "'{title} {passage}\\n{context}\\n', or name an instruction-tuned model"
            )
        self.end_id = self._turn_end()

    def render(self, context: str, passages: Sequence[tuple[str, str]]) -> str:
        """The prompt for one context and (title, text) pairs, special tokens included."""
        return self._apply([_turn("user", _CONTENT.render(context, passages))], is_open=True)

    def _turn_end(self) -> int | None:
        turns = [_turn("user", "question"), _turn("assistant", _PROBE)]
        _, found, tail = self._apply(turns, is_open=False).rpartition(_PROBE)
        ids = token_ids(self.tokenizer, [tail.lstrip()], special=False)[0] if found else []
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(i for i in added if added[i].special)}
        return ids[0] if ids and ids[0] in special else None

    def _apply(self, turns: list[dict[str, str]], *, is_open: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                add_generation_prompt=is_open,
                tokenize=False,
                # Responses are scored right behind the prompt: templates that know thinking close
                # it there, others never read this.
                enable_thinking=False,
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise ConfigError(
                "generator.template: 'chat' needs a chat template that takes a user's turn and an "
                f"assistant's, and this model's ended with '{error}'; give a text with fields "
                "instead, such as '{title} {passage}\\n{context}\\n'"
            ) from error
        return str(text)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
