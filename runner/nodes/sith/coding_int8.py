"""Atoms that may be a query's best, proposed by 8-bit integer products; each comes with a proof, not a guess.

Queries and atoms are turned by one orthogonal map that spreads every coordinate over all of them, so that a few large
coordinates do not cost the others their precision, and rounded to int8, atoms with one scale a chunk. An integer product
is exact, hence with the roundings ``q' = q - e`` and ``g' = g - f``

    |<q, g> - <q', g'>| <= ||e|| max ||g|| + ||q'|| max ||f||,

and atoms whose score cannot reach the n-th best lower bound are left out. The method is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith.coding_rows import Rows

GROUP = 16  # atoms whose largest score stands for them before each is looked at
_CHUNK = 4096  # atoms at once at most: what is fastest, since their scores stay in the cache
_LEAST = torch.iinfo(torch.int32).min
_HELD = 1 << 28  # values of rounded atoms that are kept from one search to the next
_BLOCK = 1 << 21  # scores made at once: 8 MB, which stay in the cache


def available(device: torch.device) -> bool:
    """Whether 8-bit products are exact and fast here: without these instructions sums of pairs may saturate."""
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_vnni") or able.get("avx_vnni"))


class _Chunk(NamedTuple):
    """Rounded atoms int8 [c, d] from ``start`` on, their scale, and the largest norm of what rounding took."""

    start: int
    atoms: Tensor
    scale: float
    lost: float


class Int8:
    """Proposals for queries over atoms on the CPU. ``absolute``: by the size of the inner product."""

    def __init__(self, atoms: Rows, chunk: int, *, absolute: bool) -> None:
        self.atoms, self.absolute = atoms, absolute
        self.chunk = max(GROUP, min(chunk, _CHUNK, atoms.shape[0]))
        self.spread = _Spread(atoms.shape[1])
        self.largest = 0.0
        self._recent: Tensor | None = None
        self._held: dict[int, _Chunk] = {}
        for start in range(0, atoms.shape[0], self.chunk):
            rows = atoms.rows(start, min(start + self.chunk, atoms.shape[0]))
            self.largest = max(self.largest, float(rows.norm(dim=1).max()) * (1 + 1e-6))
            if atoms.shape[0] * atoms.shape[1] <= _HELD:
                self._held[start] = self._rounded(start, rows)

    def candidates(
        self, queries: Tensor, count: int, banned: Tensor, lower: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pairs (row, atom) int64, by row, among which are the ``count`` best atoms of each query float64 [B, d].

        ``banned`` int64 [B, n]: atoms that are out of the question. ``lower``: close lower bounds float64 of the scores of
        atoms [B, c] (-1 = none: -inf); asked for a few atoms of each query, they halve what the others may lack.
        """
        known = queries.new_full((len(queries),), -torch.inf)
        if lower is not None and self._recent is not None and self._recent.shape[0] == len(queries):
            # What was near the last queries is often near these: a bound from it spares most of the rest a look.
            hints = self._recent.masked_fill((self._recent[:, :, None] == banned[:, None, :]).any(2), -1)
            known = _nth(lower(hints), count)
        block = max(64, _BLOCK // self.chunk)
        parts = [
            _Proposals(
                self, queries[start : start + block], count, banned[start : start + block], known[start : start + block]
            ).pairs()
            for start in range(0, len(queries), block)
        ]
        rows = torch.cat([part[0] + number * block for number, part in enumerate(parts)])
        atoms, upper = (torch.cat([part[i] for part in parts]) for i in (1, 2))
        if lower is None or not len(rows):
            return rows, atoms
        self._recent = _largest(rows, atoms, len(queries), count + 6)
        near = upper >= _nth(lower(self._recent), count)[rows]
        return rows[near], atoms[near]

    def chunks(self) -> list[int]:
        """Where chunks start."""
        return list(range(0, self.atoms.shape[0], self.chunk))

    def at(self, start: int) -> _Chunk:
        """A chunk of rounded atoms, kept or made."""
        if start in self._held:
            return self._held[start]
        return self._rounded(start, self.atoms.rows(start, min(start + self.chunk, self.atoms.shape[0])))

    def _rounded(self, start: int, rows: Tensor) -> _Chunk:
        turned = self.spread(rows)
        scale = max(float(turned.abs().max()), 1e-30) / 127
        whole = (turned / scale).round_()
        lost = float((turned - whole * scale).norm(dim=1).max()) * (1 + 1e-6)
        return _Chunk(start, whole.to(torch.int8), scale, lost)


class _Proposals:
    """One block of queries on its way through the chunks; ``bound`` [B, n]: the best lower bounds of scores so far,
    ``known`` [B]: what the n-th best atom is known to score at least."""

    def __init__(self, index: Int8, queries: Tensor, count: int, banned: Tensor, known: Tensor) -> None:
        self.index, self.count, self.banned, self.known = index, count, banned, known
        turned = index.spread(queries.float())
        self.scale = turned.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
        whole = (turned / self.scale).round_()
        self.rounded = whole.to(torch.int8)
        self.kept = (whole * self.scale).double().norm(dim=1)
        # Turning in float32 moves both sides, each by a few roundings of a sum of d terms.
        turning = 8 * (queries.shape[1] + 4) * 2.0**-24 * queries.norm(dim=1)
        self.missed = ((turned - whole * self.scale).double().norm(dim=1) + turning) * index.largest * (1 + 1e-6)
        self.bound = queries.new_full((len(queries), count), -torch.inf)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs (row, atom), by row and then best first, and the most that each may score."""
        found = [self._chunk(self.index.at(start)) for start in self.index.chunks()]
        rows, atoms, upper = (torch.cat(part) for part in zip(*found, strict=True))
        near = upper >= self._least()[rows]
        rows, atoms, upper = rows[near], atoms[near], upper[near]
        order = upper.argsort(descending=True)
        order = order[rows[order].argsort(stable=True)]
        return rows[order], atoms[order], upper[order]

    def _chunk(self, chunk: _Chunk) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs (row, atom) that may be among the best so far, and the most that each may score."""
        scores = torch._int_mm(self.rounded, chunk.atoms.T)
        if self.index.absolute:
            scores = scores.abs_()
        _ban(scores, self.banned - chunk.start)
        if scores.shape[1] % GROUP:
            scores = torch.nn.functional.pad(scores, (0, -scores.shape[1] % GROUP), value=_LEAST)
        grouped = scores.view(len(scores), GROUP, -1)
        maxima = grouped.amax(1)
        unit = self.scale[:, 0].double() * chunk.scale
        error = self.missed + self.kept * chunk.lost
        self._raise(maxima, unit, error)
        floor = ((self._least() - error) / unit - 1).clamp(_LEAST + 1, -_LEAST - 1).to(torch.int32)
        row, group = torch.nonzero(maxima >= floor[:, None], as_tuple=True)
        members = grouped.permute(0, 2, 1)[row, group]
        pair, place = torch.nonzero(members >= floor[row, None], as_tuple=True)
        row, atom = row[pair], place * maxima.shape[1] + group[pair]
        return row, atom + chunk.start, members[pair, place] * unit[row] + error[row]

    def _least(self) -> Tensor:
        """What the n-th best atom scores at least, [B]."""
        return torch.maximum(self.bound[:, -1], self.known)

    def _raise(self, maxima: Tensor, unit: Tensor, error: Tensor) -> None:
        """Better lower bounds from the largest scores of groups, which belong to different atoms."""
        best = maxima.topk(min(self.count, maxima.shape[1]), dim=1).values
        lower = (best * unit[:, None] - error[:, None]).masked_fill(best == _LEAST, -torch.inf)
        self.bound = torch.cat([self.bound, lower], 1).topk(self.count, dim=1).values


class _Spread:
    """An orthogonal map of rows [n, d]: signs by chance, then a Hartley transform for each of two factors of d."""

    def __init__(self, dim: int) -> None:
        factor = next(f for f in range(math.isqrt(dim), 0, -1) if dim % f == 0)
        self.signs = torch.randint(2, (dim,), generator=torch.Generator().manual_seed(dim)).float() * 2 - 1
        self.left, self.right = _hartley(factor), _hartley(dim // factor)

    def __call__(self, rows: Tensor) -> Tensor:
        """The turned rows; their coordinates come in another order, the same for all."""
        split = (rows * self.signs).view(len(rows), len(self.left), len(self.right))
        once = (split @ self.right).transpose(1, 2).contiguous()
        return (once @ self.left).flatten(1)


def _hartley(size: int) -> Tensor:
    """Orthogonal and symmetric [n, n] with entries of at most sqrt(2 / n)."""
    steps = torch.arange(size, dtype=torch.float64)
    angle = 2 * math.pi * (steps[:, None] * steps % size) / size
    return ((angle.cos() + angle.sin()) / math.sqrt(size)).float()


def _largest(rows: Tensor, atoms: Tensor, total: int, count: int) -> Tensor:
    """The first ``count`` atoms of each row of pairs sorted by row, [total, count]; -1 where there are fewer."""
    counts = torch.bincount(rows, minlength=total)
    place = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    first = torch.full((total, count), -1)
    early = place < count
    first[rows[early], place[early]] = atoms[early]
    return first


def _nth(lower: Tensor, count: int) -> Tensor:
    """The ``count``-th largest of lower bounds [B, c] of different atoms, [B]; -inf where there are fewer."""
    if lower.shape[1] < count:
        return lower.new_full((len(lower),), -torch.inf)
    return lower.topk(count, dim=1).values[:, -1]


def _ban(scores: Tensor, places: Tensor) -> None:
    """The least score where an atom is out of the question; places [b, n] relative to the chunk."""
    row, column = torch.nonzero((places >= 0) & (places < scores.shape[1]), as_tuple=True)
    scores[row, places[row, column]] = _LEAST
