"""Of which classes a group's pictures are, from the scores that a verifier gives them. Pure numpy float64, no I/O.

The wrong pictures of a group are often all of one class, and of some classes a verifier takes most pictures for the target.
One specificity for all classes then says too little. Here the verdict on a picture is the band that its score falls into, and
labelled pictures tell how the verdicts of each class are spread. A group's verdicts are a mixture of these distributions;
its weights follow by expectation maximisation, the weight of the target is the share looked for.

A limit: wrong pictures of a class that is not among the labelled ones are taken for a mixture of those that are.

Sources: Saerens, Latinne & Decaestecker (2002), Neural Computation 14, 21-41 (weights of known components by EM);
Efron & Tibshirani (1993) (bootstrap).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DRAWS = 400
EM_STEPS = 200
# Distributions in a mixture, the target's included.
MAX_CLASSES = 12
REST = "(the rest)"
# Half a picture is added to every count (Jeffreys): a verdict never seen of a class is not impossible.
_PRIOR = 0.5
_YES_BANDS = 8
_NO_BANDS = 2
# Fewer positives than this in a band would say little about its share.
_PER_BAND = 5
_MIN_PICTURES = 5
# Groups whose draws are in memory together: 400 x 100 x 11 float64 are 4 MB an array.
_BLOCK = 100


class Precisions(NamedTuple):
    """Shares of pictures that show the target, with interval ends; float64 of the groups' shape, NaN = not known.

    ``retrieved``: among all pictures of the group; ``target``: among those that are assessed.
    """

    retrieved: FloatArray
    retrieved_low: FloatArray
    retrieved_high: FloatArray
    target: FloatArray
    target_low: FloatArray
    target_high: FloatArray


class Confusion(NamedTuple):
    """How often each verdict was given to labelled pictures of each class.

    ``classes``: first the target; ``edges``: scores that part the bands, ascending, float64 [bands - 1]; ``first_yes``: the
    bands from this one on mean yes; ``counts``: pictures, float64 [classes, bands].
    """

    classes: tuple[str, ...]
    edges: FloatArray
    first_yes: int
    counts: FloatArray

    def tally(self, scores: Iterable[float]) -> IntArray:
        """Number of pictures with each verdict, int64 [bands]."""
        bands = np.searchsorted(self.edges, np.fromiter(scores, np.float64), side="right")
        return np.bincount(bands, minlength=len(self.edges) + 1)

    def to_json(self) -> str:
        """As it stands in the column ``confusion`` of ``c2b_verifier``."""
        plain = {"classes": self.classes, "edges": self.edges.tolist(), "first_yes": self.first_yes,
                 "counts": self.counts.astype(int).tolist()}  # fmt: skip
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Confusion:
        """The inverse of ``to_json``; floats come back exactly."""
        plain = json.loads(text)
        edges, counts = np.array(plain["edges"], np.float64), np.array(plain["counts"], np.float64)
        return cls(tuple(plain["classes"]), edges, plain["first_yes"], counts)


# --- calibration -----------------------------------------------------------------------------------------------------


def confusion_of(score: ArrayLike, labels: Sequence[str], target: str, threshold: float) -> Confusion | None:
    """Verdicts by class from labelled pictures; None where these are of fewer than three classes.

    ``score``: float [n], yes where >= ``threshold``; ``labels``: class of each of the n pictures. Of many classes those that
    are taken for the target most often stay apart, up to ``MAX_CLASSES``; the rest are one class, and so are classes of which
    there are fewer than five pictures.
    """
    values, truth = np.asarray(score, np.float64), np.asarray(labels, object)
    if len(set(labels) - {target}) < 2 or target not in set(labels):
        return None
    edges = score_edges(values[truth == target], threshold)
    empty = Confusion((), edges, int(np.searchsorted(edges, threshold)) + 1, np.empty(0))
    tallies = {name: empty.tally(values[truth == name]) for name in sorted(set(labels))}
    apart = _apart({name: tally for name, tally in tallies.items() if name != target}, empty.first_yes)
    rest = [tally for name, tally in tallies.items() if name not in (target, *apart)]
    classes = (target, *apart, *([REST] if rest else []))
    counts = [tallies[target], *(tallies[name] for name in apart), *([np.sum(rest, axis=0)] if rest else [])]
    return empty._replace(classes=classes, counts=np.array(counts, np.float64))


def score_edges(positive: ArrayLike, threshold: float) -> FloatArray:
    """Edges of score bands, ascending: the threshold, and quantiles of the target's own scores above and below it.

    ``positive``: scores of pictures that show the target. Eight bands mean yes and two mean no, fewer for few pictures.
    """
    scores = np.asarray(positive, np.float64)
    yes, no = scores[scores >= threshold], scores[scores < threshold]
    return np.unique(np.concatenate([[threshold], _quantiles(yes, _YES_BANDS), _quantiles(no, _NO_BANDS)]))


def _quantiles(scores: FloatArray, bands: int) -> FloatArray:
    """Edges between up to ``bands`` bands that hold equally many of the scores."""
    bands = min(bands, len(scores) // _PER_BAND)
    return np.quantile(scores, np.arange(1, bands) / bands) if bands > 1 else np.empty(0)


def _apart(tallies: dict[str, IntArray], first_yes: int) -> list[str]:
    """Classes with a distribution of their own, those that are taken for the target most often first."""
    large = {name: tally for name, tally in tallies.items() if tally.sum() >= _MIN_PICTURES}
    order = sorted(large, key=lambda name: -large[name][first_yes:].sum() / large[name].sum())
    return order if len(order) <= MAX_CLASSES - 1 else order[: MAX_CLASSES - 2]


# --- the mixture -----------------------------------------------------------------------------------------------------


def mixture_weights(
    counts: ArrayLike, densities: ArrayLike, start: ArrayLike | None = None, *, steps: int = EM_STEPS
) -> FloatArray:
    """Weights of known components that make the counts most likely, float64 [..., groups, classes]; each group's add to 1.

    ``counts``: [..., groups, verdicts], none of them empty; ``densities``: [..., classes, verdicts], each adding to 1 and
    positive everywhere. Leading axes broadcast. A step is w_k <- sum_v n_v w_k p_k(v) / sum_j w_j p_j(v), divided by n.
    ``start``: weights of the same shape as the result; without it half the weight is on the first class. Where components are
    alike, several weights are equally likely and the start decides among them. The most likely weights are also the mode under
    a flat Dirichlet prior. Source: Saerens et al. (2002), section 2.
    """
    n, p = np.asarray(counts, np.float64), np.asarray(densities, np.float64)
    classes = p.shape[-2]
    shape = (*np.broadcast_shapes(n.shape[:-2], p.shape[:-2]), n.shape[-2], classes)
    half = np.concatenate([[0.5], np.full(classes - 1, 0.5 / max(classes - 1, 1))])
    w = np.broadcast_to(half if start is None else np.asarray(start, np.float64), shape).copy()
    transposed, total = np.ascontiguousarray(np.swapaxes(p, -1, -2)), n.sum(-1, keepdims=True)
    for _ in range(steps):
        w *= ((n / (w @ p)) @ transposed) / total
    return w


def target_odds(weights: FloatArray, densities: FloatArray) -> FloatArray:
    """Probability that a picture with each verdict shows the first class (Bayes), float64 [..., groups, verdicts]."""
    return np.asarray(weights[..., :1] * densities[..., None, 0, :] / (weights @ densities))


def mixture_precision(
    counts: ArrayLike,
    confusion: Confusion,
    *,
    unanswered: ArrayLike = 0,
    reject: bool = True,
    confidence: float = 0.95,
) -> Precisions:
    """Estimated shares of each group's own pictures that show the target.

    ``counts``: int [groups, bands], pictures with each verdict; ``unanswered``: int [groups], pictures without one, which
    stay in the group with share ``retrieved``. ``target``: with ``reject`` the pictures of the bands that mean no are gone.
    Point: each picture counts with the probability that it shows the target under the most likely mixture. Interval:
    equal-tailed over ``DRAWS`` draws, each with other calibration distributions (their Jeffreys posterior, a Dirichlet), the
    group drawn anew with replacement, the mixture of that from a start of its own, and for each picture of the group whether
    it shows the target. Classes whose verdicts are alike make equally likely mixtures, among which the starts choose: the
    interval is wide then. It always holds the point. NaN where a group has no verdict, and ``target`` where nothing is left
    to assess. Raises ValueError for negative counts.
    """
    n = np.asarray(counts, np.int64)
    blank = np.broadcast_to(np.asarray(unanswered, np.int64), n.shape[:1])
    if min(n.min(initial=0), blank.min(initial=0)) < 0:
        raise ValueError("numbers of pictures cannot be negative")
    starts = range(0, len(n), _BLOCK)
    found = [
        _block_ends(n[i : i + _BLOCK], blank[i : i + _BLOCK], confusion, reject=reject, confidence=confidence)
        for i in starts
    ]
    return Precisions(*np.concatenate(found, axis=1)) if found else Precisions(*np.empty((6, 0)))


def _block_ends(n: IntArray, blank: IntArray, confusion: Confusion, *, reject: bool, confidence: float) -> FloatArray:
    """The fields of ``Precisions``, float64 [6, groups]."""
    ends = np.full((6, len(n)), np.nan)
    some = n.sum(1) > 0
    if not some.any():
        return ends
    own, without = n[some], blank[some]
    yes = np.arange(n.shape[1]) >= confusion.first_yes
    smooth = confusion.counts + _PRIOR
    mean = smooth / smooth.sum(-1, keepdims=True)
    point = _shares(own * target_odds(mixture_weights(own, mean), mean), own, without, yes, reject=reject)
    draws = _shares(_drawn_right(own, smooth), own, without, yes, reject=reject)
    tail = (1 - confidence) / 2
    for i, (share, drawn) in enumerate(zip(point, draws, strict=True)):
        low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
        ends[3 * i : 3 * i + 3, some] = share, np.minimum(low, share), np.maximum(high, share)
    return ends


def _drawn_right(n: IntArray, smooth: FloatArray) -> FloatArray:
    """Draws of the number of pictures with each verdict that show the target, float64 [DRAWS, groups, bands]."""
    rng = np.random.default_rng(0)
    gamma = rng.standard_gamma(smooth, (DRAWS, *smooth.shape))
    # A gamma draw of a small shape can round to 0, and a density of 0 would divide 0 by 0.
    gamma = np.maximum(gamma, 1e-12)
    densities = gamma / gamma.sum(-1, keepdims=True)
    total = n.sum(1)
    again = rng.multinomial(total, n / total[:, None], (DRAWS, len(n)))
    start = _starts(rng, (DRAWS, len(n)), len(smooth))
    odds = target_odds(mixture_weights(again, densities, start), densities)
    return np.asarray(rng.binomial(n, np.minimum(odds, 1.0)), np.float64)


def _starts(rng: np.random.Generator, shape: tuple[int, int], classes: int) -> FloatArray:
    """Weights to start from, float64 [*shape, classes]: the target's uniform, the rest mostly on one or two classes."""
    share = rng.random((*shape, 1))
    others = np.maximum(rng.dirichlet(np.full(classes - 1, 1 / (classes - 1)), shape), 1e-6)
    return np.concatenate([share, (1 - share) * others / others.sum(-1, keepdims=True)], axis=-1)


def _shares(
    right: FloatArray, n: IntArray, blank: IntArray, yes: NDArray[np.bool_], *, reject: bool
) -> tuple[FloatArray, FloatArray]:
    """Shares that show the target among all pictures and among the assessed ones, float64 [..., groups].

    ``right``: [..., groups, bands], how many do.
    """
    retrieved = np.asarray(right.sum(-1) / n.sum(1))
    if not reject:
        return retrieved, retrieved
    stay = n[:, yes].sum(1) + blank
    left = right[..., yes].sum(-1) + blank * retrieved
    return retrieved, np.divide(left, stay, out=np.full(left.shape, np.nan), where=stay > 0)
