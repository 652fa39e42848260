"""How good a verifier is, and what its answers say about a group of pictures. Pure numpy float64, no I/O.

A verifier says yes or no to "does the picture show the target?". Its sensitivity Se (share of yes among pictures that show
it) and specificity Sp (share of no among the others) are estimated on labelled pictures that no audit uses. From these and
the answers in a group follows the share q of the group's pictures that show the target.

Se and Sp hold for wrong pictures like those of the calibration: where those of a group are all of one class that the verifier
confuses with the target, this q comes out too high. Hence a verifier that gives scores, tried on three or more classes, is
judged by ``mixture``, which knows the classes apart; ``group_precision`` serves the others.

A limit of both: where the verifier shares its weights or its training with the audited classifier, both err on the same
pictures, and refusing what the verifier does not recognise hides the classifier's errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.bias.mixture import Confusion, Precisions, mixture_precision
from runner.nodes.intervals import wilson_interval

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Row = dict[str, Any]

DRAWS = 4000
MIN_YOUDEN = 0.2
# Groups whose draws are in memory together: 500 x 4000 float64 are 16 MB an array.
_BLOCK = 500


class Quality(NamedTuple):
    """Sensitivity and specificity as found on ``positives`` and ``negatives`` pictures; NaN where there were none.

    Counts of None mean that both rates are known exactly. ``confusion``: how its scores are spread in each class of the
    calibration; None for a verifier without scores, or tried on the target and one other class.
    """

    sensitivity: float
    specificity: float
    positives: int | None = None
    negatives: int | None = None
    confusion: Confusion | None = None


UNKNOWN = Quality(float("nan"), float("nan"), 0, 0)


def group_precision(
    said_yes: ArrayLike,
    said_no: ArrayLike,
    sensitivity: ArrayLike,
    specificity: ArrayLike,
    *,
    positives: ArrayLike | None = None,
    negatives: ArrayLike | None = None,
    unanswered: ArrayLike = 0,
    reject: bool = True,
    confidence: float = 0.95,
) -> Precisions:
    """Estimated shares of each group's pictures that show the target; arguments broadcast to the groups.

    ``retrieved``: q = (yes rate + Sp - 1) / (Se + Sp - 1), clipped to [0, 1]; source: Rogan & Gladen (1978).
    ``target``: with ``reject`` the pictures that were refused are gone, so that among the accepted ones
    Se q / (Se q + (1 - Sp)(1 - q)) show it (Bayes); ``unanswered`` pictures count nowhere in q, but stay in the group with
    share q. Without ``reject`` it is q.
    Intervals are quantiles over ``DRAWS`` draws of the yes rate, Se and Sp from their Jeffreys posteriors (Beta with a half
    added to each count), so they carry the uncertainty of the calibration. ``positives``, ``negatives``: number of pictures
    that Se and Sp were found on; None = known exactly. NaN where a group has no answer, Se or Sp is NaN, or Se + Sp <= 1.
    Raises ValueError for negative counts and rates outside [0, 1].
    """
    yes, no, blank, se, sp = (
        np.asarray(a, np.float64) for a in np.broadcast_arrays(said_yes, said_no, unanswered, sensitivity, specificity)
    )
    _check_answers(yes, no, blank, se, sp)
    point = _shares(_rate(yes, yes + no), se, sp, yes, blank, reject=reject)
    rng = np.random.default_rng(0)
    rate = _drawn(rng, _rate(yes, yes + no), yes + no)
    drawn_se, drawn_sp = _drawn(rng, se, positives), _drawn(rng, sp, negatives)
    draws = _shares(rate, drawn_se, drawn_sp, yes, blank, reject=reject)
    (low, high), (target_low, target_high) = (
        _ends(drawn, share, confidence) for drawn, share in zip(draws, point, strict=True)
    )
    return Precisions(point[0], low, high, point[1], target_low, target_high)


def _ends(draws: FloatArray, point: FloatArray, confidence: float) -> FloatArray:
    """Equal-tailed interval [2, *groups] of the draws; NaN where the point estimate is."""
    # A draw of a verifier that says nothing allows anything: such draws widen the interval to both sides.
    anything = (np.arange(len(draws)) % 2).reshape(-1, *(1,) * point.ndim)
    tail = (1 - confidence) / 2
    ends = np.quantile(np.where(np.isnan(draws), anything, draws), [tail, 1 - tail], axis=0)
    return np.asarray(np.where(np.isnan(point), np.nan, ends))


def _check_answers(yes: FloatArray, no: FloatArray, blank: FloatArray, se: FloatArray, sp: FloatArray) -> None:
    if min(np.min(counts, initial=0) for counts in (yes, no, blank)) < 0:
        raise ValueError("numbers of answers cannot be negative")
    if any(np.any((rate < 0) | (rate > 1)) for rate in (se, sp)):
        raise ValueError("sensitivity and specificity lie in [0, 1]")


def _rate(part: FloatArray, whole: FloatArray) -> FloatArray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0))


def _drawn(rng: np.random.Generator, rate: FloatArray, trials: ArrayLike | None) -> FloatArray:
    """``DRAWS`` draws of a rate found in ``trials``, float64 [DRAWS, *groups]; NaN where it is not known."""
    if trials is None:
        return np.broadcast_to(rate, (DRAWS, *rate.shape))
    n = np.broadcast_to(np.asarray(trials, np.float64), rate.shape)
    known = ~np.isnan(rate)
    k = np.where(known, rate, 0.5) * n
    return np.where(known, rng.beta(k + 0.5, n - k + 0.5, (DRAWS, *rate.shape)), np.nan)


def _shares(
    rate: FloatArray, se: FloatArray, sp: FloatArray, yes: FloatArray, blank: FloatArray, *, reject: bool
) -> tuple[FloatArray, FloatArray]:
    """Shares that show the target among all pictures and among the assessed ones. NaN where Se + Sp <= 1."""
    youden = se + sp - 1
    usable = youden > 0
    q = np.clip(np.divide(rate + sp - 1, youden, out=np.full(np.shape(rate), np.nan), where=usable), 0.0, 1.0)
    if not reject:
        return q, q
    right, wrong = se * q, (1 - sp) * (1 - q)
    accepted = np.divide(right, right + wrong, out=np.zeros(np.shape(rate)), where=right + wrong > 0)
    stay = yes + blank
    mixed = _rate(np.where(yes > 0, yes * accepted, 0) + np.where(blank > 0, blank * q, 0), stay)
    return q, np.where(np.isnan(q), np.nan, mixed)


class Answers(NamedTuple):
    """What the verifier said about one group's pictures; ``attribute`` and ``value`` are None for neutral pictures.

    ``scores``: of the pictures that it answered for, where it gives scores.
    """

    target: str
    attribute: str | None
    value: str | None
    value_source: str
    said_yes: int
    said_no: int
    unanswered: int
    value_images: int = 0
    value_right: int = 0
    scores: tuple[float, ...] = ()


def precision_rows(
    groups: Iterable[Answers], qualities: Mapping[str, Quality], *, reject: bool, confidence: float = 0.95
) -> list[Row]:
    """Rows of ``c2b_precision``; a target without a known quality has NULL shares.

    ``reject``: whether refused pictures are left out of the assessment. ``qualities``: by target, see ``quality_of``. Groups
    of a target whose quality has a ``confusion`` are judged as mixtures, others by Rogan and Gladen; ``method`` says which.
    """
    listed = list(groups)
    rows: list[Row] = [{}] * len(listed)
    by_target: dict[str | None, list[int]] = {}
    for i, group in enumerate(listed):
        quality = qualities.get(group.target, UNKNOWN)
        by_target.setdefault(group.target if _has_scores(group, quality) else None, []).append(i)
    for target, numbers in by_target.items():
        own = [listed[i] for i in numbers]
        if target is None:
            made = _rogan_gladen_rows(own, qualities, reject, confidence)
        else:
            made = _mixture_rows(own, qualities[target].confusion, reject, confidence)
        for i, row in zip(numbers, made, strict=True):
            rows[i] = row
    return rows


def _has_scores(group: Answers, quality: Quality) -> bool:
    return quality.confusion is not None and 0 < len(group.scores) == group.said_yes + group.said_no


def _mixture_rows(listed: list[Answers], confusion: Confusion | None, reject: bool, confidence: float) -> list[Row]:
    if confusion is None:
        return []
    counts = [confusion.tally(group.scores) for group in listed]
    blank = [group.unanswered for group in listed]
    found = mixture_precision(counts, confusion, unanswered=blank, reject=reject, confidence=confidence)
    return _rows(listed, found, "mixture")


def _rogan_gladen_rows(
    listed: list[Answers], qualities: Mapping[str, Quality], reject: bool, confidence: float
) -> list[Row]:
    blocks = [listed[i : i + _BLOCK] for i in range(0, len(listed), _BLOCK)]
    return [row for block in blocks for row in _block_rows(block, qualities, reject, confidence)]


def _block_rows(listed: list[Answers], qualities: Mapping[str, Quality], reject: bool, confidence: float) -> list[Row]:
    known = [qualities.get(g.target, UNKNOWN) for g in listed]
    columns = np.array([(g.said_yes, g.said_no, g.unanswered, q.sensitivity, q.specificity, *_trials(q))
                        for g, q in zip(listed, known, strict=True)], np.float64).reshape(-1, 7).T  # fmt: skip
    yes, no, blank, se, sp, positives, negatives = columns
    found = group_precision(
        yes,
        no,
        se,
        sp,
        positives=positives,
        negatives=negatives,
        unanswered=blank,
        reject=reject,
        confidence=confidence,
    )
    return _rows(listed, found, "rogan_gladen")


def _rows(listed: list[Answers], found: Precisions, method: str) -> list[Row]:
    return [
        _precision_row(group, shares, method) for group, shares in zip(listed, zip(*found, strict=True), strict=True)
    ]


def _trials(quality: Quality) -> tuple[float, float]:
    """Calibration counts; rates known exactly count as if from very many pictures."""
    exact = 1e9
    return (
        exact if quality.positives is None else quality.positives,
        exact if quality.negatives is None else quality.negatives,
    )


def _precision_row(group: Answers, shares: tuple[float, ...], method: str) -> Row:
    retrieved, low, high, target, target_low, target_high = (None if np.isnan(s) else float(s) for s in shares)
    judged = group.value_images
    return {
        "target": group.target, "attribute": group.attribute, "value": group.value,
        "value_source": group.value_source,
        "images": group.said_yes + group.said_no + group.unanswered,
        "said_yes": group.said_yes, "said_no": group.said_no,
        "retrieved_precision": retrieved, "retrieved_low": low, "retrieved_high": high,
        "method": None if retrieved is None else method,
        "target_precision": target, "target_low": target_low, "target_high": target_high,
        "value_images": judged, "value_precision": group.value_right / judged if judged else None,
    }  # fmt: skip


def quality_of(row: Mapping[str, Any]) -> Quality:
    """The quality in a row of ``c2b_verifier``; unknown where its answers are not used or it was not calibrated."""
    if not row["usable"] or row["sensitivity"] is None or row["specificity"] is None:
        return UNKNOWN
    confusion = row.get("confusion")
    known = None if confusion is None else Confusion.from_json(confusion)
    return Quality(row["sensitivity"], row["specificity"], row["positives"], row["negatives"], known)


# --- calibration -----------------------------------------------------------------------------------------------------


def youden_threshold(score: ArrayLike, shows: ArrayLike) -> float:
    """The threshold t for which "yes where score >= t" has the largest J = Se + Sp - 1; NaN without both kinds.

    ``score``: float [n]; ``shows``: bool [n], whether the picture shows the target. t lies half-way between two neighbouring
    scores; of equally good ones the lowest is taken, which refuses the fewest. Source: Youden (1950).
    """
    values, truth = np.asarray(score, np.float64), np.asarray(shows, bool)
    if truth.all() or not truth.any():
        return float("nan")
    order = np.argsort(values, kind="stable")
    ranked, positive = values[order], truth[order]
    # Cut i refuses the i lowest; a cut between equal scores cannot be made.
    refused_right = np.concatenate([[0], np.cumsum(~positive)]) / (~truth).sum()
    refused_wrong = np.concatenate([[0], np.cumsum(positive)]) / truth.sum()
    possible = np.concatenate([[True], ranked[1:] > ranked[:-1], [False]])
    best = int(np.argmax(np.where(possible, refused_right - refused_wrong, -np.inf)))
    return float(ranked[0] if best == 0 else (ranked[best - 1] + ranked[best]) / 2)


def held_out_answers(score: ArrayLike, shows: ArrayLike, *, folds: int = 5, seed: int = 0) -> BoolArray:
    """Yes or no for each calibration picture, with a threshold chosen on the other folds; bool [n].

    Se and Sp of a threshold on the pictures that chose it are too good. Folds hold equal shares of both kinds.
    """
    values, truth = np.asarray(score, np.float64), np.asarray(shows, bool)
    rng = np.random.default_rng(seed)
    fold = np.empty(len(truth), np.int64)
    for kind in (True, False):
        here = rng.permutation(np.flatnonzero(truth == kind))
        fold[here] = np.arange(len(here)) % folds
    said = np.zeros(len(truth), bool)
    for i in range(folds):
        others = fold != i
        said[~others] = values[~others] >= youden_threshold(values[others], truth[others])
    return said


def quality_row(answers: ArrayLike, shows: ArrayLike, *, confidence: float = 0.95) -> Row:
    """Sensitivity and specificity with Wilson intervals as columns of ``c2b_verifier``; NULL without such pictures.

    ``answers``: bool [n], the verifier's yes or no; ``shows``: bool [n], the truth.
    """
    said, truth = np.asarray(answers, bool), np.asarray(shows, bool)
    counts = {"sensitivity": (said[truth].sum(), truth.sum()), "specificity": ((~said)[~truth].sum(), (~truth).sum())}
    row: Row = {"positives": int(truth.sum()), "negatives": int((~truth).sum())}
    for name, (k, n) in counts.items():
        low, high = wilson_interval(k, n, confidence)
        ends = (k / n, low, high) if n else (None, None, None)
        row |= {
            f"{name}{end}": None if x is None else float(x) for end, x in zip(("", "_low", "_high"), ends, strict=True)
        }
    return row


def youden_low(row: Mapping[str, Any]) -> float | None:
    """Lower end of an interval of J = Se + Sp - 1 from the Wilson limits of both rates; None where one is not known.

    Limits of a sum of two independent proportions: the squared distances add. Source: Newcombe (1998), method 10.
    """
    if row["sensitivity"] is None or row["specificity"] is None:
        return None
    gaps = [row[name] - row[f"{name}_low"] for name in ("sensitivity", "specificity")]
    return float(row["sensitivity"] + row["specificity"] - 1 - np.hypot(*gaps))
