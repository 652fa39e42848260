"""An audit against ground truth: true bias scores, matching, hit rates, agreement with a labeller. Pure numpy, no I/O.

Section and sign conventions are those of C2B (Guimard et al., CVPR 2025) and its published scripts: a positive score means
that the classifier favours pictures with the value, as phi does. Matching accepts a cosine strictly above 0.9, hit rates
count a score strictly above 0.05 in size, agreement one of *at least* 0.05: the scripts differ there, and so do these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.bias.stability import greedy_matches

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Outcome = Literal["hit", "false_hit", "miss"]
OUTCOMES: tuple[Outcome, ...] = ("hit", "false_hit", "miss")

MATCH_ABOVE = 0.9
DETECTED_ABOVE = 0.05
AGREEMENT_FROM = 0.05
_DECIMALS = 12


class Gaps(NamedTuple):
    """Right answers ``k`` of ``n`` pictures on both sides of a comparison; int64 [..., 2], first the side with the value.

    ``least``: a side with fewer pictures leaves the score undefined.
    """

    k: IntArray
    n: IntArray
    least: int = 1

    @property
    def score(self) -> FloatArray:
        """Share right with the value minus share right without it [...], in [-1, 1]; NaN where a side is too small."""
        share = self.k / np.maximum(self.n, 1)
        defined = (self.n >= self.least).all(-1)
        return np.asarray(np.where(defined, share[..., 0] - share[..., 1], np.nan))

    def take(self, rows: Any) -> Gaps:
        """Some rows of the first axis."""
        return Gaps(self.k[rows], self.n[rows], self.least)


def celeba_ground_truth(said: ArrayLike, truth: ArrayLike, targets: Sequence[int] | None = None) -> Gaps:
    """True bias scores of yes/no outputs: TPR of target t with attribute b present minus TPR with it absent.

    ``said`` bool [n, targets]: the classifier says yes; ``truth`` bool [n, attributes]; ``targets[i]``: column of ``truth``
    that output i is about (default: the same order). Returns counts [targets, attributes]; an attribute has no score on
    itself (both sides 0). The whole is two matrix products: 19,867 pictures x 40 x 40 take milliseconds.
    Source: C2B evaluation on CelebA.
    """
    present = np.asarray(truth, bool)
    own = np.arange(present.shape[1]) if targets is None else np.asarray(targets, np.int64)
    positive = present[:, own]
    gaps = count_gaps(np.asarray(said, bool) & positive, positive, present, ~present)
    other = own[:, None] != np.arange(present.shape[1])
    return Gaps(gaps.k * other[..., None], gaps.n * other[..., None])


def count_gaps(right: ArrayLike, asked: ArrayLike, with_: ArrayLike, without: ArrayLike) -> Gaps:
    """Counts [targets, values] from bool [n, targets] (``right``, ``asked``) and bool [n, values] (both sides)."""
    # float64 products run in BLAS and are exact for counts below 2^53.
    hits, all_ = (np.asarray(a, np.float64).T for a in (right, asked))
    sides = [np.asarray(a, np.float64) for a in (with_, without)]
    k, n = (np.stack([np.rint(a @ side).astype(np.int64) for side in sides], -1) for a in (hits, all_))
    return Gaps(k, n)


def imagenet_x_ground_truth(correct: ArrayLike, classes: ArrayLike, factors: ArrayLike, n_classes: int) -> Gaps:
    """True bias scores of a softmax head: mean correctness with the factor minus without it, per class and factor.

    ``correct`` bool [n], ``classes`` int [n] in [0, n_classes), ``factors`` bool [n, factors]. Returns counts
    [n_classes, factors]; both sides need more than one picture, so a factor that is always or never there has no score.
    One pass over n x factors cells. Source: C2B evaluation on ImageNet-X (Idrissi et al., 2022, arXiv 2211.01866).
    """
    there, right = np.asarray(factors, bool), np.asarray(correct, bool)
    owner = np.asarray(classes, np.int64)
    cells = owner[:, None] * there.shape[1] + np.arange(there.shape[1])
    size = n_classes * there.shape[1]

    def count(mask: BoolArray) -> IntArray:
        return np.asarray(np.bincount(cells[mask], minlength=size), np.int64).reshape(n_classes, there.shape[1])

    hit = right[:, None]
    k, n = ([count(side & asked) for side in (there, ~there)] for asked in (hit, np.ones_like(hit)))
    return Gaps(np.stack(k, -1), np.stack(n, -1), least=2)


def vqa_phi(correct: ArrayLike, answers: ArrayLike, values: int) -> Gaps:
    """Bias score per answer of a labeller: TPR of the pictures with this answer minus TPR of the *pooled* others.

    ``correct`` bool [n] over pictures that truly show the target, ``answers`` int [n] in [0, values), -1 = no answer (the
    picture counts nowhere). Returns counts [values]. Pooled, unlike phi, which takes the unweighted mean of the others.
    """
    chosen = np.asarray(answers, np.int64)
    given = chosen >= 0
    with_ = chosen[:, None] == np.arange(values)
    right = np.asarray(correct, bool)[:, None]
    return count_gaps(right, np.ones_like(right), with_, given[:, None] & ~with_).take(0)


def nearest_choice(answers: ArrayLike, choices: ArrayLike) -> IntArray:
    """For each answer embedding [n, dim] the index of the nearest choice embedding [m, dim], both of unit norm; [n].

    Ties go to the first choice.
    """
    cosines = np.asarray(answers, np.float64) @ np.asarray(choices, np.float64).T
    return np.asarray(np.argmax(cosines, axis=1), np.int64)


def _settled(scores: ArrayLike) -> FloatArray:
    """Scores without rounding error, so that what lies on a threshold is found there.

    Differences of shares of n1 and n2 pictures come no nearer to 0.05 than 1 / (20 n1 n2) unless they are 0.05.
    """
    return np.asarray(np.round(np.asarray(scores, np.float64), _DECIMALS), np.float64)


def agreement(scores: ArrayLike, labelled: ArrayLike, t: float = AGREEMENT_FROM) -> float:
    """How far two sets of bias scores of one attribute say the same, in [-1, 1]; both [values], NaN counts as 0.

    Mean over the values of [same sign, both sizes >= t] + [both sizes < t] - [opposite signs, both sizes >= t]. NaN
    where there is no value. Source: C2B, agreement with a VQA labeller.
    """
    a, b = (np.nan_to_num(_settled(x), nan=0.0) for x in (scores, labelled))
    if a.size == 0:
        return float("nan")
    large = (np.abs(a) >= t) & (np.abs(b) >= t)
    small = (np.abs(a) < t) & (np.abs(b) < t)
    same, opposite = np.sign(a) == np.sign(b), np.sign(a) * np.sign(b) < 0
    return float(np.mean((large & same) * 1.0 + small - (large & opposite)))


def mean_of(values: Sequence[float]) -> float:
    """Mean of those that are defined; NaN where none is."""
    defined = [v for v in values if not np.isnan(v)]
    return sum(defined) / len(defined) if defined else float("nan")


def match_proposals(cosines: ArrayLike, above: float = MATCH_ABOVE) -> dict[int, int]:
    """One-to-one pairs {ground truth: proposal} of one target from cosines [ground truth, proposals].

    The largest entry is taken as long as it is strictly above ``above``, and its row and column are struck out. Ties go to
    the first in row-major order; NaN matches nothing. Each pair costs one pass over the matrix.
    """
    matrix = np.asarray(cosines, np.float64)
    return greedy_matches(np.where(np.isnan(matrix), -np.inf, matrix), above)


def detected(scores: ArrayLike, threshold: float = DETECTED_ABOVE) -> BoolArray:
    """Whether each score is strictly above ``threshold`` in size; NaN never is."""
    return np.abs(_settled(scores)) > threshold


class TargetScores(NamedTuple):
    """One target: scores of the ground truth and of what was found, and how they match.

    ``truth`` [g] and ``found`` [p]; ``pairs`` {index in truth: index in found}. The flags say what counts as detected on
    either side; None applies ``detected`` (pass flags where counts allow exact fractions).
    """

    truth: FloatArray
    found: FloatArray
    pairs: dict[int, int]
    truth_detected: BoolArray | None = None
    found_detected: BoolArray | None = None


def outcomes(scores: TargetScores, threshold: float = DETECTED_ABOVE) -> tuple[list[Outcome | None], ...]:
    """(of each true score, of each found score): hit, false_hit, miss, or None where the score itself is not detected.

    A pair with both sides detected is a hit where the product of the scores is >= 0, else a false hit, for both sides. Any
    other detected score is a miss.
    """
    truth, found = (np.asarray(x, np.float64) for x in (scores.truth, scores.found))
    real = detected(truth, threshold) if scores.truth_detected is None else np.asarray(scores.truth_detected, bool)
    seen = detected(found, threshold) if scores.found_detected is None else np.asarray(scores.found_detected, bool)
    of_truth: list[Outcome | None] = ["miss" if flag else None for flag in real]
    of_found: list[Outcome | None] = ["miss" if flag else None for flag in seen]
    for i, j in scores.pairs.items():
        if real[i] and seen[j]:
            of_truth[i] = of_found[j] = "hit" if truth[i] * found[j] >= 0 else "false_hit"
    return of_truth, of_found


class HitRates(NamedTuple):
    """One direction: ``counts`` int [targets, 3] of hits, false hits and misses, ``percent`` [targets, 3] of their sum,
    NaN rows where it is 0, and ``macro`` [3], the mean over the other targets (NaN where there is none)."""

    counts: IntArray
    percent: FloatArray
    macro: FloatArray


class BothDirections(NamedTuple):
    """``found``: of the true biases, what was detected; ``true``: of the detected ones, what is true."""

    found: HitRates
    true: HitRates


def hit_rates(targets: Sequence[TargetScores], threshold: float = DETECTED_ABOVE) -> BothDirections:
    """Hit rates of all targets in both directions, in percent.

    ground truth -> detected is taken over a target's true biases, detected -> ground truth over what was detected of it.
    Source: C2B, hit rates.
    """
    judged = [outcomes(scores, threshold) for scores in targets]
    return BothDirections(*(_rates([both[side] for both in judged]) for side in (0, 1)))


def _rates(judged: Sequence[Sequence[Outcome | None]]) -> HitRates:
    counts = np.array([[list(o).count(name) for name in OUTCOMES] for o in judged], np.int64).reshape(-1, 3)
    total = counts.sum(1, keepdims=True)
    percent = np.divide(100.0 * counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    rated = percent[total[:, 0] > 0]
    return HitRates(counts, percent, rated.mean(0) if len(rated) else np.full(3, np.nan))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Student interval of the mean of the values that are not NaN; NaN with fewer than two."""
    from scipy.stats import t as student

    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return float("nan"), float("nan")
    half: Any = student.ppf((1 + confidence) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return float(known.mean() - half), float(known.mean() + half)
