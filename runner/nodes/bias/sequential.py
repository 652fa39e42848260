"""Inference that stays valid however often one looks at the counts and whenever one stops. Pure numpy float64.

One picture of each value of an attribute makes a *block*. For a value with accuracy p and the mean accuracy q of the r
other values in the block (``phi = p - q``), and a convex set H of pairs (p, q), each alternative (a, b) outside H gives

    factor of a block = (a / p*)^x ((1-a) / (1-p*))^(1-x)  prod_l (b / q*)^y_l ((1-b) / (1-q*))^(1-y_l)

where (p*, q*) in H minimises ``KL(a || p) + r KL(b || q)``. Its expectation under any (p, q) in H is at most 1: it is
f(p) prod_l g(q_l) with linear f and g, so by the inequality of means at most ((f(p) + r g(q)) / (1 + r))^(1+r), and
f + r g <= 1 + r is the first-order condition of that minimum. Hence products over blocks, and mixtures of these over
alternatives, are e-processes: P(ever >= 1/alpha) <= alpha (Ville). Other values may differ among themselves; only their mean
enters. For H: p = q, q* = (a + r b)/(1 + r), which is eq. 3 of Turner, Ly & Grunwald (2024), Safe tests for 2x2 tables;
half-planes p - q >= c as in Turner & Grunwald (2023), Anytime-valid confidence intervals for contingency tables and beyond.
The products depend on the counts alone, so the order of the blocks does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

from runner.nodes.significance import adjust

FloatArray = NDArray[np.float64]
Null = Literal["equal", "at_least", "at_most"]

_BISECTIONS = 60
_GRID = 100  # steps of the limits of phi between 0 and 1
_EDGE = 0.01  # alternatives nearer to 0 or 1 would let one answer decide
_RATES = np.array([0.03, *np.arange(0.1, 0.95, 0.1), 0.97])  # accuracies that the mixtures lay weight on


class Mixture(NamedTuple):
    """Which alternatives an e-process is tuned to: gaps of either sign, and ``zero``, the weight of "no gap".

    ``by_variance``: more weight on accuracies near 1/2, where the same precision takes more images.
    """

    gaps: tuple[float, ...]
    zero: float = 0.0
    by_variance: bool = False


class Alternatives(NamedTuple):
    """A mixture: accuracy of the value, of the others, and log weight (summing to 1); each float64 [alternatives]."""

    own: FloatArray
    others: FloatArray
    log_weight: FloatArray


# Any choice is valid; these find gaps of 0.2 to 0.5, give narrow limits around 0, and give up early where there is no gap.
FINDING = Mixture((0.2, 0.3, 0.4, 0.55))
LIMITS = Mixture((0.1, 0.2, 0.3, 0.45, 0.65), 0.6)
EXCLUDING = Mixture((), 1.0, by_variance=True)


def confidence_sequence(
    k: ArrayLike, n: ArrayLike, confidence: float = 0.95, prior: tuple[float, float] = (0.5, 0.5)
) -> tuple[FloatArray, FloatArray]:
    """Interval (low, high) of a Bernoulli mean from running counts, valid at all n at once; NaN where n = 0.

    Beta-binomial mixture: with ``m = B(a + k, b + n - k) / B(a, b)``, all p with ``m < p^k (1-p)^(n-k) / (1 - confidence)``.
    Counts broadcast; float64 of that shape. Source: Robbins (1970); Howard et al. (2021), Annals of Statistics 49, conjugate
    mixtures (sec. 3) with Ville's inequality.
    """
    right, total = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    if np.any(right < 0) or np.any(right > total):
        raise ValueError("counts need 0 <= k <= n")
    a, b = prior
    floor = betaln(a + right, b + total - right) - betaln(a, b) + np.log(1 - confidence)
    rate = np.divide(right, total, out=np.full(total.shape, 0.5), where=total > 0)

    def excluded(p: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(xlogy(right, p) + xlog1py(total - right, -p) <= floor)

    ends = [_bisected(excluded, np.full(rate.shape, edge), rate) for edge in (0.0, 1.0)]
    low, high = (np.where(total > 0, end, np.nan) for end in ends)
    return low, high


def _bisected(
    excluded: Callable[[FloatArray], NDArray[np.bool_]], outside: FloatArray, inside: FloatArray
) -> FloatArray:
    """The edge between excluded and kept points, on its outer side; the edge itself where nothing is excluded."""
    for _ in range(_BISECTIONS):
        middle = (outside + inside) / 2
        out = excluded(middle)
        outside, inside = np.where(out, middle, outside), np.where(out, inside, middle)
    return outside


@lru_cache(maxsize=16)
def alternatives(mixture: Mixture) -> Alternatives:
    """The pairs of accuracies that a mixture lays weight on; signs and gaps share evenly what "no gap" leaves."""
    gaps = [(0.0, mixture.zero)] if mixture.zero else []
    gaps += [(s * g, (1 - mixture.zero) / (2 * len(mixture.gaps))) for g in mixture.gaps for s in (-1, 1)]
    own, others, weight = [], [], []
    for gap, share in gaps:
        rates = _RATES[(_RATES + gap > _EDGE) & (_RATES + gap < 1 - _EDGE)]
        shape = rates * (1 - rates) if mixture.by_variance else np.ones(len(rates))
        own.append(rates + gap)
        others.append(rates)
        weight.append(share * shape / shape.sum())
    return Alternatives(np.concatenate(own), np.concatenate(others), np.log(np.concatenate(weight)))


def projection(own: ArrayLike, others: ArrayLike, gap: ArrayLike, ratio: float) -> tuple[FloatArray, FloatArray]:
    """The pair (p, q) with ``p - q = gap`` that minimises ``KL(own || p) + ratio KL(others || q)``; arguments broadcast."""
    a, b, c = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (own, others, gap)))
    low, high = np.maximum(0, -c), np.minimum(1, 1 - c)
    for _ in range(_BISECTIONS):
        q = (low + high) / 2
        p = q + c
        rising = (p - a) / (p * (1 - p)) + ratio * (q - b) / (q * (1 - q)) > 0
        low, high = np.where(rising, low, q), np.where(rising, q, high)
    q = (low + high) / 2
    return q + c, q


@lru_cache(maxsize=256)
def _factors(mixture: Mixture, gaps: tuple[float, ...], ratio: float, null: Null) -> FloatArray:
    """Log factor per right and wrong answer, own and others: [4, gaps, alternatives]; 0 for alternatives inside the null."""
    pairs = alternatives(mixture)
    a, b, c = pairs.own[None], pairs.others[None], np.array(gaps)[:, None]
    p, q = projection(a, b, c, ratio)
    logs = np.stack([np.log(a / p), np.log((1 - a) / (1 - p)), np.log(b / q), np.log((1 - b) / (1 - q))])
    inside = {"equal": np.zeros(p.shape, bool), "at_least": a - b >= c, "at_most": a - b <= c}[null]
    return np.where(inside, 0.0, logs)


def log_e(
    counts: ArrayLike, gaps: tuple[float, ...] = (0.0,), null: Null = "equal", mixture: Mixture = FINDING
) -> FloatArray:
    """Log of the e-process against ``phi = gap`` (or ``phi >= gap``, ``phi <= gap``) for each gap: [..., gaps].

    ``counts`` [..., phases, 4]: right and wrong answers of the value, right and wrong ones of the others, in blocks of one
    make-up; phases differ in how many other values there are. Phases without blocks change nothing. Raises ValueError
    where the others' answers are no whole multiple of the value's.
    """
    cells = np.asarray(counts, np.float64)
    own, others = cells[..., :2].sum(-1), cells[..., 2:].sum(-1)
    ratio = np.divide(others, own, out=np.zeros(own.shape), where=own > 0)
    if np.any(ratio != np.round(ratio)):
        raise ValueError("blocks hold one image of the value and one of each other value")
    log_weight = alternatives(mixture).log_weight
    total = np.zeros((*cells.shape[:-2], len(gaps), len(log_weight)))
    for r in np.unique(ratio[ratio > 0]):
        inside = np.where((ratio == r)[..., None], cells, 0.0).sum(-2)
        total += np.tensordot(inside, _factors(mixture, gaps, float(r), null), 1)
    total += log_weight
    highest = total.max(-1, keepdims=True)
    return np.asarray(highest[..., 0] + np.log(np.exp(total - highest).sum(-1)))


def excludes_gap(counts: ArrayLike, gap: float, confidence: float = 0.95) -> NDArray[np.bool_]:
    """Whether ``|phi| >= gap`` is excluded; [...] from ``counts`` as in ``log_e``.

    Where that is wrong, P(ever true) <= 1 - ``confidence``: two one-sided e-processes, each at the full level, because phi
    cannot lie on both sides (intersection-union argument).
    """
    bar = -np.log(1 - confidence)
    below = log_e(counts, (gap,), "at_least", EXCLUDING)[..., 0] >= bar
    return np.asarray(below & (log_e(counts, (-gap,), "at_most", EXCLUDING)[..., 0] >= bar))


def phi_sequence(counts: ArrayLike, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Interval (low, high) of phi, valid at all times at once: the gaps that neither one-sided e-process excludes.

    Each side has half the error. Limits stand on a grid of 1/100, rounded outwards; NaN where there is no block.
    """
    cells = np.asarray(counts, np.float64)
    bar = -np.log((1 - confidence) / 2)
    gaps = tuple((np.arange(1 - _GRID, _GRID) / _GRID).tolist())
    kept_below = log_e(cells, gaps, "at_least", LIMITS) < bar
    kept_above = log_e(cells, gaps, "at_most", LIMITS) < bar
    grid = np.array([-1.0, *gaps, 1.0])
    high = grid[np.where(kept_below.any(-1), len(gaps) + 1 - kept_below[..., ::-1].argmax(-1), 1)]
    low = grid[np.where(kept_above.any(-1), kept_above.argmax(-1), len(gaps))]
    known = cells.sum((-1, -2)) > 0
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def e_adjusted(log_e_values: ArrayLike) -> FloatArray:
    """Smallest FDR level at which the e-BH procedure rejects each of the tests [tests]; NaN stays NaN.

    e-BH rejects the k tests with the largest e, for the largest k with ``e_(k) >= tests / (alpha k)``: FDR <= alpha whatever
    their dependence, and whenever each e-process was stopped. Source: Wang & Ramdas (2022), JRSS B 84, eq. 4.
    """
    return adjust(inverse_e(log_e_values), "bh")


def inverse_e(log_e_values: ArrayLike) -> FloatArray:
    """``min(1, 1/e)``, a p-value (Markov); Benjamini-Hochberg on it is e-BH."""
    return np.asarray(np.exp(np.minimum(0.0, -np.asarray(log_e_values, np.float64))))
