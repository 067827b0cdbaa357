"""The trainable network of the copy generator: a small decoder and a pointer over source tokens.

Every word piece of the response is generated from a small vocabulary, or copied from the context,
or copied from the passage:

    p(y_t) = s_v p_vocabulary(y_t) + s_c sum_{j in context: j = y_t} a_tj
           + s_p sum_{j in passage: j = y_t} a_tj,

the shares s and the attentions a each summing to 1. Three decisions make it tell passages apart
instead of only fitting responses (AUC of gold against hard negatives on SK-TOD after 100 steps from
nothing; the query likelihood it starts from has .81):

* The shares depend on the context and on what is written, never on the passage, and attention is
  normalised within a source. One softmax over all slots let a wrong passage win or lose mass for
  words that are not in it, and AUC fell to .70; with this it stays at .79 to .81.
* The shares stay within e^+-1.5 of their start, so the passage keeps a say however well the
  decoder learns to do without.
* It starts as the query likelihood with background frequencies (uniform attention), plus a
  preference for continuing a copied span. Passages are told apart from the first step on.

What the decoder knows before it sees a passage is computed once per (context, response) and shared
by all passages: scoring sixteen passages costs little more than scoring one. Texts, tokenisers and
batches are ``copy_generator``'s business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from jsarag import ops, randomness

# Stands for minus infinity where a finite number keeps gradients free of NaN.
FLOOR = -1e9
_KEY_WIDTH = 64
_HEAD_WIDTH = 64
# Start: three tokens in ten generated, one copied from the context, six from the passage.
_START_SHARES = (0.3, 0.1, 0.6)
_SHARE_RANGE = 1.5
# Start: a source token whose predecessor (and its predecessor too) is what was just written is
# e^2 (e^4) times likelier a copy than the others: copied spans continue.
_START_RUNS = (2.0, 2.0)
_GENERATE, _CONTEXT, _PASSAGE = range(3)


@dataclass(frozen=True, slots=True)
class Sources:
    """Source texts, each as token ids and copy keys, padded on the right.

    ids int64 [n, S], -1 pads; keys [n, S, key width]. before and before2 int64 [n, S]: the ids one
    and two places before (-1 at the beginning of a text).
    """

    ids: Tensor
    keys: Tensor
    before: Tensor
    before2: Tensor

    def select(self, rows: Tensor) -> Sources:
        """The texts ``rows``, int64 [m], without columns that only pad."""
        ids = self.ids[rows]
        width = int((ids >= 0).sum(dim=1).max()) if ids.numel() else 0
        return Sources(
            ids[:, :width],
            self.keys[rows, :width],
            self.before[rows, :width],
            self.before2[rows, :width],
        )


@dataclass(frozen=True, slots=True)
class Stem:
    """What is known at each response position before a passage is seen.

    states [n, T, H]; shares [n, T, 3]: logits of the shares generate, context, passage; queries
    [n, T, key width], scaled; runs [n, T, 2]: what a matching predecessor adds to a logit, and a
    second one; context_logp [n, T, S]: log-attention to the context's tokens; written int64
    [n, T, 2]: the tokens one and two places before the position (-2 where there is none).
    """

    states: Tensor
    shares: Tensor
    queries: Tensor
    runs: Tensor
    context_logp: Tensor
    written: Tensor

    def select(self, rows: Tensor) -> Stem:
        """The responses ``rows``, int64 [m]."""
        return Stem(*(getattr(self, name)[rows] for name in Stem.__slots__))


class Attention(nn.Module):
    """Multi-head attention over earlier positions (``memory`` None) or a memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [n, heads, S, head width] of states [n, S, H]."""
        key, value = self.key_value(states).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(
        self, states: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """States [n, T, H] attend to S places; ``mask`` bool [n or 1, 1, T or 1, S] or None."""
        query = self._split(self.query(states))
        key, value = keys_values
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result

    def _split(self, states: Tensor) -> Tensor:
        shape = (*states.shape[:-1], self.heads, states.shape[-1] // self.heads)
        return states.reshape(shape).transpose(1, 2)


Past = tuple[Tensor, Tensor]


class Block(nn.Module):
    """One decoder layer: itself, the context, a feed-forward network; normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width, heads)
        self.context = Attention(width, heads)
        self.inner = nn.Linear(width, 2 * width)
        self.output = nn.Linear(2 * width, width)

    def forward(
        self, states: Tensor, context: Past, context_mask: Tensor, past: Past | None
    ) -> tuple[Tensor, Past]:
        """New states [n, T, H], and keys and values to pass as ``past`` with the next token.

        Args:
            states: [n, T, H]; with ``past``, T is 1.
            context: keys and values of the context's tokens.
            context_mask: bool [n, 1, 1, S].
            past: what the previous call returned, or None at the beginning.
        """
        normed = self.norms[0](states)
        present = self.own.keys_values(normed)
        if past is not None:
            present = (
                torch.cat([past[0], present[0]], dim=2),
                torch.cat([past[1], present[1]], dim=2),
            )
        steps = states.shape[1]
        causal = torch.ones(steps, present[0].shape[2], dtype=torch.bool, device=states.device)
        causal = causal.tril(present[0].shape[2] - steps)
        states = states + self.own(normed, present, causal[None, None])
        states = states + self.context(self.norms[1](states), context, context_mask)
        hidden = functional.gelu(self.inner(self.norms[2](states)))
        return states + self.output(hidden), present


