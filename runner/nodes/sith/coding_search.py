"""Exact maximum-inner-product search in a dictionary, with float64 deciding and anything faster only proposing.

A pass over the dictionary computes approximate scores chunk by chunk and keeps the maximum of every group of ``GROUP``
atoms, never the scores. With a bound ``e`` on the error of a score, every atom among the ``n`` best lies in a group whose
maximum is at least the n-th largest group maximum minus ``2 e``. The atoms of these groups are scored again, in float32
and then, where float32 cannot tell, in float64. ``int8`` proposes single atoms by the same reasoning (``coding_int8``).
Picks therefore do not depend on precision, chunks or backend; equal scores go to the lowest index. The method is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from runner.nodes.sith import coding_int8
from runner.nodes.sith.coding_rows import Rows

Precision = Literal["fp32", "bf16", "int8"]
Backend = Literal["gemm", "faiss"]

GROUP = 4
_TARGETS = 1024  # queries scored together, so that a block of scores stays small
_GATHERED = 1 << 18  # values of gathered rows held at once: what stays in the cache
_CROWDED = 1 / 8  # share of all groups beyond which bfloat16 has told too little
_ROUNDOFF = {"bf16": 2.0**-8, "fp32": 2.0**-24}
_LISTED = 1 << 21  # candidates listed at once
_WORTH = 64  # queries from which on it pays to round the atoms to int8


class Top(NamedTuple):
    """The best atoms of each query, best first: ``scores`` float64 [B, n], ``atoms`` int64 [B, n].

    Where there are fewer than n atoms the rest is -inf and -1.
    """

    scores: Tensor
    atoms: Tensor


class Search:
    """Best atoms for queries. ``absolute``: by the size of the inner product, whatever its sign."""

    def __init__(
        self,
        atoms: Rows,
        *,
        precision: Precision = "fp32",
        chunk: int = 8192,
        backend: Backend = "gemm",
        absolute: bool = False,
    ) -> None:
        self.atoms, self.precision, self.absolute = atoms, precision, absolute
        self.chunk = max(GROUP, min(chunk, atoms.shape[0]) // GROUP * GROUP)
        self.index = _faiss_index(atoms, self.chunk) if backend == "faiss" else None
        self._sizes: tuple[float, float] | None = None
        self._int8: coding_int8.Int8 | None = None

    def top(self, queries: Tensor, count: int, banned: Tensor | None = None) -> Top:
        """The ``count`` best atoms of each query float64 [B, d] that are not in ``banned`` int64 [B, n] (-1 = nothing)."""
        banned = torch.full((len(queries), 0), -1, device=queries.device) if banned is None else banned
        scores = queries.new_full((len(queries), count), -torch.inf)
        found = Top(scores, torch.full_like(scores, -1, dtype=torch.int64))
        if not len(queries):
            return found
        zero = (queries == 0).all(1)
        rows = torch.nonzero(~zero)[:, 0]
        self._fill_zero(found, torch.nonzero(zero)[:, 0], queries, count, banned)
        if self.index is not None:
            rows = rows[self._proposed(found, rows, queries, count, banned)]
        for precision in dict.fromkeys((self._proposing(len(rows)), "fp32")):
            rows = self._passed(found, rows, queries, count, banned, precision)
        return found

    def _proposing(self, asked: int) -> Precision:
        """What proposes: int8 only where the machine has it and there are queries enough; bfloat16 in its place."""
        if self.precision != "int8" or self._int8 is not None:
            return self.precision
        if not coding_int8.available(self.atoms.device):
            return "bf16"
        if asked < _WORTH:
            return "fp32"
        self._int8 = coding_int8.Int8(self.atoms, self.chunk, absolute=self.absolute)
        return "int8"

    def _passed(
        self, found: Top, rows: Tensor, queries: Tensor, count: int, banned: Tensor, precision: Precision
    ) -> Tensor:
        """Fill the rows of ``found`` by one pass; gives those that bfloat16 leaves too many atoms for."""
        if not len(rows):
            return rows
        if precision == "int8":
            return self._passed_int8(found, rows, queries, count, banned)
        maxima = self._group_maxima(queries[rows], banned[rows], precision)
        floor = self._floor(maxima, queries[rows], count, precision)
        limit = max(4 * count, _CROWDED * maxima.shape[1]) if precision != "fp32" else torch.inf
        crowded = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for some in stretches(len(rows), 256):
            which, groups = torch.nonzero(maxima[some] >= floor[some, None], as_tuple=True)
            counts = torch.bincount(which, minlength=len(floor[some]))
            crowded[some] = counts > limit
            kept = ~crowded[some][which]
            which, members = which[kept], self._members(groups[kept])
            members = torch.where(_is_banned(members, banned[rows[some]][which]), -1, members)
            self._settle(found, rows[some], queries, which, members)
        return rows[crowded]

    def _passed_int8(self, found: Top, rows: Tensor, queries: Tensor, count: int, banned: Tensor) -> Tensor:
        """As ``_passed``, by 8-bit proposals."""
        assert self._int8 is not None
        asked = queries[rows].float()
        error = self._error(queries[rows], "fp32")

        def lower(candidates: Tensor) -> Tensor:
            which, column = torch.nonzero(candidates >= 0, as_tuple=True)
            scores = asked.new_full(candidates.shape, -torch.inf)
            scores[which, column] = self._products(asked, which, candidates[which, column][:, None])[:, 0]
            return scores.double() - error[:, None]

        which, atoms = self._int8.candidates(queries[rows], count, banned[rows], lower)
        counts = torch.bincount(which, minlength=len(rows))
        crowded = counts > max(4 * GROUP * count, _CROWDED * self.atoms.shape[0])
        kept = ~crowded[which]
        self._settle(found, rows, queries, which[kept], atoms[kept][:, None])
        return rows[crowded]

    def _floor(self, maxima: Tensor, queries: Tensor, count: int, precision: Precision) -> Tensor:
        """What the approximate maximum of a group is at least, if one of the ``count`` best atoms is in it; [B]."""
        if count > maxima.shape[1]:
            return maxima.new_full((len(queries),), -torch.inf)
        kth = maxima.topk(count, dim=1).values[:, -1].double()
        # Scores are kept in the type of the factors: rounding is monotone, so it moves both ends by one roundoff. The
        # floor itself is rounded too, hence one more.
        unit = _ROUNDOFF[precision]
        lowest = kth - unit * kth.abs() - 2 * self._error(queries, precision)
        return (lowest - 2.1 * unit * lowest.abs()).to(maxima.dtype)

    def _group_maxima(self, queries: Tensor, banned: Tensor, precision: Precision) -> Tensor:
        """Largest approximate score of each group, [B, groups]."""
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        total, width = self.atoms.shape[0], self.chunk // GROUP
        maxima = torch.empty((len(queries), -(-total // GROUP)), dtype=kind, device=queries.device)
        left = queries.to(kind)
        for number, start in enumerate(range(0, total, self.chunk)):
            right = self.atoms.rows(start, min(start + self.chunk, total)).to(kind).T
            for first in range(0, len(left), _TARGETS):
                block = slice(first, first + _TARGETS)
                scores = left[block] @ right
                if self.absolute:
                    scores = scores.abs_()
                _ban(scores, banned[block] - start)
                if scores.shape[1] % GROUP:
                    scores = torch.nn.functional.pad(scores, (0, -scores.shape[1] % GROUP), value=-torch.inf)
                grouped = scores.view(len(scores), GROUP, -1).amax(1)
                maxima[block, number * width : number * width + grouped.shape[1]] = grouped
        return maxima

    def _members(self, groups: Tensor) -> Tensor:
        """Atoms of groups [P] -> [P, GROUP]; -1 where a group of the last chunk is not full."""
        total, width = self.atoms.shape[0], self.chunk // GROUP
        number = groups // width
        start = number * self.chunk
        held = (total - start).clamp(max=self.chunk)
        stride = (held + GROUP - 1) // GROUP
        place = torch.arange(GROUP, device=groups.device) * stride[:, None] + (groups - number * width)[:, None]
        return torch.where(place < held[:, None], start[:, None] + place, -1)

    def _error(self, queries: Tensor, precision: Precision) -> Tensor:
        """Bound on the error of scores [B] before they are kept: rounding of both factors and of the sum."""
        norm, largest, lost = queries.norm(dim=1), *self._atom_sizes()
        bound: Tensor = 2 * (self.atoms.shape[1] + 4) * _ROUNDOFF["fp32"] * norm * largest
        if precision == "bf16":
            rounded = (queries - queries.to(torch.bfloat16)).norm(dim=1)
            bound = bound + norm * lost + rounded * (largest + lost)
        return bound

    def _atom_sizes(self) -> tuple[float, float]:
        """Largest norm of an atom, and largest norm of what bfloat16 takes from one; read once."""
        if self._sizes is None:
            largest = lost = 0.0
            for start in range(0, self.atoms.shape[0], self.chunk):
                atoms = self.atoms.rows(start, min(start + self.chunk, self.atoms.shape[0]))
                largest = max(largest, float(atoms.norm(dim=1).max()))
                lost = max(lost, float((atoms - atoms.to(torch.bfloat16)).norm(dim=1).max()))
            self._sizes = largest * (1 + 1e-6), lost * (1 + 1e-6)
        return self._sizes

    def _settle(self, found: Top, rows: Tensor, queries: Tensor, which: Tensor, members: Tensor) -> None:
        """Keep the best atoms of each row, among ``members`` [P, g] (-1 = none) of pairs with rows (``which``, in order)."""
        if not len(which):
            return
        if len(which) * members.shape[1] > _LISTED and len(rows) > 1:
            half = len(rows) // 2
            low = which < half
            self._settle(found, rows[:half], queries, which[low], members[low])
            self._settle(found, rows[half:], queries, which[~low] - half, members[~low])
            return
        count = found.scores.shape[1]
        rough = self._products(queries[rows].float(), which, members)
        candidates, scores = _padded(which, members, len(rows), -1), _padded(which, rough, len(rows), -torch.inf)
        if candidates.shape[1] > count:
            kth = scores.topk(count, dim=1).values[:, -1:].double()
            kept = scores.double() >= kth - 2 * self._error(queries[rows], "fp32")[:, None]
            candidates = _compact(torch.where(kept, candidates, -1))
        self._decide(found, rows, queries, candidates)

    def _decide(self, found: Top, rows: Tensor, queries: Tensor, candidates: Tensor) -> None:
        """Exact best atoms among candidates [n, c] (-1 = none) of the rows."""
        last = torch.iinfo(torch.int64).max
        candidates = torch.where(candidates < 0, last, candidates).sort(dim=1).values
        exact = self._scores(queries[rows], torch.where(candidates == last, -1, candidates))
        scores, place = exact.sort(dim=1, descending=True, stable=True)
        fill = min(found.scores.shape[1], scores.shape[1])
        found.scores[rows, :fill] = scores[:, :fill]
        found.atoms[rows, :fill] = torch.where(scores.isneginf(), -1, candidates.gather(1, place))[:, :fill]

    def _scores(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Scores of candidates [n, c] for queries [n, d], in the queries' type; -inf for -1."""
        which, column = torch.nonzero(candidates >= 0, as_tuple=True)
        scores = queries.new_full(candidates.shape, -torch.inf)
        scores[which, column] = self._products(queries, which, candidates[which, column][:, None])[:, 0]
        return scores

    def _products(self, queries: Tensor, which: Tensor, atoms: Tensor) -> Tensor:
        """Scores of atoms [P, g] for the queries [n, d] of the rows ``which`` [P]; -inf for -1."""
        step = max(1, _GATHERED // (self.atoms.shape[1] * atoms.shape[1]))
        parts = []
        for some in stretches(len(which), step):
            held = self.atoms.take(atoms[some].clamp_min(0)).to(queries.dtype)
            parts.append(torch.bmm(held, queries[which[some]][:, :, None])[:, :, 0])
        products = torch.cat(parts) if parts else queries.new_zeros(atoms.shape)
        products = products.abs() if self.absolute else products
        filled: Tensor = products.masked_fill(atoms < 0, -torch.inf)
        return filled

    def _fill_zero(self, found: Top, rows: Tensor, queries: Tensor, count: int, banned: Tensor) -> None:
        """All atoms score 0: the lowest indices that are not banned."""
        if len(rows):
            enough = min(self.atoms.shape[0], count + banned.shape[1])
            lowest = torch.arange(enough, device=rows.device).expand(len(rows), -1)
            lowest = torch.where(_is_banned(lowest, banned[rows]), -1, lowest)
            self._decide(found, rows, queries, lowest)

    def _proposed(self, found: Top, rows: Tensor, queries: Tensor, count: int, banned: Tensor) -> Tensor:
        """Fill rows from what FAISS lists; says where atoms beyond its list may be as good (boolean [rows])."""
        total, asked = self.atoms.shape[0], queries[rows]
        fetch = min(total, count + banned.shape[1] + 16)
        sides = (asked, -asked) if self.absolute else (asked,)
        lists = [_faiss_search(self.index, side, fetch) for side in sides]
        last = torch.stack([self._scores(asked, one[:, -1:])[:, 0] for one in lists]).amax(0)
        candidates = _without_repeats(torch.cat(lists, 1))
        candidates = torch.where(_is_banned(candidates, banned[rows]), -1, candidates)
        for some in stretches(len(rows), 256):
            self._decide(found, rows[some], queries, candidates[some])
        if fetch == total:
            return torch.zeros_like(rows, dtype=torch.bool)
        return found.scores[rows, -1] <= last + 2 * self._error(asked, "fp32")


def stretches(total: int, step: int) -> Iterator[slice]:
    """0 .. total in pieces of ``step``."""
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _ban(scores: Tensor, places: Tensor) -> None:
    """Put -inf where an atom is out of question; places [b, n] relative to the chunk."""
    row, column = torch.nonzero((places >= 0) & (places < scores.shape[1]), as_tuple=True)
    scores[row, places[row, column]] = -torch.inf


def _is_banned(candidates: Tensor, banned: Tensor) -> Tensor:
    hit = torch.zeros_like(candidates, dtype=torch.bool)
    for column in banned.unbind(1):
        hit |= candidates == column[:, None]
    return hit


def _padded(which: Tensor, values: Tensor, rows: int, fill: float) -> Tensor:
    """Values [P, g] of pairs sorted by row -> [rows, widest], the rest ``fill``."""
    counts = torch.bincount(which, minlength=rows)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(which), device=which.device) - first[which]
    padded = values.new_full((rows, int(counts.max()), values.shape[1]), fill)
    padded[which, place] = values
    return padded.flatten(1)


def _compact(candidates: Tensor) -> Tensor:
    """The same candidates in the fewest columns."""
    most = max(1, int((candidates >= 0).sum(1).max()))
    return candidates.sort(dim=1, descending=True).values[:, :most]


def _without_repeats(candidates: Tensor) -> Tensor:
    ordered = candidates.sort(dim=1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(again, -1)


def _faiss_index(atoms: Rows, chunk: int) -> object:
    """A flat inner-product index of all atoms, in main memory."""
    import faiss

    index = faiss.IndexFlatIP(atoms.shape[1])
    for start in range(0, atoms.shape[0], chunk):
        index.add(atoms.rows(start, min(start + chunk, atoms.shape[0])).cpu().contiguous().numpy())
    return index


def _faiss_search(index: object, queries: Tensor, fetch: int) -> Tensor:
    _, places = index.search(queries.float().cpu().numpy(), fetch)  # type: ignore[attr-defined]
    return torch.from_numpy(places).to(queries.device)
