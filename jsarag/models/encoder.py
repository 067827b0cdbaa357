"""Text to vectors: one definition of tokenising, truncating, pooling and normalising.

The trainer, the index, the server and the export all embed through :class:`TextEncoder`, and an
:class:`EncoderSpec` travels with every stored vector, so that vectors made differently are noticed.
Leaves which encoder plays which part to ``retrievers``.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from jsarag.errors import ConfigError
from jsarag.io.atomic import write_json
from jsarag.models import hub
from jsarag.models.digests import tensors_digest, tokenizer_digest
from jsarag.models.padding import budget_batches, length_batches, pad, precision
from jsarag.models.pooling import declared_pooling, known_pooling, pool
from jsarag.models.prompts import TruncationCounter
from jsarag.models.truncation import Keep, fit_text, token_ids

Role = Literal["query", "passage"]
SPEC_FILE = "jsarag_encoder.json"
_BLOCK_BATCHES = 32


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Everything but the weights that decides which vector a text gets.

    ``model`` is the name it was loaded under (a folder's last part): for people; identity is in the
    digests.
    """

    model: str
    pooling: str
    normalise: bool
    query_prefix: str
    passage_prefix: str
    max_query_tokens: int
    max_passage_tokens: int
    tokenizer_digest: str


class TextEncoder(nn.Module):
    """A transformer encoder with its tokeniser and pooling.

    Dropout stays off in training too (``train()`` leaves the network in evaluation mode, gradients
    flow all the same): with dropout, live vectors would be noisy copies of the index's vectors,
    a passage scored twice in a step would get two scores, and a run could not be repeated.

    Args:
        model: a transformers model whose output has ``last_hidden_state``.
        tokenizer: its tokeniser.
        spec: how to use them.
        budget_tokens: tokens, padding included, per forward pass in training.
        bf16: run the network under bfloat16 autocast; pooling and vectors stay float32.

    Attributes:
        truncation: counts cut texts under 'query' and 'passage'.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        spec: EncoderSpec,
        *,
        budget_tokens: int = 8192,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.spec = spec
        self.budget_tokens = budget_tokens
        self.bf16 = bf16
        self.truncation = TruncationCounter()
        self._check_limits()

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def separator(self) -> str:
        """The tokeniser's separator, as the posterior's template wants it."""
        return self.tokenizer.sep_token or self.tokenizer.eos_token or "\n"

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.model.parameters()).device

    @property
    def is_trainable(self) -> bool:
        """Whether any weight takes gradient."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def train(self, mode: bool = True) -> TextEncoder:
        """Set the training flag; the network itself stays in evaluation mode (no dropout)."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, texts: Sequence[str], role: Role) -> Tensor:
        """Vectors f32 [n, D] of ``texts`` in their order, with gradient where weights take it.

        Args:
            texts: what to embed, without prefix.
            role: 'query' keeps the end of a text that is too long, 'passage' its beginning.
        """
        return self.vectors(self.tokenise(texts, role))

    def vectors(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Vectors f32 [n, D] of token ids as :meth:`tokenise` gives them; see :meth:`forward`."""
        order: list[int] = []
        parts: list[Tensor] = []
        for batch in budget_batches([(len(row),) for row in rows], self.budget_tokens):
            order.extend(batch)
            parts.append(self._vectors([rows[index] for index in batch]))
        if not parts:
            return torch.empty((0, self.width), device=self.device)
        position = torch.tensor(order, device=self.device).argsort()
        return torch.cat(parts).index_select(0, position)

    # no_grad and not inference_mode: index vectors meet live ones in scores that are
    # differentiated, and autograd refuses to save inference tensors.
    @torch.no_grad()
    def embed(
        self,
        texts: Sequence[str],
        role: Role,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
        *,
        bf16: bool | None = None,
    ) -> Tensor:
        """Vectors f32 [n, D] of ``texts`` in their order, without gradient.

        Args:
            texts: any number of texts, without prefix.
            role: 'query' or 'passage'.
            batch_size: texts per forward pass; they are grouped by length, so padding is little.
            progress: called with (done, total) after each block of batches.
            bf16: override the encoder's own setting.

        Notes:
            Texts are ordered by characters and tokenised in blocks, so memory for tokens stays
            small for millions of passages.
        """
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        result = torch.empty((len(texts), self.width), device=self.device)
        block = batch_size * _BLOCK_BATCHES
        for first in range(0, len(order), block):
            indices = order[first : first + block]
            rows = self.tokenise([texts[index] for index in indices], role)
            for batch in length_batches([len(row) for row in rows], batch_size):
                places = torch.tensor([indices[item] for item in batch], device=self.device)
                result[places] = self._vectors([rows[item] for item in batch], bf16=bf16)
            if progress is not None:
                progress(min(first + block, len(order)), len(order))
        return result

    def tokenise(self, texts: Sequence[str], role: Role) -> list[list[int]]:
        """Token ids of each text with prefix and special tokens, shortened to the role's limit."""
        query = role == "query"
        prefix = self.spec.query_prefix if query else self.spec.passage_prefix
        limit = self.spec.max_query_tokens if query else self.spec.max_passage_tokens
        keep: Keep = "end" if query else "start"
        rows = token_ids(self.tokenizer, [prefix + text for text in texts], special=True)
        for index, row in enumerate(rows):
            if len(row) > limit:
                rows[index], _ = fit_text(
                    self.tokenizer, texts[index], limit, keep=keep, before=prefix
                )
            self.truncation.add(role, tokens=len(row), kept=len(rows[index]))
        return rows

    def weights_digest(self) -> str:
        """Hex digest of the weights: equal weights, equal digest, on any machine and device."""
        return tensors_digest(dict(self.model.named_parameters()))

    def twin(self) -> TextEncoder:
        """A copy with its own weights and counter; the tokeniser is shared."""
        return TextEncoder(
            copy.deepcopy(self.model),
            self.tokenizer,
            self.spec,
            budget_tokens=self.budget_tokens,
            bf16=self.bf16,
        )

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokeniser and spec; :meth:`load` reads them back."""
        with hub.quiet_transformers():
            self.model.save_pretrained(folder)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)
        write_json(Path(folder) / SPEC_FILE, asdict(self.spec))

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        """Read what :meth:`save` wrote.

        Raises:
            ConfigError: the folder was not written by :meth:`save`.
        """
        stored = hub.read_model_json(str(folder), SPEC_FILE)
        names = [field.name for field in fields(EncoderSpec)]
        if stored is None or sorted(stored) != sorted(names):
            raise ConfigError(
                f"{folder}: expected an encoder saved by this package ({SPEC_FILE} with {names}); "
                "load a plain model folder with load_encoder and its settings"
            )
        return cls(
            _load_network(str(folder)), hub.load_tokenizer(str(folder)), EncoderSpec(**stored)
        )

    def _vectors(self, rows: Sequence[Sequence[int]], *, bf16: bool | None = None) -> Tensor:
        ids, mask = pad(rows, self.tokenizer.pad_token_id or 0, self.device)
        with precision(self.device, self.bf16 if bf16 is None else bf16):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors = pool(hidden.float(), mask, self.spec.pooling)
        return functional.normalize(vectors, dim=-1) if self.spec.normalise else vectors

    def _check_limits(self) -> None:
        most = hub.position_limit(self.model.config, self.tokenizer)
        for name, limit, prefix in (
            ("max_query_tokens", self.spec.max_query_tokens, self.spec.query_prefix),
            ("max_passage_tokens", self.spec.max_passage_tokens, self.spec.passage_prefix),
        ):
            fixed = len(token_ids(self.tokenizer, [prefix], special=True)[0])
            if not fixed < limit <= most:
                raise ConfigError(
                    f"encoder '{self.spec.model}': expected {name} above {fixed} (its prefix and "
                    f"special tokens) and at most {most} (what the model can read), got {limit}"
                )


def load_encoder(
    name: str,
    *,
    pooling: str = "auto",
    normalise: bool = True,
    query_prefix: str = "",
    passage_prefix: str = "",
    max_query_tokens: int = 128,
    max_passage_tokens: int = 160,
    budget_tokens: int = 8192,
    bf16: bool = False,
    attention: str = "auto",
) -> TextEncoder:
    """Load a pretrained encoder.

    Args:
        name: 'minilm' (offline, from an installed package), a folder, or a hub id.
        pooling: 'mean', 'cls', 'last', or 'auto': what the model's own files say, else 'mean'.
        normalise: scale vectors to length 1, so that inner products are cosines.
        query_prefix: put before every query text, e.g. 'query: ' for E5.
        passage_prefix: put before every passage text.
        max_query_tokens: tokens read of a query with prefix and special tokens; the last ones.
        max_passage_tokens: tokens read of a passage; the first ones.
        budget_tokens: tokens, padding included, per forward pass in training.
        bf16: run under bfloat16 autocast.
        attention: transformers' attention implementation, or 'auto'.

    Raises:
        BackendUnavailableError: the model is not on this machine and cannot be fetched.
        ConfigError: settings the model cannot follow.
    """
    tokenizer = hub.load_tokenizer(name)
    spec = EncoderSpec(
        model=hub.display_name(name),
        pooling=_own_pooling(name) if pooling == "auto" else known_pooling(pooling),
        normalise=normalise,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        max_query_tokens=max_query_tokens,
        max_passage_tokens=max_passage_tokens,
        tokenizer_digest=tokenizer_digest(tokenizer),
    )
    network = _load_network(name, attention=attention)
    return TextEncoder(network, tokenizer, spec, budget_tokens=budget_tokens, bf16=bf16)


def _load_network(name: str, *, attention: str = "auto") -> Any:
    model = hub.load_model(name, _network_class(name), attention=attention)
    if hasattr(model, "get_decoder") and model.config.is_encoder_decoder:
        model = model.get_encoder()
    if isinstance(getattr(model, "pooler", None), nn.Module):
        # We pool token states ourselves; a pooler would cost time and, where a checkpoint lacks it,
        # put random weights into the digest.
        model.pooler = None
    return model


def _network_class(name: str) -> Any:
    """AutoModel, or the bare encoder of an encoder-decoder that :meth:`TextEncoder.save` wrote.

    transformers has no Auto class for those (T5Stack, BartEncoder): AutoModel would build the
    whole model and miss the decoder's weights.
    """
    from transformers import MODEL_MAPPING, AutoModel

    config = hub.load_config(name)
    stored = (config.architectures or [""])[0]
    if type(config) in MODEL_MAPPING and stored.endswith(("Stack", "Encoder")):
        whole = MODEL_MAPPING[type(config)]
        return getattr(sys.modules[whole.__module__], stored, AutoModel)
    return AutoModel


def _own_pooling(name: str) -> str:
    stored = hub.read_model_json(name, SPEC_FILE)
    if stored is not None:
        return known_pooling(str(stored.get("pooling")))
    return declared_pooling(name, hub.read_model_json(name, "1_Pooling/config.json"))