class CopyNetwork(nn.Module):
    """Decoder, pointer and output layer; see the module's text.

    Args:
        words: frozen embeddings f32 [V, H] of every token, rows of about unit variance.
        class_words: embeddings f32 [G, H] of the generated classes; the last stands for every
            token outside the vocabulary.
        class_logp: log-frequencies f32 [G] of the classes, where the output layer starts.
        layers: decoder layers.
        seed: initialisation.
    """

    words: Tensor
    class_words: Tensor
    start_shares: Tensor

    def __init__(
        self, words: Tensor, class_words: Tensor, class_logp: Tensor, *, layers: int, seed: int
    ) -> None:
        super().__init__()
        width = words.shape[1]
        heads = max(1, width // _HEAD_WIDTH)
        while width % heads:
            heads -= 1
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("class_words", class_words, persistent=False)
        self.register_buffer("start_shares", torch.tensor(_START_SHARES).log(), persistent=False)
        self.read = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 5)
        self.query = nn.Linear(width, _KEY_WIDTH)
        self.key = nn.Linear(width, 3 * _KEY_WIDTH, bias=False)
        self.vocabulary = nn.Linear(width, width, bias=False)
        self.class_bias = nn.Parameter(class_logp.clone())
        self.start = nn.Parameter(torch.zeros(width))
        # The context is never empty for attention: its first place is this one.
        self.nothing = nn.Parameter(torch.zeros(width))
        self._initialise(seed)

    @property
    def layers(self) -> list[Block]:
        """The decoder's layers."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def sources(self, texts: list[Tensor], joins: list[list[int]]) -> Sources:
        """Ids and copy keys of texts.

        Args:
            texts: int64 [S_i] token ids of each distinct text.
            joins: per source, the texts (positions in ``texts``) it is joined from.

        Notes:
            Each distinct text's keys are computed once, whatever number of sources it is part of.
        """
        device = self.words.device
        packed = torch.cat(texts) if texts else torch.zeros(0, dtype=torch.int64)
        packed = packed.to(device)
        lengths = [len(text) for text in texts]
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        first = torch.zeros(len(packed) + 1, dtype=torch.bool, device=device)
        first[torch.tensor(starts, dtype=torch.int64, device=device)] = True
        first[-1] = True
        keys = self._keys(packed, first)
        before = _shifted(packed, first)
        before2 = _shifted(before, first)
        place = [
            [spot for text in join for spot in range(starts[text], starts[text] + lengths[text])]
            for join in joins
        ]
        width = max((len(spots) for spots in place), default=0)
        where = torch.tensor(
            [spots + [-1] * (width - len(spots)) for spots in place],
            dtype=torch.int64,
            device=device,
        ).reshape(len(joins), width)
        there = where >= 0
        if not len(packed):
            nothing = where.new_full(where.shape, -1)
            return Sources(nothing, keys.new_zeros((*where.shape, _KEY_WIDTH)), nothing, nothing)
        where = where.clamp_min(0)
        return Sources(
            packed[where].masked_fill(~there, -1),
            keys[where],
            before[where].masked_fill(~there, -1),
            before2[where].masked_fill(~there, -1),
        )

    def context_memory(self, context: Sources) -> tuple[list[Past], Tensor]:
        """Keys and values of the context for every layer, and their mask bool [n, 1, 1, 1 + S]."""
        there = context.ids >= 0
        states = self.words[context.ids.clamp_min(0)]
        nothing = self.nothing.expand(len(states), 1, -1)
        states = torch.cat([nothing, states], dim=1)
        mask = functional.pad(there, (1, 0), value=True)[:, None, None]
        return [block.context.keys_values(states) for block in self.layers], mask

    def stem(
        self,
        written: Tensor,
        context: Sources,
        memory: tuple[list[Past], Tensor],
        past: list[Past] | None = None,
        *,
        start: int = 0,
    ) -> tuple[Stem, list[Past]]:
        """States and slots of response positions ``start`` to ``start + T``.

        Args:
            written: int64 [n, T, 2]: the tokens one and two places before each position, -2 where
                there is none.
            context: the contexts' tokens.
            memory: what :meth:`context_memory` made of them.
            past: keys and values of earlier positions, as returned.
            start: the first position's number.
        """
        last = written[..., 0]
        states = self.read(self.words[last.clamp_min(0)])
        states = torch.where((last < 0).unsqueeze(-1), self.start, states)
        states = states + _positions(start, states.shape[1], states.shape[2], states)
        present = []
        for index, block in enumerate(self.layers):
            states, new = block(
                states, memory[0][index], memory[1], None if past is None else past[index]
            )
            present.append(new)
        states = self.norm(states)
        moved, runs = self.mix(states).split([3, 2], dim=-1)
        shares = self.start_shares + _SHARE_RANGE * (moved / _SHARE_RANGE).tanh()
        empty = (context.ids < 0).all(dim=1)
        shares = shares.masked_fill(
            empty[:, None, None] & (torch.arange(3, device=shares.device) == _CONTEXT), FLOOR
        )
        queries = self.query(states) / math.sqrt(_KEY_WIDTH)
        stem = Stem(
            states=states,
            shares=shares,
            queries=queries,
            runs=runs,
            context_logp=attention_logp(context, queries, runs, written),
            written=written,
        )
        return stem, present

    def class_logp(self, states: Tensor, classes: Tensor) -> Tensor:
        """log p_vocabulary of one class per state: [N] from states [N, H] and classes int64 [N]."""
        boundaries = torch.arange(len(classes) + 1, device=classes.device)
        logp: Tensor = ops.passage_logp(
            self._output(states), self.class_words, classes, boundaries, bias=self.class_bias
        ).logp
        return logp

    def class_distribution(self, states: Tensor) -> Tensor:
        """log p_vocabulary of every class, [N, G], for states [N, H]."""
        logits = functional.linear(self._output(states), self.class_words, self.class_bias)
        return logits.log_softmax(dim=-1)

    def _output(self, states: Tensor) -> Tensor:
        result: Tensor = self.vocabulary(states) / math.sqrt(states.shape[-1])
        return result

    def _keys(self, packed: Tensor, first: Tensor) -> Tensor:
        """Copy keys of tokens from their own and their neighbours' embeddings."""
        own, before, after = self.key(self.words[packed]).chunk(3, dim=-1)
        empty = own.new_zeros(1, own.shape[1])
        before = torch.cat([empty, before[:-1]]).masked_fill(first[:-1, None], 0.0)
        after = torch.cat([after[1:], empty]).masked_fill(first[1:, None], 0.0)
        keys: Tensor = own + before + after
        return keys

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                draws = randomness.generator(seed, "copy-generator", name).standard_normal(
                    tuple(parameter.shape)
                )
                scale = 1.0 / math.sqrt(parameter.shape[1])
                parameter.copy_(torch.from_numpy(draws) * scale)
            elif not name.endswith(("norm.weight", "class_bias")) and ".norms." not in name:
                parameter.zero_()
        for block in self.layers:
            for layer in (block.own.output, block.context.output, block.output):
                layer.weight.mul_(1.0 / math.sqrt(2.0 * len(self.layers)))
        # Nothing learned yet: every source token alike, background frequencies for the rest.
        self.vocabulary.weight.zero_()
        self.mix.weight.zero_()
        self.query.weight.mul_(0.1)
        self.mix.bias[3:] = torch.tensor(_START_RUNS)


