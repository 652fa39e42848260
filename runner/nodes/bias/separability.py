"""Can the values of an attribute be told apart in what was retrieved for them? Pure; arrays and plain rows in, rows out.

A caption "a cat in dim light" may fetch the same cats as "a cat in bright light": then a gap between the two groups is noise and
"no evidence" is empty. Three looks, none of which sees the classifier:

- ``overlap``: how many of a value's nearest pictures are also nearest for another value;
- ``margin``: how far a value's nearest pictures lean to its own caption rather than to another value's;
- ``agreement``: whether a measurement of the circumstance itself differs between the groups. Where there is one, it decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Row = dict[str, Any]

NAN = float("nan")


@dataclass(frozen=True)
class Bars:
    """What a value must reach to count as told apart. The defaults stand where the packaged encoder was looked at.

    ``nearest``: pictures of a value that are looked at, before any filter. ``max_overlap``: largest share of these that may
    also be nearest for another value. ``min_margin``: least lean to the own caption, in standard deviations. ``min_auc``: least
    agreement with a measurement, whose interval must also lie above one half. ``min_pictures``: fewer decide nothing.
    """

    nearest: int = 50
    max_overlap: float = 0.6
    min_margin: float = 0.5
    min_auc: float = 0.65
    min_pictures: int = 10
    confidence: float = 0.95


class Agreement(NamedTuple):
    """AUC with its interval; NaN where there is nothing to compare."""

    auc: float
    low: float
    high: float


NOT_MEASURED = Agreement(NAN, NAN, NAN)


class Nearest(NamedTuple):
    """One value's captions: for each the numbers of its nearest pictures, nearest first (int64)."""

    lists: tuple[IntArray, ...]

    def first(self, count: int) -> IntArray:
        """The nearest ``count`` pictures of all its captions together, by their best rank; sorted numbers."""
        if not self.lists:
            return np.zeros(0, np.int64)
        numbers = np.concatenate(self.lists)
        ranks = np.concatenate([np.arange(len(numbers)) for numbers in self.lists])
        order = np.argsort(ranks, kind="stable")
        _, best = np.unique(numbers[order], return_index=True)
        return np.sort(numbers[order][np.sort(best)[:count]])


def overlap(own: IntArray, other: IntArray) -> float:
    """Share of the pictures ``own`` (distinct numbers) that are also among ``other``; NaN where ``own`` is empty."""
    return float(np.isin(own, other).mean()) if len(own) else NAN


def expected_overlap(wordings: Sequence[Nearest], count: int) -> float:
    """Mean overlap between captions that say the same thing, over all pairs inside each entry of ``wordings``; NaN without."""
    shares = [
        overlap(first[:count], second[:count])
        for same in wordings
        for first, second in combinations(same.lists, 2)
        if len(first) and len(second)
    ]
    return float(np.mean(shares)) if shares else NAN


def margin(own: ArrayLike, others: ArrayLike, chosen: ArrayLike) -> float:
    """Mean lead of the own caption on the ``chosen`` pictures, less its mean lead on all, in standard deviations of the lead.

    ``own`` [pictures]: similarity to the value's caption; ``others`` [captions, pictures]: to those of the other values; the lead
    is own - max of others. ``chosen`` bool [pictures]: the value's nearest ones. NaN where the lead never differs.
    """
    lead = np.asarray(own, np.float64) - np.asarray(others, np.float64).max(0)
    picked = np.asarray(chosen, np.bool_)
    spread = float(lead.std())
    return float(lead[picked].mean() - lead.mean()) / spread if picked.any() and spread > 0 else NAN


def agreement(own: ArrayLike, below: ArrayLike, above: ArrayLike, confidence: float = 0.95) -> Agreement:
    """Probability that a picture of a value measures on the right side of one of another value, ties one half.

    ``own``, ``below``, ``above``: measurements of the value's pictures, of lower and of higher values'. The interval is that of
    DeLong et al. (1988), Biometrics 44, 837-845: placements of each picture among those of the other side.
    """
    x, low, high = (np.asarray(part, np.float64) for part in (own, below, above))
    if len(x) < 2 or len(low) + len(high) < 2:
        return NOT_MEASURED
    right = np.concatenate([_exceeds(x[:, None], low), _exceeds(high, x[:, None])], 1)
    auc = float(right.mean())
    variance = right.mean(1).var(ddof=1) / right.shape[0] + right.mean(0).var(ddof=1) / right.shape[1]
    half = float(ndtri(0.5 + confidence / 2) * np.sqrt(variance))
    return Agreement(auc, max(0.0, auc - half), min(1.0, auc + half))


def _exceeds(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))


@dataclass(frozen=True)
class Looks:
    """What was found about one value; NaN = not looked at. ``like``: the other value that shares most of its pictures."""

    overlap: float = NAN
    expected_overlap: float = NAN
    margin: float = NAN
    agreement: Agreement = NOT_MEASURED
    measure: str | None = None
    like: str = ""
    like_margin: float = NAN


