"""Sequences of tokens for two-stage vectors: whole ones under a mask, cut ones, and many parts packed into a few rows.

What is laid out depends on the masks alone, never on a pixel, so that other pixels cannot change the order of any sum.
S segments: the pairs (picture, part) that keep at least one patch, by picture, then part. R rows of L tokens; K vectors a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_TOKENS = 16_384
"""Tokens of one forward pass: what bounds its memory."""
MOST_PAIRS = 16_000_000
"""Pairs of tokens (rows x length x length) of one forward pass, where a mask says who reads whom."""
CAPACITIES = (128, 256, 512)
"""Row lengths that packing tries, beside the length of the longest segment."""


@dataclass(frozen=True)
class Segments:
    """``picture``, ``part`` int64 [S]; ``counts`` int64 [S]: patches kept; ``patch`` int64 [sum of counts]: their numbers, segment
    by segment in rising order; ``entry`` int64 [same]: their rows in the table of embedded tokens."""

    picture: Tensor
    part: Tensor
    counts: Tensor
    patch: Tensor
    entry: Tensor


@dataclass(frozen=True)
class Sequences:
    """What one forward pass reads, and what is made of it.

    ``entries`` int64 [R, L]: rows of the token table; ``positions`` int64 [R, L] (-1: prefix) or None: the plain sequence;
    ``allowed`` bool [R, L, L] or None: all; ``owns`` bool [R, K, L]: the tokens that belong to each vector; ``patches`` bool
    [R, K, L]: those of them that are patches; ``segment`` int64 [R, K]: which vector it is, -1 for none.
    """

    entries: Tensor
    positions: Tensor | None
    allowed: Tensor | None
    owns: Tensor
    patches: Tensor
    segment: Tensor


def segments(keep: Tensor, table_row: Tensor, prefix: int) -> Segments:
    """The present parts. ``keep`` bool [B, P, N]; ``table_row`` int64 [B, P, N]: the picture of the token table, each of
    ``prefix`` + N tokens, in which that patch was embedded."""
    pairs, kept = keep.any(-1).nonzero(), keep.nonzero()
    patch = kept[:, 2]
    entry = table_row[keep] * (prefix + keep.shape[-1]) + prefix + patch
    return Segments(pairs[:, 0], pairs[:, 1], keep.sum(-1)[pairs[:, 0], pairs[:, 1]], patch, entry)


def whole_sequences(keep: Tensor, table_row: Tensor, prefix: int) -> Iterator[Sequences]:
    """Every token of the picture for every part; all queries read the prefix and the part's own keys only."""
    own = segments(keep, table_row, prefix)
    patches = keep.shape[-1]
    length = prefix + patches
    step = max(1, min(MOST_TOKENS // length, MOST_PAIRS // length**2))
    for first in range(0, len(own.picture), step):
        picked = torch.arange(first, min(first + step, len(own.picture)), device=keep.device)
        picture, part = own.picture[picked], own.part[picked]
        rows = table_row[picture, part]
        head = picture[:, None] * length + torch.arange(prefix, device=keep.device)
        rest = rows * length + prefix + torch.arange(patches, device=keep.device)
        mine = keep[picture, part]
        empty = mine.new_zeros(len(picked), prefix)
        reads = torch.cat([~empty, mine], 1)
        allowed = reads[:, None].expand(-1, length, -1)
        patch_only = torch.cat([empty, mine], 1)
        yield Sequences(torch.cat([head, rest], 1), None, allowed, reads[:, None], patch_only[:, None], picked[:, None])


def dropped_sequences(keep: Tensor, table_row: Tensor, prefix: int) -> Iterator[Sequences]:
    """One row a part, of the prefix and the kept patches alone; parts of equal length go together, so nothing is padded."""
    own = segments(keep, table_row, prefix)
    lengths = (own.counts + prefix).tolist()
    order = sorted(range(len(lengths)), key=lambda s: -lengths[s])
    yield from _laid_out(own, [[s] for s in order], lengths, prefix, keep.shape[-1], even=True)


def packed_sequences(keep: Tensor, table_row: Tensor, prefix: int, width: int) -> Iterator[Sequences]:
    """Parts of all pictures side by side in rows; a token reads the tokens of its own part, with its own copy of the prefix.

    ``width``: of the tokens; weighs what longer rows cost in attention against what shorter ones waste in padding.
    """
    own = segments(keep, table_row, prefix)
    lengths = (own.counts + prefix).tolist()
    yield from _laid_out(own, best_rows(lengths, width), lengths, prefix, keep.shape[-1], even=False)


def best_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Segments by row, longest row first, for the cheapest of a few row lengths.

    A block costs about 24 D^2 operations a token and 4 D for each of the L tokens it is compared with: L (6 D + L) a row.
    """
    longest = max(lengths, default=0)
    plans: list[list[list[int]]] = [
        fill_rows(lengths, size) for size in sorted({longest, *(max(longest, c) for c in CAPACITIES)})
    ]

    def cost(rows: Iterable[list[int]]) -> int:
        rows = list(rows)
        length = max((sum(lengths[s] for s in row) for row in rows), default=0)
        return len(rows) * length * (6 * width + length)

    return sorted(min(plans, key=cost), key=lambda row: -sum(lengths[s] for s in row))


def fill_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First fit, longest first: each segment goes into the first row that has room. Numbers only; a batch has some hundred."""
    rows: list[list[int]] = []
    room: list[int] = []
    for s in sorted(range(len(lengths)), key=lambda s: -lengths[s]):
        place = next((r for r, left in enumerate(room) if left >= lengths[s]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(capacity)
        rows[place].append(s)
        room[place] -= lengths[s]
    return rows


def _laid_out(
    own: Segments, rows: list[list[int]], lengths: list[int], prefix: int, patches: int, *, even: bool
) -> Iterator[Sequences]:
    """The rows as tensors, in passes of bounded size; ``even``: a pass holds rows of one length only."""
    used = [sum(lengths[s] for s in row) for row in rows]
    starts = own.counts.cumsum(0) - own.counts
    first = 0
    while first < len(rows):
        length = used[first]
        most = max(1, min(MOST_TOKENS // length, MOST_PAIRS // length**2))
        last = min(len(rows), first + most)
        while even and used[last - 1] != length:
            last -= 1
        yield _one_pass(own, starts, rows[first:last], lengths, length, prefix, patches)
        first = last


def _one_pass(
    own: Segments, starts: Tensor, rows: list[list[int]], lengths: list[int], length: int, prefix: int, patches: int
) -> Sequences:
    device, most = own.counts.device, max(map(len, rows))
    places = [(r, k, s) for r, row in enumerate(rows) for k, s in enumerate(row)]
    begins = [sum(lengths[s] for s in row[:k]) for row in rows for k in range(len(row))]
    row, slot, segment = torch.tensor(places, device=device).T
    begin = torch.tensor(begins, device=device)
    segment_of = torch.full((len(rows), most), -1, device=device)
    segment_of[row, slot] = segment
    entries, holder = (torch.full((len(rows), length), value, device=device) for value in (0, -1))
    positions = torch.full((len(rows), length), -1, device=device)

    head = torch.arange(prefix, device=device)
    at = row[:, None], begin[:, None] + head
    entries[at] = own.picture[segment][:, None] * (prefix + patches) + head
    holder[at] = slot[:, None].expand(-1, prefix)

    counts = own.counts[segment]
    which = torch.arange(len(segment), device=device).repeat_interleave(counts)
    rank = torch.arange(len(which), device=device) - (counts.cumsum(0) - counts)[which]
    source = starts[segment][which] + rank
    at = row[which], begin[which] + prefix + rank
    entries[at], positions[at], holder[at] = own.entry[source], own.patch[source], slot[which]

    owns = holder[:, None] == torch.arange(most, device=device)[:, None]
    lone = most == 1 and bool((holder == 0).all())
    allowed = None if lone else holder[:, :, None] == holder[:, None, :]
    return Sequences(entries, positions, allowed, owns, owns & (positions >= 0)[:, None], segment_of)