def attention_logp(source: Sources, queries: Tensor, runs: Tensor, written: Tensor) -> Tensor:
    """Log-attention [n, T, S] to each source token, about :data:`FLOOR` on padding.

    Args:
        source: n sources.
        queries: [n, T, key width], scaled.
        runs: [n, T, 2], what a matching predecessor adds, and a second one.
        written: int64 [n, T, 2], the tokens before each position.
    """
    logits = queries @ source.keys.transpose(1, 2)
    one = source.before[:, None] == written[..., 0].unsqueeze(-1)
    two = one & (source.before2[:, None] == written[..., 1].unsqueeze(-1))
    logits = logits + one * runs[..., :1] + two * runs[..., 1:]
    logits = logits.masked_fill((source.ids < 0)[:, None], FLOOR)
    return logits.log_softmax(dim=-1) if logits.shape[-1] else logits


def known_logp(stem: Stem, generated_logp: Tensor, context: Sources, targets: Tensor) -> Tensor:
    """Log of the targets' probability [n, T] times the sum of shares, the passage left out.

    Args:
        stem: n stems.
        generated_logp: log p_vocabulary(targets), [n, T].
        context: n contexts.
        targets: int64 [n, T], negative where padded.
    """
    return torch.logaddexp(
        stem.shares[..., _GENERATE] + generated_logp,
        stem.shares[..., _CONTEXT] + _matching_logp(context, stem.context_logp, targets),
    )