def judge(looks: Looks, bars: Bars) -> tuple[bool | None, str | None]:
    """Whether the value can be told apart (None = nothing could be looked at), and in words why not.

    A measurement of the circumstance decides where there is one: it alone looks at the pictures and not at the encoder. Without
    one, "told apart" says that the captions fetch different pictures, not that these show what the captions say. It takes two:
    of captions that say the same in odd words, one often leans and the other does not.
    """
    if not np.isnan(looks.agreement.auc):
        return _judge_agreement(looks, bars)
    if np.isnan(looks.overlap) and np.isnan(looks.margin):
        return None, "nothing could be tested: no ranking of pictures by caption, and no measurement"
    problems = [
        f"{looks.overlap:.0%} of its nearest pictures are also nearest for {looks.like!r} (at most {bars.max_overlap:.0%})"
    ] * (looks.overlap > bars.max_overlap)
    problems += [
        f"its nearest pictures are shared with {looks.like!r} ({looks.overlap:.0%}) as much as between captions that say "
        f"the same ({looks.expected_overlap:.0%})"
    ] * (looks.overlap <= bars.max_overlap and looks.overlap >= looks.expected_overlap)
    problems += [
        f"the nearest pictures of {name} hardly lean to their own caption ({lean:.2f} standard deviations, at least "
        f"{bars.min_margin:.2f})"
        for name, lean in (("this value", looks.margin), (repr(looks.like), looks.like_margin))
        if lean < bars.min_margin
    ]
    return not problems, "; ".join(problems) or None


def _judge_agreement(looks: Looks, bars: Bars) -> tuple[bool, str | None]:
    auc, low, high = looks.agreement
    figures = f"AUC {auc:.2f}, interval {low:.2f} to {high:.2f}"
    if high < 0.5:
        return False, f"{looks.measure} of its pictures differs the other way round ({figures})"
    if low <= 0.5:
        return False, f"{looks.measure} of its pictures does not differ from that of the other values ({figures})"
    if auc < bars.min_auc:
        return False, f"{looks.measure} of its pictures hardly differs ({figures}; at least {bars.min_auc:.2f})"
    return True, None


@dataclass(frozen=True)
class Attribute:
    """One attribute of one target as the test needs it. Pictures are numbers 0..pictures-1.

    ``nearest``: by value; ``same``: further sets of captions that say the same thing (neutral ones). ``similarity`` by value
    [captions, pictures], and ``own_pool``: which pictures count as the target's; empty where unknown. ``measured`` by value, from
    low to high; for names: 1 where the picture has the value's category, in ``categories``.
    """

    target: str
    attribute: str
    nearest: Mapping[str, Nearest]
    same: tuple[Nearest, ...] = ()
    similarity: Mapping[str, FloatArray] = field(default_factory=dict)
    measure: str | None = None
    measured: Mapping[str, FloatArray] = field(default_factory=dict)
    categories: Mapping[str, Mapping[str, FloatArray]] = field(default_factory=dict)


def separability(attributes: Sequence[Attribute], bars: Bars) -> list[Row]:
    """Rows of ``c2b_separability``, one a value."""
    return [_row(a, value, look(a, value, bars), bars) for a in attributes for value in a.nearest]


def look(a: Attribute, value: str, bars: Bars) -> Looks:
    """Everything that can be found out about one value."""
    firsts = {v: near.first(bars.nearest) for v, near in a.nearest.items()}
    enough = {v: first for v, first in firsts.items() if len(first) >= bars.min_pictures}
    shared = {v: overlap(enough[value], other) for v, other in enough.items() if v != value} if value in enough else {}
    like = max(shared, key=lambda v: shared[v], default="")
    lean = {v: _margin(a, v, enough[v]) for v in (value, like) if v in enough}
    return Looks(
        overlap=shared.get(like, NAN),
        expected_overlap=expected_overlap([*a.nearest.values(), *a.same], bars.nearest),
        margin=lean.get(value, NAN),
        agreement=_agreement(a, value, bars),
        measure=a.measure,
        like=like,
        like_margin=lean.get(like, NAN),
    )


def _margin(a: Attribute, value: str, nearest: IntArray) -> float:
    others = [found for v, found in a.similarity.items() if v != value]
    if value not in a.similarity or not others:
        return NAN
    own = a.similarity[value].max(0)
    chosen = np.zeros(len(own), np.bool_)
    chosen[nearest] = True
    return margin(own, np.concatenate(others), chosen)


def _agreement(a: Attribute, value: str, bars: Bars) -> Agreement:
    if value in a.categories:
        shares = a.categories[value]
        own, below, above = shares[value], [v for w, v in shares.items() if w != value], []
    elif value in a.measured:
        order = list(a.measured)
        place = order.index(value)
        own = a.measured[value]
        below, above = ([a.measured[v] for v in part] for part in (order[:place], order[place + 1 :]))
    else:
        return NOT_MEASURED
    sides = [np.concatenate([np.zeros(0), *side]) for side in (below, above)]
    if len(own) < bars.min_pictures or sum(map(len, sides)) < bars.min_pictures:
        return NOT_MEASURED
    return agreement(own, sides[0], sides[1], bars.confidence)


def _row(a: Attribute, value: str, looks: Looks, bars: Bars) -> Row:
    separable, reason = judge(looks, bars)
    tested = not np.isnan(looks.agreement.auc)
    return {
        "target": a.target, "attribute": a.attribute, "value": value, "overlap": _plain(looks.overlap),
        "expected_overlap": _plain(looks.expected_overlap), "margin": _plain(looks.margin),
        "measure": looks.measure if tested else None, "auc": _plain(looks.agreement.auc),
        "auc_low": _plain(looks.agreement.low), "auc_high": _plain(looks.agreement.high),
        "separable": separable, "reason": reason,
    }  # fmt: skip


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
