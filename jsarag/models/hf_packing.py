"""Lays sequences with a common beginning out as trees: the beginning once, each rest a branch.

Candidate passages of one example are read after the same context, so most of their prompts' tokens
are the same. Here they become a prefix that every branch sees, with positions that go on from it in
each branch; trees lie side by side in rows of one length. A token attends to exactly the tokens it
would attend to alone, so its hidden state is the same up to rounding. Pure functions of token ids.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# A shorter common beginning saves less than it is worth.
_LEAST_SHARED = 8
# Rows may be this many times as wide as the widest tree, where that leaves less padding.
_WIDENINGS = (1.0, 1.25, 1.5, 2.0)


class Line(NamedTuple):
    """One sequence to read: its tokens, and from which one on its hidden states are wanted.

    ``group``: sequences of one group are looked through for a common beginning.
    """

    ids: list[int]
    start: int
    group: str


class Tree(NamedTuple):
    """``prefix`` tokens that all ``members`` (places in the lines) begin with; ``size`` tokens."""

    prefix: int
    members: list[int]
    size: int


class Layout(NamedTuple):
    """Trees in rows of ``width`` tokens."""

    rows: list[list[Tree]]
    width: int

    @property
    def tokens(self) -> int:
        """Tokens that go through the network, padding included."""
        return len(self.rows) * self.width

    def members(self, first: int, last: int) -> list[int]:
        """Places of the lines in some rows."""
        return [place for row in self.rows[first:last] for tree in row for place in tree.members]


class Packed(NamedTuple):
    """A layout as tensors.

    ids, positions: int64 [n, L], positions counted within each sequence.
    mask: [n, 1, L, L], 0 where a token (second last dimension) sees another, else the lowest
        number; padding sees itself only.
    places: row and column, int64 [N] each, of the states asked for, line after line.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    places: tuple[Tensor, Tensor]


def lay_out(lines: Sequence[Line], limit: int) -> Layout:
    """Where every line goes; it depends on the lines alone, and its cost not on their order.

    Args:
        lines: at least one token each.
        limit: the longest row, in tokens; a longer line makes a row of its own.
    """
    trees = _trees(lines, limit)
    sizes = [tree.size for tree in trees]
    widest = max(sizes, default=0)
    widths = dict.fromkeys(max(widest, min(limit, int(widest * w))) for w in _WIDENINGS)
    layouts = []
    for width in widths:
        rows = [[trees[place] for place in row] for row in _bins(sizes, width)]
        used = max((sum(tree.size for tree in row) for row in rows), default=0)
        layouts.append(Layout(rows, used))
    return min(layouts, key=lambda layout: layout.tokens)