def mixture_logp(stem: Stem, known: Tensor, passage: Sources, targets: Tensor) -> Tensor:
    """log p(targets) [n, T] with the passage.

    Args:
        stem: n stems.
        known: what :func:`known_logp` says of the targets.
        passage: n passages (or sets of them).
        targets: int64 [n, T], negative where padded.
    """
    attention = attention_logp(passage, stem.queries, stem.runs, stem.written)
    share = _passage_share(stem, passage)
    copied = share + _matching_logp(passage, attention, targets)
    total = stem.shares[..., :_PASSAGE].logsumexp(dim=-1).logaddexp(share)
    return torch.logaddexp(known, copied) - total


def copied_probability(stem: Stem, context: Sources, passage: Sources, tokens: int) -> Tensor:
    """Probability [n, tokens] that each token is copied at the single position of ``stem``."""
    shares = _all_shares(stem, passage).softmax(dim=-1)
    result = shares.new_zeros(len(shares), tokens)
    attention = attention_logp(passage, stem.queries, stem.runs, stem.written)
    for source, logp, place in (
        (context, stem.context_logp, _CONTEXT),
        (passage, attention, _PASSAGE),
    ):
        copied = shares[..., place] * logp[:, 0].exp() * (source.ids >= 0)
        result.scatter_add_(1, source.ids.clamp_min(0), copied)
    return result


def generate_share(stem: Stem, passage: Sources) -> Tensor:
    """The share [n, 1] that is generated at the single position of ``stem``."""
    return _all_shares(stem, passage).softmax(dim=-1)[..., _GENERATE]


def _all_shares(stem: Stem, passage: Sources) -> Tensor:
    share = _passage_share(stem, passage)
    return torch.cat([stem.shares[..., :_PASSAGE], share.unsqueeze(-1)], dim=-1)


def _passage_share(stem: Stem, passage: Sources) -> Tensor:
    """The passage's logit [n, T]: nothing can be copied where there is none."""
    empty = (passage.ids < 0).all(dim=1)
    return stem.shares[..., _PASSAGE].masked_fill(empty[:, None], FLOOR)


def _matching_logp(source: Sources, logp: Tensor, targets: Tensor) -> Tensor:
    """Log-attention [n, T] to all source tokens that equal the target; FLOOR if none does."""
    if not logp.shape[-1]:
        return logp.new_full(logp.shape[:-1], FLOOR)
    same = source.ids[:, None] == targets.unsqueeze(-1)
    return logp.masked_fill(~same, FLOOR).logsumexp(dim=-1)


def _shifted(packed: Tensor, first: Tensor) -> Tensor:
    """Each value's predecessor within its text, -1 at its beginning."""
    moved = torch.cat([packed.new_full((1,), -1), packed[:-1]]) if len(packed) else packed
    return moved.masked_fill(first[:-1], -1)


def _positions(start: int, count: int, width: int, like: Tensor) -> Tensor:
    """Sinusoids [count, width] for positions from ``start`` on: any length can be written."""
    place = torch.arange(start, start + count, device=like.device, dtype=torch.float32)
    half = (width + 1) // 2
    rate = torch.exp(
        torch.arange(half, device=like.device, dtype=torch.float32) * (-math.log(1e4) / half)
    )
    angle = place[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :width].to(like.dtype)
