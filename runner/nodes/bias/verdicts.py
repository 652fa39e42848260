"""From scores, tests and doubts to one verdict per group. Pure numpy."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.nodes.bias.scores import bias_scores, checked_counts, flag_exact
from runner.nodes.significance import fisher_value_tests, pooled_others

Verdict = Literal[
    "favoured", "disfavoured", "no_evidence", "not_testable", "insufficient_data", "undefined", "held_back"
]
Threshold = float | str | Fraction | Decimal

FINDINGS = ("favoured", "disfavoured")
# A group this many robust standard deviations less similar to its captions than its siblings is not believed.
SUSPICIOUS_Z = -2.0


def verdicts(
    correct: ArrayLike,
    total: ArrayLike,
    q: ArrayLike,
    *,
    threshold: Threshold = 0.05,
    alpha: float = 0.05,
    min_group_size: int = 10,
    hold: ArrayLike | None = None,
    untestable: ArrayLike | None = None,
    blind: ArrayLike | None = None,
) -> NDArray[Any]:
    """Verdict per value (array of str, [..., values]); the first that fits counts:

    - ``undefined``: phi is undefined (empty group, or nothing to compare with);
    - ``not_testable`` where ``untestable`` says that the images do not tell the values apart, whatever was counted;
    - ``insufficient_data``: the group or the pooled others hold fewer than ``min_group_size`` images;
    - ``favoured`` / ``disfavoured``: |phi| > ``threshold`` in exact fractions *and* the adjusted p-value ``q`` <= ``alpha``;
      ``held_back`` instead where ``hold`` says that the images may not show what they should;
    - ``not_testable`` where ``blind`` says that a difference could not have been seen;
    - ``no_evidence``: at this sample size; never "no bias".
    """
    k, n = checked_counts(correct, total)
    _, n_others = pooled_others(k, n)
    adjusted = np.asarray(q, np.float64)
    finding = flag_exact(k, n, threshold) & (adjusted <= alpha)
    held, without, unseen = (
        np.zeros(n.shape, bool) if mask is None else np.asarray(mask, bool) for mask in (hold, untestable, blind)
    )
    small = (n < min_group_size) | (n_others < min_group_size)
    phi = bias_scores(k, n)
    return np.select(
        [np.isnan(phi), without, small, finding & held, finding & (phi > 0), finding, unseen],
        ["undefined", "not_testable", "insufficient_data", "held_back", "favoured", "disfavoured", "not_testable"],
        "no_evidence",
    )


def point_verdicts(correct: ArrayLike, total: ArrayLike, threshold: Threshold = 0.05) -> NDArray[Any]:
    """Verdicts by the paper's rule alone: |phi| strictly above ``threshold``, whatever the sample size."""
    k, n = checked_counts(correct, total)
    phi, flag = bias_scores(k, n), flag_exact(correct, total, threshold)
    return np.select([np.isnan(phi), flag & (phi > 0), flag], ["undefined", "favoured", "disfavoured"], "no_evidence")


def suspicious_holds(
    correct: ArrayLike, total: ArrayLike, z: ArrayLike, threshold: Threshold = 0.05
) -> NDArray[np.bool_]:
    """Which findings rest on groups whose images may not show the target (similarity ``z`` < -2); all [attributes, values].

    Held back are the suspicious groups where they are disfavoured, and other groups of the attribute where the gap vanishes
    or turns once the suspicious ones are left out.
    """
    k, n = checked_counts(correct, total)
    doubtful = np.asarray(z, np.float64) < SUSPICIOUS_Z
    phi = bias_scores(k, n)
    kept_k, kept_n = np.where(doubtful, 0, k), np.where(doubtful, 0, n)
    without = bias_scores(kept_k, kept_n)
    stands = flag_exact(kept_k, kept_n, threshold) & (np.sign(without) == np.sign(phi))
    affected = doubtful.any(-1, keepdims=True)
    return np.asarray((doubtful & (phi < 0)) | (affected & ~doubtful & ~stands))


def impure_holds(
    correct: ArrayLike, total: ArrayLike, target_precision: ArrayLike, floor: float, threshold: Threshold = 0.05
) -> NDArray[np.bool_]:
    """Which findings rest on groups with an estimated target precision below ``floor``; all [attributes, values].

    These groups themselves, and other groups of the attribute where the gap vanishes or turns once they are left out.
    NaN: not checked, so not below.
    """
    k, n = checked_counts(correct, total)
    impure = np.asarray(target_precision, np.float64) < floor
    kept_k, kept_n = np.where(impure, 0, k), np.where(impure, 0, n)
    without = bias_scores(kept_k, kept_n)
    stands = flag_exact(kept_k, kept_n, threshold) & (np.sign(without) == np.sign(bias_scores(k, n)))
    return np.asarray(impure | (impure.any(-1, keepdims=True) & ~stands))


def contaminated_holds(
    correct: ArrayLike,
    total: ArrayLike,
    target_precision: ArrayLike,
    *,
    target_low: ArrayLike | None = None,
    threshold: Threshold = 0.05,
    alpha: float = 0.05,
) -> NDArray[np.bool_]:
    """Which gaps do not survive when only the images that show the target are counted; all [..., values].

    ``target_precision`` q: estimated share of a group's images that show the target; NaN counts as 1. About q n images show
    it, and all right answers are taken to lie among them (a picture of something else called the target is rare). The side
    that is worse is given the benefit of the doubt: its share is taken at ``target_low``, the lower end of q's interval
    (default and NaN: q itself). A gap stands if it is still above ``threshold`` with an unadjusted Fisher p <= ``alpha`` and
    has kept its sign.
    """
    k, n = checked_counts(correct, total)
    q = np.nan_to_num(np.asarray(target_precision, np.float64), nan=1.0)
    low = q if target_low is None else np.asarray(target_low, np.float64)
    low = np.where(np.isnan(low), q, np.minimum(low, q))
    phi = bias_scores(k, n)
    held = np.zeros(k.shape, bool)
    for value in range(k.shape[-1]):
        own = np.arange(k.shape[-1]) == value
        worse = phi[..., value : value + 1] < 0
        shown = np.clip(np.rint(np.where(own == worse, low, q) * n).astype(np.int64), k, n)
        stands = flag_exact(k, shown, threshold) & (fisher_value_tests(k, shown) <= alpha)
        stands &= np.sign(bias_scores(k, shown)) == np.sign(phi)
        held[..., value] = ~stands[..., value] & (shown < n).any(-1)
    return held