def packed_chunks(lines: Sequence[Line], limit: int, budget: int) -> list[list[int]]:
    """Places of the lines in groups, each of which :func:`lay_out` fits into ``budget`` tokens.

    Args:
        lines: as for :func:`lay_out`.
        limit: the longest row, at most ``budget``.
        budget: tokens of a group, padding included; a longer line is a group of its own.
    """
    layout = lay_out(lines, limit)
    rows = max(1, budget // max(1, layout.width))
    if layout.tokens <= budget or len(layout.rows) <= rows:
        return [list(range(len(lines)))] if lines else []
    groups = []
    for first in range(0, len(layout.rows), rows):
        places = layout.members(first, first + rows)
        # Laid out alone, a group may come out otherwise, in rare cases longer.
        for part in packed_chunks([lines[place] for place in places], limit, budget):
            groups.append([places[place] for place in part])
    return groups


def pack(
    layout: Layout, lines: Sequence[Line], pad_id: int, device: torch.device, dtype: torch.dtype
) -> Packed:
    """The tensors of a layout; the mask takes ``dtype``, which should be the queries'."""
    shape = (len(layout.rows), layout.width)
    tokens: list[int] = []
    # Of every prefix and branch: row, first column, first position, length, prefix's segment.
    segments: list[tuple[int, int, int, int, int]] = []
    wanted = [(0, 0, 0)] * len(lines)
    for row, trees in enumerate(layout.rows):
        column = 0
        for tree in trees:
            root = len(segments)
            if tree.prefix:
                tokens += lines[tree.members[0]].ids[: tree.prefix]
                segments.append((row, column, 0, tree.prefix, root))
                column += tree.prefix
            for place in tree.members:
                line = lines[place]
                length = len(line.ids) - tree.prefix
                tokens += line.ids[tree.prefix :]
                owner = root if tree.prefix else len(segments)
                segments.append((row, column, tree.prefix, length, owner))
                first = column + line.start - tree.prefix
                wanted[place] = (row, first, len(line.ids) - line.start)
                column += length
    table = torch.tensor(segments, dtype=torch.int64).reshape(-1, 5)
    segment, offset = _runs(table[:, 3])
    where = (table[segment, 0], table[segment, 1] + offset)
    ids = torch.full(shape, pad_id)
    ids[where] = torch.tensor(tokens, dtype=torch.int64)
    positions = torch.zeros(shape, dtype=torch.int64)
    positions[where] = table[segment, 2] + offset
    # Padding: a segment of its own at every column.
    own = (-1 - torch.arange(shape[1])).expand(shape).contiguous()
    root_of = own.clone()
    own[where], root_of[where] = segment, table[segment, 4]
    states = torch.tensor(wanted, dtype=torch.int64).reshape(-1, 3)
    line_of, offset = _runs(states[:, 2])
    rows, columns = states[line_of, 0], states[line_of, 1] + offset
    return Packed(
        ids.to(device),
        positions.to(device),
        _mask(own.to(device), root_of.to(device), dtype),
        (rows.to(device), columns.to(device)),
    )


def _mask(own: Tensor, root_of: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, L] each: every token's segment, and the one it sees besides; see :class:`Packed`.

    Numbers, not booleans: both of transformers' own attentions add them, and where torch would turn
    booleans into numbers it would do so, and keep the result for the way back, in every layer.
    """
    count, width = own.shape
    sees = (own[:, :, None] == own[:, None, :]) | (root_of[:, :, None] == own[:, None, :])
    sees &= torch.ones(width, width, dtype=torch.bool, device=own.device).tril()
    # CUDA's kernels copy, in every layer, a mask whose rows do not start on multiples of 16.
    storage = torch.zeros(count, 1, width, -(-width // 16) * 16, dtype=dtype, device=own.device)
    return storage[..., :width].masked_fill_(~sees[:, None], torch.finfo(dtype).min)


def _trees(lines: Sequence[Line], limit: int) -> list[Tree]:
    groups: dict[str, list[int]] = {}
    for place, line in enumerate(lines):
        groups.setdefault(line.group, []).append(place)
    trees = []
    for members in groups.values():
        prefix = _shared([lines[place] for place in members])
        if prefix < _LEAST_SHARED:
            trees += [Tree(0, [place], len(lines[place].ids)) for place in members]
            continue
        rests = [len(lines[place].ids) - prefix for place in members]
        for bunch in _bins(rests, limit - prefix):
            size = prefix + sum(rests[index] for index in bunch)
            trees.append(Tree(prefix, [members[index] for index in bunch], size))
    return trees


def _shared(lines: Sequence[Line]) -> int:
    """Tokens all lines begin with, before any state that is wanted; 0 for a single line."""
    if len(lines) == 1:
        return 0
    # What the first and the last in dictionary order share, all share.
    low, high = min(line.ids for line in lines), max(line.ids for line in lines)
    most = min(line.start for line in lines)
    for place in range(most):
        if low[place] != high[place]:
            return place
    return most


def _bins(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Places of sizes, largest first, each in the fullest bin that has room; n log n.

    A size beyond ``capacity`` has a bin of its own.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (what is free, which bin), ascending
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        place = bisect_left(rooms, (sizes[item], -1))
        if place < len(rooms):
            room, chosen = rooms.pop(place)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(item)
        insort(rooms, (room - sizes[item], chosen))
    return bins


def _runs(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Of runs of some lengths, flattened: each element's run, and its place in it; int64 [N]."""
    run = torch.repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    return run, torch.arange(len(run)) - starts[run]
