"""Metrics of episodes with 95 % intervals. Pure numpy on arrays by sample; no I/O.

A metric is a ratio of sums over samples (``Ratio``): several draws of one sample are averaged before they come here, so that each sample counts
once. Samples of one drawing (``group``) are resampled together. Sources: arXiv 2603.19466 for accuracy, proactive suggestion rate and
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
    """``factor`` x sum of ``above`` / sum of ``below``, both float64 [n] by sample. ``share``: no sample's part above exceeds that below, so
    that the ratio lies in 0..1."""

    above: Values
    below: Values
    factor: float = 100.0
    share: bool = True


class Estimate(NamedTuple):
    """``value`` with its 95 % limits (NaN: not known) and the bootstrap ``draws`` [B] behind them."""

    value: float
    low: float
    high: float
    draws: Values


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
    return Ratio(difference, np.ones(difference.shape), share=False)


def success_per_request(success: ArrayLike, requests: ArrayLike) -> Ratio:
    """Successes of episodes [n] in which a request was met, a hundred requests that were met."""
    met = np.asarray(requests, np.float64)
    return Ratio(np.where(met > 0, np.asarray(success, np.float64), 0.0), met, share=False)


def mean_of(values: ArrayLike, factor: float = 100.0, *, share: bool = True) -> Ratio:
    """``factor`` x the mean of ``values`` [n]; NaN where a sample does not count."""
    array = np.asarray(values, np.float64)
    known = ~np.isnan(array)
    return Ratio(np.where(known, array, 0.0), known.astype(np.float64), factor, share)


# --- estimates -------------------------------------------------------------------------------------------------------


def estimates(
    ratios: Sequence[Ratio], group: Numbers, *, draws: int = DRAWS, seed: Sequence[int] = (0,)
) -> list[Estimate]:
    """Each ratio with its interval; all share the same draws of groups, so that their draws are paired.

    ``group`` int64 [n]: samples of one number are drawn together. Wilson's interval where samples stand alone and each counts 0 or 1, and
    where all or none are; else a percentile bootstrap over the groups. One group alone has no interval.
    """
    if not ratios:
        return []
    sums = _by_group(ratios, group)
    values = _joined(sums.sum(0, keepdims=True), ratios)[0]
    drawn = np.concatenate([_joined(counts @ sums, ratios) for counts in _counts(len(sums), draws, seed)])
    return [
        Estimate(float(values[i]), *_interval(ratio, group, float(values[i]), drawn[:, i]), drawn[:, i])
        for i, ratio in enumerate(ratios)
    ]


def difference(
    first: Ratio, second: Ratio, group: Numbers, *, draws: int = DRAWS, seed: Sequence[int] = (0,)
) -> Estimate:
    """``first`` - ``second`` of the same samples [n], with a paired bootstrap; where neither moves in it (all or none are right in
    both), their own limits are joined as those of independent estimates."""
    one, other = estimates([first, second], group, draws=draws, seed=seed)
    value, drawn = one.value - other.value, one.draws - other.draws
    if _still(one.draws) and _still(other.draws):
        below = (one.value - one.low) ** 2, (other.high - other.value) ** 2
        above = (one.high - one.value) ** 2, (other.value - other.low) ** 2
        return Estimate(value, *_joined_limits(value, below, above), drawn)
    counted = np.minimum(first.below, second.below)
    return Estimate(value, *_percentiles(drawn, _groups_counted(counted, group)), drawn)


def macro_estimate(parts: Sequence[Estimate]) -> Estimate:
    """The plain mean over scenarios, resampled within each.

    Where the draws have no width (all or none are right everywhere), the scenarios' own limits are joined as those of independent
    estimates: mean -+ sqrt(sum of squared distances) / S (Zou and Donner 2008, Statistics in Medicine 27, 1693-1702). No interval where
    a scenario has none.
    """
    known = [part for part in parts if not np.isnan(part.value)]
    if not known:
        return Estimate(float("nan"), float("nan"), float("nan"), np.full(1, np.nan))
    value = float(np.mean([part.value for part in known]))
    drawn = np.mean([part.draws for part in known], axis=0)
    if any(np.isnan(part.low) for part in known):
        return Estimate(value, float("nan"), float("nan"), drawn)
    low, high = _percentiles(drawn, 2)
    if _still(drawn):
        size = len(known) ** 2
        below = [(part.value - part.low) ** 2 / size for part in known]
        above = [(part.high - part.value) ** 2 / size for part in known]
        low, high = _joined_limits(value, below, above)
    return Estimate(value, low, high, drawn)


def _still(drawn: Values) -> bool:
    """Whether the draws have no width but that of rounding."""
    return bool(np.ptp(drawn) <= 1e-9) if not np.isnan(drawn).any() else False


def _joined_limits(value: float, below: Sequence[float], above: Sequence[float]) -> tuple[float, float]:
    """Limits from squared distances to the limits of independent parts."""
    return value - float(np.sqrt(sum(below))), value + float(np.sqrt(sum(above)))


def _by_group(ratios: Sequence[Ratio], group: Numbers) -> Values:
    """Sums [groups, 2 x ratios]."""
    size = int(group.max()) + 1 if len(group) else 0
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


def _interval(ratio: Ratio, group: Numbers, value: float, drawn: Values) -> tuple[float, float]:
    groups = _groups_counted(ratio.below, group)
    if np.isnan(value) or not groups:
        return float("nan"), float("nan")
    counted = int((ratio.below > 0).sum())
    certain = bool(np.isin(ratio.above, (0.0, 1.0)).all() and np.isin(ratio.below, (0.0, 1.0)).all())
    extreme = not ratio.above.any() or bool((ratio.above == ratio.below).all())
    if ratio.share and (extreme or (certain and groups == counted)):
        right = ratio.above.sum() if not extreme else groups * (value > 0)
        low, high = wilson_interval(right, groups)
        return ratio.factor * float(low), ratio.factor * float(high)
    return _percentiles(drawn, groups)


def _groups_counted(below: Values, group: Numbers) -> int:
    return len(np.unique(group[below > 0]))


def _percentiles(drawn: Values, groups: int) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if groups < 2 or not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, LIMITS)
    return float(low), float(high)
