"""What becomes of a retrieved picture: pure functions on arrays, one for each rule, in the order in which they apply.

1. ``size_faults``: too many pixels, too small a side.
2. ``leaders`` with the hash of the bytes: exact duplicates inside a group.
3. ``components`` and ``leaders``: near duplicates inside a group (cosine at or above a bar, connected components).
4. ``value_conflicts``: one picture, one value of an attribute.
5. ``best_contrast``: the caption must beat the captions of other values and other targets.
6. ``on_target``: among plain captions of all classes, that of the target must be nearest.
7. ``places``: the k best of each caption.

A group is the pictures of one (target, attribute, value). All arrays run over candidates (length n) unless said.
Ties go to the lower row, then to the earlier candidate, so the order of groups and captions changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REASONS = (
    "kept", "large", "small", "duplicate", "near_duplicate", "other_value", "ambiguous", "irrelevant", "other_target",
    "surplus",
)  # fmt: skip
KEPT, LARGE, SMALL, DUPLICATE, NEAR_DUPLICATE, OTHER_VALUE, AMBIGUOUS, IRRELEVANT, OTHER_TARGET, SURPLUS = range(
    len(REASONS)
)


@dataclass(frozen=True)
class Candidates:
    """Retrieved pictures, sorted by caption and rank.

    ``caption``: number of the caption; ``row``: row of the index; ``similarity``: to the caption; ``image``: equal for
    equal bytes; ``group``: equal inside a (target, attribute, value); ``attribute``: equal inside a (target, attribute),
    -1 where there is none (neutral captions).
    """

    caption: Ints
    row: Ints
    similarity: Floats
    image: Ints
    group: Ints
    attribute: Ints

    def __len__(self) -> int:
        return len(self.row)

    def at(self, chosen: Ints) -> Candidates:
        """Some of them."""
        return Candidates(
            self.caption[chosen], self.row[chosen], self.similarity[chosen],
            self.image[chosen], self.group[chosen], self.attribute[chosen],
        )  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """``k`` pictures a caption; sides and pixels as in the spec; ``dedup_cosine`` > 1 switches near duplicates off."""

    k: int
    min_side: int = 64
    max_pixels: int = 50_000_000
    dedup_cosine: float = 0.94
    margin: float = 0.01


@dataclass(frozen=True)
class Fates:
    """``reason``: index into ``REASONS``; ``leader``: the candidate kept instead of a duplicate, else itself."""

    reason: NDArray[np.int8]
    leader: Ints

    @property
    def kept(self) -> Bools:
        """Which candidates stay."""
        found: Bools = self.reason == KEPT
        return found


def keep_all(candidates: Candidates) -> Fates:
    """No rule at all (the paper): every candidate stays."""
    return Fates(np.zeros(len(candidates), np.int8), np.arange(len(candidates)))


def judge(
    candidates: Candidates,
    rules: Rules,
    *,
    width: Ints,
    height: Ints,
    vectors: NDArray[np.floating],
    contrast: Floats | None,
    targeted: Bools | None = None,
) -> Fates:
    """Apply all rules in order. ``vectors`` [rows of the index, dim] are unit image vectors; ``contrast`` and
    ``targeted`` are the results of ``best_contrast`` and ``on_target``, or None to leave rules 5 and 6 out."""
    reason = size_faults(width, height, rules.min_side, rules.max_pixels)
    leader = np.arange(len(candidates), dtype=np.int64)

    def living() -> Ints:
        return np.flatnonzero(reason == KEPT)

    for code in (DUPLICATE, NEAR_DUPLICATE):
        alive = living()
        c = candidates.at(alive)
        same = c.image if code == DUPLICATE else components(c.group, c.row, vectors, rules.dedup_cosine)
        first = alive[leaders(c.group, same, c.similarity, c.row)]
        reason[alive[first != alive]] = code
        leader[alive] = first
    alive = living()
    c = candidates.at(alive)
    reason[alive] = value_conflicts(c.attribute, c.image, c.similarity, rules.margin)
    if contrast is not None:
        alive = living()
        reason[alive[~(candidates.similarity[alive] > contrast[alive])]] = IRRELEVANT
    if targeted is not None:
        alive = living()
        reason[alive[~targeted[alive]]] = OTHER_TARGET
    alive = living()
    c = candidates.at(alive)
    reason[alive[places(c.caption, c.similarity, c.row) >= rules.k]] = SURPLUS
    return Fates(reason, leader)


def size_faults(width: Ints, height: Ints, min_side: int, max_pixels: int) -> NDArray[np.int8]:
    """LARGE above ``max_pixels`` (width x height), SMALL where the smaller side is below ``min_side``, else KEPT."""
    pixels = width.astype(np.int64) * height.astype(np.int64)
    small = np.minimum(width, height) < min_side
    return np.where(pixels > max_pixels, LARGE, np.where(small, SMALL, KEPT)).astype(np.int8)


def leaders(group: Ints, same: Ints, similarity: Floats, row: Ints) -> Ints:
    """For each candidate the position of the most similar one with the same ``group`` and ``same``."""
    order = np.lexsort((row, -similarity, same, group))
    starts = _run_starts(group[order], same[order])
    found = np.empty(len(order), np.int64)
    found[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]] if len(order) else order
    return found


def components(group: Ints, row: Ints, vectors: NDArray[np.floating], threshold: float) -> Ints:
    """Component number of each candidate: linked inside a group where the cosine is at least ``threshold``.

    ``vectors`` [rows of the index, dim] have unit norm. Numbers are unique inside a group.
    """
    found = np.zeros(len(row), np.int64)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        chosen = vectors[row[members]].astype(np.float32)
        # Stored at half precision, unit vectors are unit to 1e-3 only.
        chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
        linked = csr_array(chosen @ chosen.T >= threshold)
        found[members] = connected_components(linked, directed=False)[1]
    return found


def value_conflicts(attribute: Ints, image: Ints, similarity: Floats, margin: float) -> NDArray[np.int8]:
    """A picture found for several values of an attribute: OTHER_VALUE for all but the most similar one, or AMBIGUOUS for
    all where the two best differ by less than ``margin``. Each picture stands at most once in a group."""
    order = np.lexsort((-similarity, image, attribute))
    a, i, s = attribute[order], image[order], similarity[order]
    starts = _run_starts(a, i)
    run = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    several = np.diff(np.append(first, len(order))) > 1
    second = np.where(several, first + 1, first)
    close = several & (s[first] - s[second] < margin)
    codes = np.where(close[run], AMBIGUOUS, np.where(starts, KEPT, OTHER_VALUE))
    found = np.empty(len(order), np.int8)
    found[order] = np.where(a < 0, KEPT, codes)
    return found


def best_contrast(
    caption: Ints, row: Ints, vectors: NDArray[np.floating], contrasts: Sequence[NDArray[np.floating]]
) -> Floats:
    """Highest similarity of each candidate to the contrast captions of its caption; -inf where there are none.

    ``contrasts[c]`` [m_c, dim] belong to caption c, ``vectors`` [rows of the index, dim] are those searched.
    """
    found = np.full(len(row), -np.inf)
    order = np.argsort(caption, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(caption[order])) + 1):
        against = contrasts[caption[members[0]]] if len(members) else np.zeros((0, 0))
        if len(against):
            products = np.einsum("nd,md->nm", vectors[row[members]].astype(np.float64), against.astype(np.float64))
            # As float32, the precision in which similarities are stored: equal texts must compare equal.
            found[members] = products.max(axis=1).astype(np.float32)
    return found


def on_target(target: Ints, row: Ints, vectors: NDArray[np.floating], names: NDArray[np.floating]) -> Bools:
    """Whether the plain caption of a candidate's target is the nearest of all classes: zero-shot agreement.

    ``names`` [classes, dim] embed the plain captions; ``target`` is the class number of each candidate; ``vectors`` [rows of
    the index, dim] are those searched.
    """
    distinct, back = np.unique(row, return_inverse=True)
    nearest = (vectors[distinct].astype(np.float32) @ names.astype(np.float32).T).argmax(axis=1)
    found: Bools = nearest[back] == target
    return found


def places(caption: Ints, similarity: Floats, row: Ints) -> Ints:
    """Rank (0 = best) of each candidate inside its caption."""
    order = np.lexsort((row, -similarity, caption))
    starts = np.flatnonzero(_run_starts(caption[order]))
    lengths = np.diff(np.append(starts, len(order)))
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return found


def _run_starts(*keys: NDArray[np.int64]) -> Bools:
    """Whether each place of sorted arrays starts a new run of equal keys."""
    starts = np.ones(len(keys[0]), np.bool_)
    starts[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return starts
