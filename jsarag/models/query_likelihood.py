"""A generator without parameters: the words of the passage, smoothed by background frequencies.

p(y_t | x, h) = lambda * count(y_t in h) / |h| + (1 - lambda) * unigram(y_t), the query likelihood
of language-model retrieval (Ponte and Croft 1998; Jelinek-Mercer smoothing). It needs no training,
reads nothing of the context, and says of every token only whether the passage holds it: the
honest floor for a trained generator, and the quickest way to try an objective.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jsarag.errors import ConfigError
from jsarag.io.tensors import load_tensors, save_tensors
from jsarag.models import hub
from jsarag.models.encoder import TextEncoder
from jsarag.models.generator import Generator
from jsarag.models.prompts import passage_text
from jsarag.models.responses import ResponseCodec, end_of_sequence
from jsarag.models.saved import read_settings, write_settings
from jsarag.models.truncation import token_ids
from jsarag.types import GeneratorInput, Passage, TokenLogp

NAME = "query-likelihood"
UNIGRAM_FILE = "unigram.safetensors"
# Added to every token's background count: no token is impossible, rare ones stay rare.
_ADDED_COUNT = 0.1
_BAGS_KEPT = 100_000
_TEXTS_PER_CALL = 4096

Bag = tuple[np.ndarray, np.ndarray]


class QueryLikelihood(Generator):
    """The smoothed bag of words of the passage; see the module's text.

    Several passages are one bag. Without any passage text the background alone is left. The end of
    sequence has its background probability whatever the passage, so length is not rewarded.

    Args:
        tokenizer: the tokeniser of responses and passages; V is its number of tokens.
        unigram: background probabilities f64 [V], positive, summing to 1.
        unigram_weight: 1 - lambda, above 0 and below 1.
        max_response_tokens: tokens of a response scored, end of sequence included.

    Notes:
        Scoring is a lookup: 256 pairs of 30 tokens take some 5 ms once their passages were seen.
        Greedy decoding repeats the likeliest token, as it must for a model without word order;
        leave generation metrics off.
    """

    def __init__(
        self, tokenizer: Any, unigram: Tensor, *, unigram_weight: float, max_response_tokens: int
    ) -> None:
        super().__init__()
        if not 0.0 < unigram_weight < 1.0:
            raise ConfigError(
                "generator.unigram_weight: expected a number between 0 and 1, both excluded, got "
                f"{unigram_weight}"
            )
        self.tokenizer = tokenizer
        self.codec = ResponseCodec(tokenizer, max_response_tokens, self.truncation)
        self.unigram_weight = unigram_weight
        self.register_buffer("unigram", unigram.to(torch.float64))
        self._bags: OrderedDict[tuple[str, ...], Bag] = OrderedDict()

    @property
    def name(self) -> str:
        """'query-likelihood'."""
        return NAME

    @property
    def eos_id(self) -> int:
        """The token id that ends every response."""
        return self.codec.eos_id

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return int(self._unigram.shape[0])

    @property
    def _unigram(self) -> Tensor:
        unigram = self.unigram
        assert isinstance(unigram, Tensor)
        return unigram

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response exactly as it is scored: the beginning, ``eos_id`` last."""
        return self.codec.encode([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids up to the first end of sequence, special tokens left out."""
        return self.codec.decode(ids)

    def chunks(self, inputs: Sequence[GeneratorInput], budget_tokens: int) -> list[list[int]]:
        """All inputs together, whatever the budget: there is no network to go through."""
        del budget_tokens
        return [list(range(len(inputs)))] if len(inputs) else []

    def tokens(self, inputs: Sequence[GeneratorInput]) -> int:
        """0: there is no network to go through."""
        del inputs
        return 0

    def token_logp(self, inputs: Sequence[GeneratorInput]) -> TokenLogp:
        """log p(y_t | h) of every response token; see :meth:`Generator.token_logp`."""
        rows = self.codec.encode([item.response for item in inputs])
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        tokens = np.array([token for row in rows for token in row], dtype=np.int64)
        bags = self._table(inputs)
        owner = np.repeat(bags.of_input, lengths)
        background = self._unigram.cpu().numpy()[tokens]
        found = bags.probability(owner, tokens)
        copied = (1.0 - self.unigram_weight) * found + self.unigram_weight * background
        values = np.zeros(mask.shape)
        values[mask] = np.log(np.where(bags.empty[owner], background, copied))
        device = self._unigram.device
        return TokenLogp(
            torch.from_numpy(values).to(device, torch.float32), torch.from_numpy(mask).to(device)
        )

    @torch.no_grad()
    def next_token_logp(
        self, inputs: Sequence[GeneratorInput], prefixes: Sequence[Sequence[int]]
    ) -> Tensor:
        """log p(. | h), f32 [P, V], whatever the prefix; see :meth:`Generator.next_token_logp`."""
        del prefixes
        result = torch.empty((len(inputs), self.vocabulary_size))
        background = self._unigram.cpu()
        for index, item in enumerate(inputs):
            tokens, shares = self._bag(item.passages)
            row = background
            if len(tokens):
                row = self.unigram_weight * background
                row[torch.from_numpy(tokens)] += (1.0 - self.unigram_weight) * torch.from_numpy(
                    shares
                )
            result[index] = row.log()
        return result.to(self._unigram.device)

    def generate(self, inputs: Sequence[GeneratorInput], *, max_new_tokens: int) -> list[str]:
        """Greedy responses: the likeliest token of each bag, ``max_new_tokens`` times."""
        best = self.next_token_logp(inputs, [()] * len(inputs)).argmax(dim=1).tolist()
        return [self.decode([token] * max_new_tokens) for token in best]

    def save(self, folder: Path) -> None:
        """Write background, tokeniser and settings; :func:`load_saved` reads them back."""
        with hub.quiet_transformers():
            self.tokenizer.save_pretrained(folder)
        save_tensors(Path(folder) / UNIGRAM_FILE, {"unigram": self._unigram})
        settings = {
            "unigram_weight": self.unigram_weight,
            "max_response_tokens": self.codec.max_tokens,
        }
        write_settings(folder, NAME, settings)

    def _bag(self, passages: Sequence[Passage]) -> Bag:
        return self._bags_of([tuple(passage_text(passage) for passage in passages)])[0]

    def _bags_of(self, keys: Sequence[tuple[str, ...]]) -> list[Bag]:
        """(distinct tokens ascending, their shares) of each passage set, kept for next time."""
        unseen = [key for key in dict.fromkeys(keys) if key not in self._bags]
        texts = [text for key in unseen for text in key]
        rows = iter(token_ids(self.tokenizer, texts, special=False))
        for key in unseen:
            self._bags[key] = _bag_of([token for _ in key for token in next(rows)])
        result = []
        for key in keys:
            self._bags.move_to_end(key)
            result.append(self._bags[key])
        while len(self._bags) > _BAGS_KEPT:
            self._bags.popitem(last=False)
        return result

    def _table(self, inputs: Sequence[GeneratorInput]) -> _BagTable:
        keys = [tuple(passage_text(passage) for passage in item.passages) for item in inputs]
        place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        bags = self._bags_of(list(place))
        return _BagTable(bags, np.array([place[key] for key in keys], dtype=np.int64))


class _BagTable:
    """The distinct bags of one call in one sorted array, so that all lookups are one search."""

    def __init__(self, bags: Sequence[Bag], of_input: np.ndarray) -> None:
        self.of_input = of_input
        self.empty = np.array([len(tokens) == 0 for tokens, _ in bags], dtype=bool)
        owners = np.repeat(np.arange(len(bags)), [len(tokens) for tokens, _ in bags])
        self._keys = _keys(owners, np.concatenate([_NOTHING, *(tokens for tokens, _ in bags)]))
        self._shares = np.concatenate([np.zeros(0), *(shares for _, shares in bags)])

    def probability(self, owner: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """count / length of ``tokens`` in the bags ``owner``, f64, 0 where absent."""
        wanted = _keys(owner, tokens)
        if not len(self._keys):
            return np.zeros(len(wanted))
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, self._shares[place], 0.0)


_NOTHING = np.zeros(0, dtype=np.int64)


def _keys(owner: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return (owner.astype(np.int64) << 32) | tokens.astype(np.int64)


def _bag_of(tokens: Sequence[int]) -> Bag:
    if not tokens:
        return _NOTHING, np.zeros(0)
    distinct, counts = np.unique(np.array(tokens, dtype=np.int64), return_counts=True)
    return distinct, counts / len(tokens)


def build_query_likelihood(
    encoder: TextEncoder,
    responses: Sequence[str],
    passages: Sequence[Passage],
    *,
    unigram_weight: float,
    max_response_tokens: int,
) -> QueryLikelihood:
    """Count background frequencies and make the generator.

    Args:
        encoder: lends its tokeniser.
        responses: training responses.
        passages: the knowledge base.
        unigram_weight: 1 - lambda.
        max_response_tokens: tokens of a response scored, end of sequence included.

    Raises:
        ConfigError: the weight is not between 0 and 1, or the tokeniser cannot end a response.
    """
    tokenizer = encoder.tokenizer
    counts = np.full(len(tokenizer), _ADDED_COUNT)
    counts += _token_counts(tokenizer, responses)
    # Every response ends once; a passage never does.
    counts[end_of_sequence(tokenizer)] += len(responses)
    counts += _token_counts(tokenizer, (passage_text(passage) for passage in passages))
    return QueryLikelihood(
        tokenizer,
        torch.from_numpy(counts / counts.sum()),
        unigram_weight=unigram_weight,
        max_response_tokens=max_response_tokens,
    )


def load_saved(folder: Path) -> QueryLikelihood:
    """Load what :meth:`QueryLikelihood.save` wrote.

    Raises:
        CheckpointError: the folder holds no such generator.
    """
    stored = read_settings(folder, NAME)
    return QueryLikelihood(
        hub.load_tokenizer(str(folder)),
        load_tensors(Path(folder) / UNIGRAM_FILE)["unigram"],
        unigram_weight=float(stored["unigram_weight"]),
        max_response_tokens=int(stored["max_response_tokens"]),
    )


def _token_counts(tokenizer: Any, texts: Iterable[str]) -> np.ndarray:
    """How often each token occurs, int64 [V]; tokenised in blocks, so memory stays small."""
    total = np.zeros(len(tokenizer), dtype=np.int64)
    everything = list(texts)
    for first in range(0, len(everything), _TEXTS_PER_CALL):
        rows = token_ids(tokenizer, everything[first : first + _TEXTS_PER_CALL], special=False)
        tokens = np.array([token for row in rows for token in row], dtype=np.int64)
        total += np.bincount(tokens, minlength=len(total))
    return total
