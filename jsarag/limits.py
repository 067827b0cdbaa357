"""How much of a data set the token limits of a configuration cut, and which setting keeps it.

Every text is measured as its reader reads it: a retriever with prefix and special tokens, a
generator field by field. Loads tokenisers, no weights; cutting itself is ``models.truncation``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from jsarag.config.schema import Config
from jsarag.models import hub
from jsarag.models.load_generator import OFFLINE
from jsarag.models.prompts import passage_text, render_context, render_posterior
from jsarag.models.truncation import token_ids
from jsarag.types import Example, Passage

# Enough to know a share to a percent; all of millions would take minutes.
SAMPLE = 20_000
QUICK_SAMPLE = 2_000
# A share of the tokens that nobody misses, such as the end of one long page among many.
NEGLIGIBLE = 0.01
_PASSAGES = "passages"
# A limit that keeps this share of the passages whole is not paid for by all the others.
_WHOLE = 0.995
_LEAST = 8
# A language model reads a title up to this part of the limit (`models.hf_prompts`).
_TITLE_PART = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """What one limit cuts of one kind of text.

    Attributes:
        kind: 'passages', 'questions' (contexts), 'questions with answers' (what the posterior
            retriever reads) or 'answers'.
        setting: the limit's key.
        limit: its value, in tokens.
        readable: the most tokens the model itself can read.
        texts, texts_cut: how many were measured, and how many of them are longer than the limit.
        tokens, tokens_cut: how many they have, and how many of those are cut.
        longest: tokens of the longest text.
        there: how many texts there are; more than ``texts`` where a sample was measured.
    """

    kind: str
    setting: str
    limit: int
    readable: int
    texts: int
    texts_cut: int
    tokens: int
    tokens_cut: int
    longest: int
    there: int

    @property
    def share(self) -> float:
        """The share of the tokens that is cut."""
        return self.tokens_cut / self.tokens if self.tokens else 0.0

    @property
    def fix(self) -> str:
        """The setting that keeps as much as the model can read."""
        return f"--set {self.setting}={min(self.longest, self.readable)}"

    def describe(self) -> str:
        """What is cut and what to do, in one sentence."""
        sample = f" of a sample of {self.texts:,}" if self.texts < self.there else ""
        said = (
            f"{self.setting}={self.limit} cuts {self.texts_cut:,} of {self.texts:,} {self.kind}"
            f"{sample}, {self.share:.1%} of their tokens; the longest has {self.longest:,}"
        )
        if self.limit >= self.readable:
            return f"{said}, and the model reads no more than {self.readable:,}"
        rest = f" (all that the model reads, {self.readable:,})"
        return f"{said}: {self.fix}{rest if self.longest > self.readable else ''}"

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FittingLimit:
    """The limit that suits some passages.

    Attributes:
        setting: the limit's key.
        limit: what 99.5 % of the passages need, or what the model can read if that is less.
        readable: the most tokens the model itself can read.
        texts, texts_cut: how many were measured, and how many of them are longer.
        longest: tokens of the longest.
        there: how many passages there are; more than ``texts`` where a sample was measured.
    """

    setting: str
    limit: int
    readable: int
    texts: int
    texts_cut: int
    longest: int
    there: int

    def describe(self) -> str:
        """The limit, why it is that, and what it cuts, in one sentence."""
        sample = f" of a sample of {self.texts:,}" if self.texts < self.there else ""
        if not self.texts_cut:
            why = f"the longest of {self.texts:,} passages{sample}"
        elif self.limit >= self.readable:
            why = (
                f"all that the model reads; {self.texts_cut:,} of {self.texts:,} passages{sample} "
                f"are longer and are cut, the longest has {self.longest:,}"
            )
        else:
            why = (
                f"{_WHOLE:.1%} of {self.texts:,} passages{sample} are no longer; "
                f"{self.texts_cut:,} are cut, the longest has {self.longest:,}"
            )
        return f"{self.setting}: {self.limit}, {why}"


@dataclass(frozen=True, slots=True)
class _Reader:
    """A tokeniser, and the longest input of its model."""

    tokenizer: Any
    readable: int

    @classmethod
    def of(cls, model: str) -> _Reader:
        tokenizer = hub.load_tokenizer(model)
        return cls(tokenizer, hub.position_limit(hub.load_config(model), tokenizer))

    def cut(
        self,
        kind: str,
        setting: str,
        limit: int,
        texts: Sequence[str],
        *,
        special: bool = False,
        end: int = 0,
        there: int | None = None,
    ) -> Cut:
        lengths = [end + length for length in self.lengths(texts, special=special)]
        over = [length - limit for length in lengths if length > limit]
        return Cut(
            kind=kind,
            setting=setting,
            limit=limit,
            readable=self.readable,
            texts=len(texts),
            texts_cut=len(over),
            tokens=sum(lengths),
            tokens_cut=sum(over),
            longest=max(lengths, default=0),
            there=len(texts) if there is None else there,
        )

    def lengths(self, texts: Sequence[str], *, special: bool = False) -> list[int]:
        return [len(row) for row in token_ids(self.tokenizer, texts, special=special)]

    def fit(self, setting: str, lengths: Sequence[int], there: int) -> FittingLimit:
        ordered = sorted(lengths) or [0]
        enough = ordered[ceil(_WHOLE * len(ordered)) - 1]
        limit = max(_LEAST, min(self.readable, enough))
        return FittingLimit(
            setting=setting,
            limit=limit,
            readable=self.readable,
            texts=len(lengths),
            texts_cut=sum(length > limit for length in lengths),
            longest=ordered[-1],
            there=there,
        )


def measure_passages(
    config: Config, passages: Sequence[Passage], *, sample: int = SAMPLE
) -> list[Cut]:
    """What the limits of retriever and generator cut of the passages.

    Args:
        config: names models and limits.
        passages: the knowledge base.
        sample: of more passages than that, so many are measured, evenly spread.

    Raises:
        BackendUnavailableError: a tokeniser is neither on this machine nor reachable.
    """
    encoder, generator = _readers(config)
    chosen = _sampled(passages, sample)
    kind, there = _PASSAGES, len(passages)
    limits = config.retriever.max_passage_tokens, config.generator.max_passage_tokens
    return [
        encoder.cut(
            kind,
            "retriever.max_passage_tokens",
            limits[0],
            _retriever_texts(config, chosen),
            special=True,
            there=there,
        ),
        generator.cut(
            kind,
            "generator.max_passage_tokens",
            limits[1],
            _generator_texts(config, chosen),
            there=there,
        ),
    ]


def fitting_limits(
    config: Config, passages: Sequence[Passage], *, sample: int = QUICK_SAMPLE
) -> list[FittingLimit]:
    """The passage limits of retriever and generator that suit a knowledge base.

    Args:
        config: names the models.
        passages, sample: as for :func:`measure_passages`.

    Raises:
        BackendUnavailableError: a tokeniser is neither on this machine nor reachable.
    """
    encoder, generator = _readers(config)
    chosen, there = _sampled(passages, sample), len(passages)
    wanted = encoder.lengths(_retriever_texts(config, chosen), special=True)
    read = generator.lengths(_generator_texts(config, chosen))
    if config.generator.model not in OFFLINE:
        titles = generator.lengths([passage.title for passage in chosen])
        read = [max(text, _TITLE_PART * title) for text, title in zip(read, titles, strict=True)]
    return [
        encoder.fit("retriever.max_passage_tokens", wanted, there),
        generator.fit("generator.max_passage_tokens", read, there),
    ]


def _sampled(passages: Sequence[Passage], sample: int) -> Sequence[Passage]:
    return passages[:: -(-len(passages) // sample)] if passages else ()


def _retriever_texts(config: Config, passages: Iterable[Passage]) -> list[str]:
    return [config.retriever.passage_prefix + passage_text(passage) for passage in passages]


def _generator_texts(config: Config, passages: Iterable[Passage]) -> list[str]:
    # A Hugging Face model's prompt has a place for the title; the others read it with the text.
    if config.generator.model not in OFFLINE:
        return [passage.text for passage in passages]
    return [passage_text(passage) for passage in passages]


def measure_examples(config: Config, examples: Iterable[Example]) -> list[Cut]:
    """What the limits cut of questions and answers, as each part reads them.

    Args:
        config: names models, limits, and how many turns each part reads.
        examples: the rows.

    Raises:
        BackendUnavailableError: a tokeniser is neither on this machine nor reachable.
    """
    encoder, generator = _readers(config)
    data, retriever, limits = config.data, config.retriever, config.generator
    rows = list(examples)
    # Rows of some formats have no answer; those are only searched for.
    answered = [row for row in rows if row.response.strip()]
    separator = encoder.tokenizer.sep_token or encoder.tokenizer.eos_token or "\n"
    prior = [retriever.query_prefix + render_context(row, data.context_turns) for row in rows]
    posterior = [
        retriever.query_prefix
        + render_posterior(row, data.posterior_turns, retriever.posterior_template, separator)
        for row in answered
    ]
    contexts = [render_context(row, data.generator_turns) for row in rows]
    responses = [row.response for row in answered]
    key = "retriever.max_context_tokens"
    return [
        encoder.cut("questions", key, retriever.max_context_tokens, prior, special=True),
        encoder.cut(
            "questions with answers", key, retriever.max_context_tokens, posterior, special=True
        ),
        generator.cut(
            "questions", "generator.max_context_tokens", limits.max_context_tokens, contexts
        ),
        # The end of a response is a token, too.
        generator.cut(
            "answers", "generator.max_response_tokens", limits.max_response_tokens, responses, end=1
        ),
    ]


def passages_warning(cuts: Iterable[Cut]) -> str | None:
    """One sentence on what is cut of the passages, None where it is no more than a percent."""
    found = [cut for cut in cuts if cut.kind == _PASSAGES and cut.share > NEGLIGIBLE]
    if not found:
        return None
    shares = " and ".join(f"{cut.share:.0%} by {cut.setting}={cut.limit}" for cut in found)
    fixes = " ".join(dict.fromkeys(cut.fix for cut in found if cut.limit < cut.readable))
    advice = f"{fixes} keeps what the models can read, or cut" if fixes else "cut"
    return (
        f"tokens of the passages are cut, {shares}; what stands there is never found or read. "
        f"{advice[0].upper()}{advice[1:]} the passages shorter (`jsarag data build`)"
    )


def _readers(config: Config) -> tuple[_Reader, _Reader]:
    """Those of the retrievers and of the generator; offline generators read as the encoder does."""
    encoder = _Reader.of(config.retriever.model)
    model = config.generator.model
    return encoder, encoder if model in OFFLINE else _Reader.of(model)
