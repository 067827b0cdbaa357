"""The offline generator: small, trained from nothing, grounded by copying from the passage.

Turns generator inputs into the tensors ``copy_network`` works on, in the encoder tokeniser's ids.
Words come in as the encoder's own word embeddings, frozen, so that related words are close before
any training; see :class:`CopyGenerator` for why its deeper layers are left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jsarag.errors import CheckpointError, ConfigError
from jsarag.io.tensors import load_tensors, save_tensors
from jsarag.models import hub
from jsarag.models.copy_network import (
    CopyNetwork,
    Past,
    Sources,
    Stem,
    copied_probability,
    generate_share,
    known_logp,
    mixture_logp,
)
from jsarag.models.encoder import TextEncoder
from jsarag.models.generator import Generator
from jsarag.models.padding import length_batches
from jsarag.models.prompts import passage_text
from jsarag.models.responses import ResponseCodec, end_of_sequence
from jsarag.models.saved import read_settings, write_settings
from jsarag.models.truncation import token_ids
from jsarag.types import GeneratorInput, TokenLogp

NAME = "copy"
WEIGHTS_FILE = "generator.safetensors"
_TEXTS_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class CopySettings:
    """Limits and depth of a copy generator."""

    layers: int
    max_context_tokens: int
    max_passage_tokens: int
    max_response_tokens: int


class Grounds(NamedTuple):
    """Distinct contexts and passage sets of some inputs, and which input reads which."""

    contexts: Sources
    passages: Sources
    context_of: Tensor
    passages_of: Tensor


class CopyGenerator(Generator):
    """A pointer-generator over the encoder's tokens; see ``copy_network`` for the distribution.

    Args:
        tokenizer: the encoder's tokeniser; V is its number of tokens.
        words: the encoder's word embeddings f32 [V, H], each row of mean 0 and variance 1.
        vocabulary: int64 [G - 1], ascending: the tokens the output layer can generate.
        class_counts: f64 [G]: how often each occurs in training responses, all others last.
        settings: limits and depth.
        seed: initialisation.

    Notes:
        A token outside the vocabulary can be copied; generated, it has the probability of "any
        other" divided by their number, so the distribution is proper over all V tokens and no
        response is impossible.
    """

    def __init__(
        self,
        tokenizer: Any,
        words: Tensor,
        vocabulary: Tensor,
        class_counts: Tensor,
        settings: CopySettings,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.settings = settings
        self.codec = ResponseCodec(tokenizer, settings.max_response_tokens, self.truncation)
        self.register_buffer("vocabulary", vocabulary)
        classes = torch.full((len(words),), len(vocabulary), dtype=torch.int64)
        classes[vocabulary] = torch.arange(len(vocabulary))
        self.register_buffer("classes", classes, persistent=False)
        self._others = max(1, len(words) - len(vocabulary))
        outside = words[classes == len(vocabulary)]
        other = outside.mean(dim=0) if len(outside) else torch.zeros(words.shape[1])
        smoothed = class_counts + 0.5
        self.network = CopyNetwork(
            words,
            torch.cat([words[vocabulary], other[None]]),
            (smoothed / smoothed.sum()).log().to(torch.float32),
            layers=settings.layers,
            seed=seed,
        )
        self._texts: OrderedDict[tuple[str, str], tuple[Tensor, int]] = OrderedDict()

    @property
    def name(self) -> str:
        """'copy'."""
        return NAME

    @property
    def eos_id(self) -> int:
        """The token id that ends every response."""
        return self.codec.eos_id

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response exactly as it is scored: the beginning, ``eos_id`` last."""
        return self.codec.encode([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids up to the first end of sequence, special tokens left out."""
        return self.codec.decode(ids)

    def chunks(self, inputs: Sequence[GeneratorInput], budget_tokens: int) -> list[list[int]]:
        """Positions of the inputs, those of one context together; see :meth:`Generator.chunks`."""
        groups: list[list[int]] = []
        spent, stem = 0, None
        order = sorted(
            range(len(inputs)), key=lambda place: (inputs[place].context, inputs[place].response)
        )
        for place in order:
            item = inputs[place]
            shared, own = self._costs(item)
            same = (item.context, item.response) == stem
            if groups and spent + own + (0 if same else shared) <= budget_tokens:
                groups[-1].append(place)
                spent += own + (0 if same else shared)
            else:
                groups.append([place])
                spent = own + shared
            stem = (item.context, item.response)
        return groups

    def tokens(self, inputs: Sequence[GeneratorInput]) -> int:
        """Tokens looked at: of each distinct context with its response, and of each passage."""
        stems = {(item.context, item.response): self._costs(item)[0] for item in inputs}
        return sum(stems.values()) + sum(self._costs(item)[1] for item in inputs)

    def _costs(self, item: GeneratorInput) -> tuple[int, int]:
        """Tokens that inputs of one context and response share, and the input's own."""
        texts = [passage_text(passage) for passage in item.passages]
        response = self._looked_up("response", [item.response])[0][0]
        context = self._looked_up("context", [item.context])[0][0]
        passages = sum(len(ids) for ids, _ in self._looked_up("passage", texts))
        written = len(response) + 1
        return len(context) + written, written + passages

    def token_logp(self, inputs: Sequence[GeneratorInput]) -> TokenLogp:
        """log p(y_t | x, h, y_<t) of every response token; see :meth:`Generator.token_logp`.

        Cost: the decoder runs once per distinct (context, response); each further passage costs
        its keys and two comparisons per pair of tokens.
        """
        rows = self.codec.encode([item.response for item in inputs])
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        width = int(lengths.max()) if len(rows) else 0
        mask = torch.arange(width) < lengths[:, None]
        mask = mask.to(self.device)
        if not len(inputs):
            return TokenLogp(torch.zeros(0, 0, device=self.device), mask)
        chunks = self.chunks(inputs, self.budget_tokens)
        parts = []
        for chunk in chunks:
            grounds = self._grounds([inputs[place] for place in chunk])
            stems = self._stems(grounds, [rows[place] for place in chunk])
            parts.append(self._pairs(grounds, stems, width))
        order = torch.tensor([place for chunk in chunks for place in chunk], device=self.device)
        logp = torch.cat(parts)[order.argsort()]
        return TokenLogp(logp.masked_fill(~mask, 0.0), mask)

    @torch.no_grad()
    def next_token_logp(
        self, inputs: Sequence[GeneratorInput], prefixes: Sequence[Sequence[int]]
    ) -> Tensor:
        """log p(. | x, h, prefix), f32 [P, V]; see :meth:`Generator.next_token_logp`."""
        result = torch.empty((len(inputs), len(self.network.words)), device=self.device)
        if not len(inputs):
            return result
        grounds = self._grounds(inputs)
        for batch in length_batches([len(prefix) for prefix in prefixes], self.micro_batch):
            places = torch.tensor(batch, device=self.device)
            contexts = grounds.contexts.select(grounds.context_of[places])
            rows = [[*prefixes[index], self.eos_id] for index in batch]
            stem, _ = self.network.stem(
                _written(rows, self.device), contexts, self.network.context_memory(contexts)
            )
            last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
            result[places] = self._distribution(
                _at(stem, last), contexts, grounds.passages.select(grounds.passages_of[places])
            )
        return result

    @torch.no_grad()
    def generate(self, inputs: Sequence[GeneratorInput], *, max_new_tokens: int) -> list[str]:
        """Greedy responses in the inputs' order; the inputs' responses are ignored."""
        if not len(inputs):
            return []
        grounds = self._grounds(inputs)
        results: list[str] = []
        for first in range(0, len(inputs), self.micro_batch):
            places = torch.arange(
                first, min(first + self.micro_batch, len(inputs)), device=self.device
            )
            contexts = grounds.contexts.select(grounds.context_of[places])
            passages = grounds.passages.select(grounds.passages_of[places])
            results += [
                self.decode(row) for row in self._greedy(contexts, passages, max_new_tokens)
            ]
        return results

    def save(self, folder: Path) -> None:
        """Write weights, frozen word embeddings, tokeniser, settings; see :func:`load_saved`."""
        with hub.quiet_transformers():
            self.tokenizer.save_pretrained(folder)
        save_tensors(
            Path(folder) / WEIGHTS_FILE,
            {**self.checkpoint_state(), "frozen.words": self.network.words},
        )
        write_settings(folder, NAME, asdict(self.settings))

    def load_checkpoint_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`Generator.checkpoint_state` returned.

        Raises:
            CheckpointError: the weights are another generator's.
        """
        stored = state.get("vocabulary")
        own = self.vocabulary
        assert isinstance(own, Tensor)
        if stored is None or not torch.equal(stored.to(own.device), own):
            raise CheckpointError(
                "checkpoint: expected a copy generator with this run's vocabulary, found another; "
                "resume with the training data, retriever.model and generator.copy_vocabulary the "
                "run was started with"
            )
        try:
            self.load_state_dict(dict(state))
        except RuntimeError as error:
            raise CheckpointError(
                f"checkpoint: its generator does not fit ({error}); resume with the "
                "generator.layers the run was started with"
            ) from error

    def _grounds(self, inputs: Sequence[GeneratorInput]) -> Grounds:
        contexts = [item.context for item in inputs]
        passages = [tuple(passage_text(passage) for passage in item.passages) for item in inputs]
        distinct_contexts = _places(contexts)
        distinct_sets = _places(passages)
        distinct_texts = _places([text for key in distinct_sets for text in key])
        read = self._read("context", list(distinct_contexts))
        texts = self._read("passage", list(distinct_texts))
        device = self.device
        return Grounds(
            contexts=self.network.sources(read, [[index] for index in range(len(read))]),
            passages=self.network.sources(
                texts, [[distinct_texts[text] for text in key] for key in distinct_sets]
            ),
            context_of=torch.tensor([distinct_contexts[c] for c in contexts], device=device),
            passages_of=torch.tensor([distinct_sets[key] for key in passages], device=device),
        )

    def _stems(self, grounds: Grounds, rows: Sequence[list[int]]) -> list[_Scored]:
        """The decoder's work, once per distinct (context, response), grouped by length."""
        keys = [(int(c), tuple(row)) for c, row in zip(grounds.context_of, rows, strict=True)]
        users: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for index, key in enumerate(keys):
            users.setdefault(key, []).append(index)
        distinct = list(users)
        groups = []
        for batch in length_batches([len(row) for _, row in distinct], self.micro_batch):
            chosen = [distinct[index] for index in batch]
            contexts = grounds.contexts.select(
                torch.tensor([context for context, _ in chosen], device=self.device)
            )
            targets = _padded([row for _, row in chosen], self.device)
            stem, _ = self.network.stem(
                _written([row for _, row in chosen], self.device),
                contexts,
                self.network.context_memory(contexts),
            )
            groups.append(
                _Scored(
                    stem=stem,
                    targets=targets,
                    known=self._known(stem, contexts, targets),
                    inputs=[index for key in chosen for index in users[key]],
                    row_of=[row for row, key in enumerate(chosen) for _ in users[key]],
                )
            )
        return groups

    def _known(self, stem: Stem, contexts: Sources, targets: Tensor) -> Tensor:
        """What is known of the targets [n, T] before any passage; see ``copy_network``."""
        real = targets >= 0
        classes = self._token_classes[targets[real]]
        logp = self.network.class_logp(stem.states[real], classes)
        logp = logp - (classes == len(self.network.class_words) - 1) * float(np.log(self._others))
        generated = torch.zeros(targets.shape, dtype=logp.dtype, device=self.device)
        generated[real] = logp
        return known_logp(stem, generated, contexts, targets)

    def _pairs(self, grounds: Grounds, stems: Sequence[_Scored], width: int) -> Tensor:
        """log p [P, width] of every input's targets, passages included."""
        parts, order = [], []
        sizes = (grounds.passages.ids >= 0).sum(dim=1)[grounds.passages_of].tolist()
        for group in stems:
            for batch in length_batches([sizes[i] for i in group.inputs], self.micro_batch):
                rows = torch.tensor([group.row_of[index] for index in batch], device=self.device)
                inputs = [group.inputs[index] for index in batch]
                sets = grounds.passages_of[torch.tensor(inputs, device=self.device)]
                logp = _with_passage(group, rows, grounds.passages.select(sets))
                parts.append(functional.pad(logp, (0, width - logp.shape[1])))
                order += inputs
        position = torch.tensor(order, device=self.device).argsort()
        return torch.cat(parts)[position]

    def _distribution(self, stem: Stem, contexts: Sources, passages: Sources) -> Tensor:
        """log p over all tokens [n, V] at one position per row (T = 1)."""
        result = copied_probability(stem, contexts, passages, len(self.network.words))
        generated = self.network.class_distribution(stem.states[:, 0]).exp()
        generated = generated * generate_share(stem, passages)
        generated[:, -1] /= self._others
        result += generated[:, self._token_classes]
        return result.clamp_min(torch.finfo(result.dtype).tiny).log()

    def _greedy(self, contexts: Sources, passages: Sources, max_new_tokens: int) -> list[list[int]]:
        memory = self.network.context_memory(contexts)
        count = len(contexts.ids)
        written = torch.full((count, 1, 2), -2, dtype=torch.int64, device=self.device)
        past: list[Past] | None = None
        tokens: list[Tensor] = []
        ended = torch.zeros(count, dtype=torch.bool, device=self.device)
        for step in range(max_new_tokens):
            stem, past = self.network.stem(written, contexts, memory, past, start=step)
            best = self._distribution(stem, contexts, passages).argmax(dim=-1)
            tokens.append(best)
            ended |= best == self.eos_id
            if bool(ended.all()):  # sync: stop when every response has ended
                break
            written = torch.stack([best[:, None], written[..., 0]], dim=-1)
        rows: list[list[int]] = torch.stack(tokens, dim=1).tolist() if tokens else [[]] * count
        return rows

    @property
    def _token_classes(self) -> Tensor:
        """The class of every token, int64 [V]."""
        classes = self.classes
        assert isinstance(classes, Tensor)
        return classes

    def _read(self, field: str, texts: Sequence[str]) -> list[Tensor]:
        """Token ids of each distinct text, cut to the field's limit; what was cut is counted."""
        found = self._looked_up(field, texts)
        for ids, length in found:
            self.truncation.add(f"generator {field}", tokens=length, kept=len(ids))
        return [ids for ids, _ in found]

    def _looked_up(self, field: str, texts: Sequence[str]) -> list[tuple[Tensor, int]]:
        """The texts' token ids, cut to the field's limit, and their lengths; kept for next time."""
        settings, context = self.settings, field == "context"
        limit = {
            "context": settings.max_context_tokens,
            "passage": settings.max_passage_tokens,
            "response": settings.max_response_tokens - 1,
        }[field]
        unseen = [text for text in texts if (field, text) not in self._texts]
        for text, row in zip(unseen, token_ids(self.tokenizer, unseen, special=False), strict=True):
            kept = row[-limit:] if context else row[:limit]
            self._texts[field, text] = (torch.tensor(kept, dtype=torch.int64), len(row))
        result = []
        for text in texts:
            self._texts.move_to_end((field, text))
            result.append(self._texts[field, text])
        while len(self._texts) > _TEXTS_KEPT:
            self._texts.popitem(last=False)
        return result


class _Scored(NamedTuple):
    """Stems of some (context, response) pairs and the inputs that use them.

    known [n, T]: what is known of the targets before any passage. inputs: positions in the call;
    row_of: the stem row each of them uses.
    """

    stem: Stem
    targets: Tensor
    known: Tensor
    inputs: list[int]
    row_of: list[int]


def _with_passage(group: _Scored, rows: Tensor, passages: Sources) -> Tensor:
    return mixture_logp(group.stem.select(rows), group.known[rows], passages, group.targets[rows])


def build_copy_generator(
    encoder: TextEncoder,
    responses: Sequence[str],
    *,
    layers: int,
    vocabulary_size: int,
    max_context_tokens: int,
    max_passage_tokens: int,
    max_response_tokens: int,
    seed: int,
) -> CopyGenerator:
    """Choose the generated vocabulary and make the generator, untrained.

    Args:
        encoder: lends its tokeniser and (copied, frozen) its word embeddings.
        responses: training responses; their most frequent tokens become the vocabulary.
        layers: decoder layers, at least 1.
        vocabulary_size: the most tokens the output layer generates.
        max_context_tokens: context tokens read, the last ones.
        max_passage_tokens: tokens read of each passage with its title, the first ones.
        max_response_tokens: tokens of a response scored, end of sequence included.
        seed: initialisation.

    Raises:
        ConfigError: there are no responses, or the tokeniser cannot end one.
    """
    if not responses:
        raise ConfigError(
            "generator.model 'copy': expected training responses to take its vocabulary from, got "
            "none; give a data set with a train split, or use 'query-likelihood'"
        )
    embeddings = encoder.model.get_input_embeddings().weight.detach().float().cpu().clone()  # type: ignore[operator]
    words = functional.layer_norm(embeddings, embeddings.shape[1:], eps=1e-12)
    tokenizer = encoder.tokenizer
    settings = CopySettings(layers, max_context_tokens, max_passage_tokens, max_response_tokens)
    counts = np.zeros(len(words))
    for row in token_ids(tokenizer, list(responses), special=False):
        np.add.at(counts, row, 1)
    counts[end_of_sequence(tokenizer)] += len(responses)
    frequent = np.argsort(-counts, kind="stable")[:vocabulary_size]
    vocabulary = np.sort(frequent[counts[frequent] > 0])
    rest = counts.sum() - counts[vocabulary].sum()
    return CopyGenerator(
        tokenizer,
        words,
        torch.from_numpy(vocabulary),
        torch.from_numpy(np.append(counts[vocabulary], rest)),
        settings,
        seed=seed,
    )


def load_saved(folder: Path) -> CopyGenerator:
    """Load what :meth:`CopyGenerator.save` wrote.

    Raises:
        CheckpointError: the folder holds no such generator.
    """
    stored = read_settings(folder, NAME)
    settings = CopySettings(**{key: int(stored[key]) for key in CopySettings.__slots__})
    state = load_tensors(Path(folder) / WEIGHTS_FILE)
    words = state.pop("frozen.words")
    generator = CopyGenerator(
        hub.load_tokenizer(str(folder)),
        words,
        state["vocabulary"],
        torch.zeros(len(state["vocabulary"]) + 1, dtype=torch.float64),
        settings,
        seed=0,
    )
    generator.load_checkpoint_state(state)
    return generator


def _places(items: Sequence[Any]) -> dict[Any, int]:
    return {item: index for index, item in enumerate(dict.fromkeys(items))}


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Token ids [n, T], padded with -2, which no source token equals."""
    width = max(len(row) for row in rows)
    filled = [[*row, *[-2] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64, device=device)


def _written(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The tokens one and two places before each position, int64 [n, T, 2], -2 where none."""
    ids = _padded(rows, device)
    one = functional.pad(ids, (1, 0), value=-2)[:, :-1]
    two = functional.pad(ids, (2, 0), value=-2)[:, :-2]
    return torch.stack([one, two], dim=-1)


def _at(stem: Stem, places: Tensor) -> Stem:
    """One position per row: [n, T, ...] to [n, 1, ...]."""
    rows = torch.arange(len(places), device=places.device)
    return Stem(*(getattr(stem, name)[rows, places].unsqueeze(1) for name in Stem.__slots__))
