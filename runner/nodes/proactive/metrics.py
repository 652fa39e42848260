"""Metrics of episodes with 95 % intervals. Pure numpy on arrays by sample; no I/O.

A metric is a ratio of sums over samples (``Ratio``): several draws of one sample are averaged before they come here, so that each sample counts
once. Samples of one drawing (``group``) are resampled together. Where all samples agree resampling shows no width: then the limits say how far
those could move it that would differ, of which Wilson's limit of 0 of so many groups bounds the share. Sources: arXiv 2603.19466 for accuracy, proactive suggestion rate and
their plain mean over scenarios; intervals, discrimination and successes per request are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.intervals import wilson_interval

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]

DRAWS = 2000
LIMITS = (2.5, 97.5)
_AT_ONCE = 1 << 21


class Ratio(NamedTuple):
    """``factor`` x sum of ``above`` / sum of ``below``, both float64 [n] by sample. ``ends``: between which the ratio lies in any sample, whatever
    is played (0 and 1 of a share); None: not known."""

    above: Values
    below: Values
    factor: float = 100.0
    ends: tuple[float, float] | None = (0.0, 1.0)


class Estimate(NamedTuple):
    """``value`` with its 95 % limits (NaN: not known) and the bootstrap ``draws`` [B]. ``own``: the limits hold an uncertainty that the draws
    do not show, of samples that all agree."""

    value: float
    low: float
    high: float
    draws: Values
    own: bool = False


def accuracy(success: ArrayLike) -> float:
    """Percent of successes [n] (bool, or probabilities); NaN for none."""
    values = np.asarray(success, np.float64)
    return float(100 * values.mean()) if values.size else float("nan")


def proactive_rate(turns: ArrayLike) -> float:
    """Requests that were met an episode: mean of ``turns`` [n] - 1, since the last turn leads nowhere; NaN for none."""
    values = np.asarray(turns, np.float64)
    return float((values - 1).mean()) if values.size else float("nan")


def macro(values: Mapping[str, float]) -> float:
    """Plain mean over scenarios, whatever their sizes; those without a value are left out. NaN for none."""
    known = [value for value in values.values() if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def discrimination(first: ArrayLike, last: ArrayLike) -> Ratio:
    """Percentage points by which it asks more at the first frame than at the most telling one.

    ``first``, ``last`` [n]: probability or share of requests (helpful or not) at both ends of a sample's way, where requests are shown. 100: asks
    exactly where it should; 0: the frame makes no difference; uniform guessing is near 0.
    """
    difference = np.asarray(first, np.float64) - np.asarray(last, np.float64)
    return Ratio(difference, np.ones(difference.shape), ends=(-1.0, 1.0))


def success_per_request(success: ArrayLike, requests: ArrayLike) -> Ratio:
    """Successes of episodes [n] in which a request was met, a hundred requests that were met."""
    met = np.asarray(requests, np.float64)
    return Ratio(np.where(met > 0, np.asarray(success, np.float64), 0.0), met)


def mean_of(values: ArrayLike, factor: float = 100.0, *, ends: tuple[float, float] | None = (0.0, 1.0)) -> Ratio:
    """``factor`` x the mean of ``values`` [n], which lie between ``ends``; NaN where a sample does not count."""
    array = np.asarray(values, np.float64)
    known = ~np.isnan(array)
    return Ratio(np.where(known, array, 0.0), known.astype(np.float64), factor, ends)


# --- estimates -------------------------------------------------------------------------------------------------------


def estimates(
    ratios: Sequence[Ratio],
    group: Numbers,
    *,
    groups: int | None = None,
    draws: int = DRAWS,
    seed: Sequence[int] = (0,),
) -> list[Estimate]:
    """Each ratio with its interval; all share the same draws of groups, so that their draws are paired.

    ``group`` int64 [n]: samples of one number are drawn together. ``groups``: how many numbers there are where some stand for drawings that
    only other scenarios have; estimates with the same ``groups`` and ``seed`` draw the same numbers and are paired, too. Wilson's
    interval where samples stand alone and each counts 0 or 1; where all agree, ``_agreeing``; else a percentile bootstrap over
    the groups. One group alone has no interval unless its samples agree.
    """
    if not ratios:
        return []
    sums = _by_group(ratios, group, groups)
    values = _joined(sums.sum(0, keepdims=True), ratios)[0]
    drawn = np.concatenate([_joined(counts @ sums, ratios) for counts in _counts(len(sums), draws, seed)])
    return [_estimate(ratio, group, float(values[i]), drawn[:, i]) for i, ratio in enumerate(ratios)]


def difference(
    first: Ratio, second: Ratio, group: Numbers, *,
    groups: int | None = None, draws: int = DRAWS, seed: Sequence[int] = (0,),
) -> Estimate:  # fmt: skip
    """``first`` - ``second`` of the same samples [n], with a paired bootstrap.

    Where the samples of one of them agree, it does not move in the bootstrap, and the limits of both are joined as those of independent
    estimates. Where both move alike in every sample, the limits are those of a ratio in which all agree.
    """
    one, other = estimates([first, second], group, groups=groups, draws=draws, seed=seed)
    if one.own or other.own:
        return less(one, other)
    value, drawn = one.value - other.value, one.draws - other.draws
    counted = np.minimum(first.below, second.below)
    if (first.below == second.below).all() and first.factor == second.factor:
        ends = (first.ends[0] - second.ends[1], first.ends[1] - second.ends[0]) if first.ends and second.ends else None
        return _estimate(Ratio(first.above - second.above, first.below, first.factor, ends), group, value, drawn)
    return Estimate(value, *_percentiles(drawn, _groups_counted(counted, group)), drawn)


def less(first: Estimate, second: Estimate) -> Estimate:
    """``first`` - ``second``: from their draws, which may be paired, or, where those of one do not tell all, from the limits of both."""
    drawn = first.draws - second.draws
    if not (first.own or second.own):
        limits = _percentiles(drawn, 0 if np.isnan([first.low, second.low]).any() else 2)
        return Estimate(first.value - second.value, *limits, drawn)
    turned = Estimate(-second.value, -second.high, -second.low, -second.draws, True)
    return Estimate(*_sum_of([first._replace(own=True), turned]), drawn, True)


def macro_estimate(parts: Sequence[Estimate]) -> Estimate:
    """The plain mean over scenarios: limits of the mean of their draws, joined with the own limits of those whose draws do not tell all.

    Draws of scenarios are paired only where they were made so (``estimates``). No interval where a scenario has none.
    """
    known = [part for part in parts if not np.isnan(part.value)]
    if not known:
        return Estimate(float("nan"), float("nan"), float("nan"), np.full(1, np.nan))
    drawn = np.mean([part.draws for part in known], axis=0)
    value, low, high = (number / len(known) for number in _sum_of(known))
    return Estimate(value, low, high, drawn, any(part.own for part in known))


def _sum_of(parts: Sequence[Estimate]) -> tuple[float, float, float]:
    """Sum of estimates and its limits: one interval from the draws of those whose draws tell all, which may be paired, and the own limits
    of the others, all joined as those of independent estimates: sum -+ root of the sum of squared distances to the limits (Zou
    and Donner 2008, Statistics in Medicine 27, 1693-1702)."""
    value = float(sum(part.value for part in parts))
    if any(np.isnan(part.low) for part in parts):
        return value, float("nan"), float("nan")
    moving = [part for part in parts if not part.own]
    told = [(part.value, part.low, part.high) for part in parts if part.own]
    if moving:
        centre = float(sum(part.value for part in moving))
        told.append((centre, *_percentiles(np.sum([part.draws for part in moving], axis=0), 2)))
    below, above = (np.sqrt(sum((limits[0] - limits[i]) ** 2 for limits in told)) for i in (1, 2))
    return value, value - float(below), value + float(above)


def _estimate(ratio: Ratio, group: Numbers, value: float, drawn: Values) -> Estimate:
    groups = _groups_counted(ratio.below, group)
    if np.isnan(value) or not groups:
        return Estimate(value, float("nan"), float("nan"), drawn)
    if _agree(ratio, groups, drawn):
        return Estimate(value, *_agreeing(ratio, value, groups), drawn, True)
    counted = int((ratio.below > 0).sum())
    certain = bool(np.isin(ratio.above, (0.0, 1.0)).all() and np.isin(ratio.below, (0.0, 1.0)).all())
    if ratio.ends == (0.0, 1.0) and certain and groups == counted:
        low, high = wilson_interval(ratio.above.sum(), groups)
        return Estimate(value, ratio.factor * float(low), ratio.factor * float(high), drawn)
    return Estimate(value, *_percentiles(drawn, groups), drawn)


def _agree(ratio: Ratio, groups: int, drawn: Values) -> bool:
    """Whether the draws have no width but that of rounding, and not only because there is one group of samples that differ."""
    known = drawn[~np.isnan(drawn)]
    counts = ratio.below > 0
    alike = groups > 1 or np.ptp(ratio.above[counts] / ratio.below[counts]) <= 1e-9
    return bool(alike and len(known) and np.ptp(known) <= 1e-9)


def _agreeing(ratio: Ratio, value: float, groups: int) -> tuple[float, float]:
    """Limits of a ratio in which all ``groups`` agree. At one of its ends (nobody asked, all were right) up to p of all may differ, p Wilson's
    upper limit of 0 of ``groups``, and may be at the other end: for a share that is Wilson's interval. Between the ends of
    a share or count it is what the rules of the samples make it (chance among five options): no width. NaN where the ends are not known."""
    if ratio.ends is None:
        return float("nan"), float("nan")
    differ = float(wilson_interval(0, groups)[1])
    least, most = (ratio.factor * end for end in ratio.ends)
    if least == 0 and 1e-9 < value < most - 1e-9:
        return value, value
    return value - differ * max(value - least, 0.0), value + differ * max(most - value, 0.0)


def _by_group(ratios: Sequence[Ratio], group: Numbers, groups: int | None) -> Values:
    """Sums [groups, 2 x ratios]."""
    size = groups or (int(group.max()) + 1 if len(group) else 0)
    columns = [np.bincount(group, values, size) for ratio in ratios for values in (ratio.above, ratio.below)]
    return np.stack(columns, 1) if size else np.zeros((0, 2 * len(ratios)))


def _joined(sums: Values, ratios: Sequence[Ratio]) -> Values:
    """Sums [B, 2 x ratios] to values [B, ratios]; NaN where nothing is counted."""
    above, below = sums[:, ::2], sums[:, 1::2]
    shares = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return np.asarray(shares * np.array([ratio.factor for ratio in ratios]))


def _counts(groups: int, draws: int, seed: Sequence[int]) -> Iterator[Values]:
    """How often each group is drawn, float64 [block, groups], block by block."""
    if not groups:
        yield np.zeros((draws, 0))
        return
    generator, block = np.random.default_rng(list(seed)), max(1, _AT_ONCE // groups)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = generator.integers(groups, size=(size, groups)) + np.arange(size)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype(np.float64)


def _groups_counted(below: Values, group: Numbers) -> int:
    return len(np.unique(group[below > 0]))


def _percentiles(drawn: Values, groups: int) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if groups < 2 or not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, LIMITS)
    return float(low), float(high)
