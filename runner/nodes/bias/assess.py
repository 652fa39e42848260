"""From counted groups to the rows of the audit: groups, attributes, and values pooled over targets. Pure, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.naming import normalised
from runner.nodes.bias.grid import Grid, GroupCounts, GroupName, make_grid
from runner.nodes.bias.sampling import Policy, Trial
from runner.nodes.bias.scores import accuracies, bias_scores, flag_exact
from runner.nodes.bias.seeds import seed_of
from runner.nodes.bias.sequential import confidence_sequence, inverse_e
from runner.nodes.bias.statistics import (
    FINDINGS,
    adjust,
    adjust_within,
    caption_bootstrap,
    chi_square_homogeneity,
    cochran_mantel_haenszel,
    contaminated_holds,
    corrected_gap,
    fisher_value_tests,
    impure_holds,
    min_detectable_gap,
    mover_interval,
    permutation_test,
    point_verdicts,
    pooled_others,
    robust_z,
    suspicious_holds,
    verdicts,
    wilson_interval,
)

FloatArray = NDArray[np.float64]
Row = dict[str, Any]
FdrMethod = Literal["bh", "by", "holm", "none"]
FdrScope = Literal["audit", "target", "attribute"]
TargetCheck = Literal["none", "contrast", "verifier"]
Sampling = Literal["fixed", "adaptive"]
Trials = Mapping[GroupName, Trial]

_REASONS = {
    "undefined": "no images, or no other value to compare with",
    "insufficient_data": "fewer than {minimum} images here or in the other values together",
}
_HELD = "its images resemble their captions much less than those of the other values: they may not show the target"
_HELD_IMPURE = "too few of its images, or of those it is compared with, show the target"
_BLIND = "only {precision:.0%} of its images seem to show the target, so a difference could not have been seen"
_HELD_CHECKED = "the gap may vanish once images that do not show the target are left out"
_CAPTIONS_DISAGREE = "its captions disagree: resampling them, the score may as well be zero"


@dataclass(frozen=True)
class Rules:
    """How counts become verdicts. ``paper_mode``: the published rule alone (|phi| > threshold, no tests, no minimum).

    ``min_precision``: a group whose estimated share of images that show the target is smaller gets no verdict.
    ``sampling: adaptive``: pictures by rounds (``sampling.Policy``), e-values in place of Fisher's test.
    """

    threshold: float = 0.05
    alpha: float = 0.05
    min_group_size: int = 10
    fdr: FdrMethod = "bh"
    fdr_scope: FdrScope = "audit"
    confidence: float = 0.95
    permutation: int = 0
    paper_mode: bool = False
    target_check: TargetCheck = "none"
    min_precision: float = 0.7
    seed: int = 0
    sampling: Sampling = "fixed"
    smallest_gap: float = 0.3
    power: float = 0.8
    round_size: int = 5

    def policy(self) -> Policy:
        """The rounds of adaptive sampling under these rules; no group is judged below the smallest size of a verdict."""
        return Policy(
            smallest_gap=self.smallest_gap, power=self.power, alpha=self.alpha, fdr=self.fdr, fdr_scope=self.fdr_scope,
            threshold=self.threshold, round_size=self.round_size, first=max(self.round_size, self.min_group_size),
            confidence=self.confidence,
        )  # fmt: skip


class Assessment(NamedTuple):
    """Rows of ``c2b_group``, ``c2b_attribute_test`` and ``c2b_pooled_test``."""

    groups: list[Row]
    tests: list[Row]
    pooled: list[Row]


def assess_groups(groups: Iterable[GroupCounts], rules: Rules, trials: Trials | None = None) -> Assessment:
    """Score, test and judge all groups of an audit. The order of the groups changes nothing.

    ``trials``: how each group was sampled. Then e-values and anytime-valid intervals stand in place of Fisher's test, Wilson
    and MOVER intervals; p-values that hold for one look alone are left out.
    """
    grid = make_grid(groups)
    if not grid.groups:
        return Assessment([], [], [])
    columns = _group_columns(grid, rules, trials)
    rows = [
        {**grid.groups[i].name._asdict(), **{name: plain(values[i]) for name, values in columns.items()}}
        for i in range(len(grid.groups))
    ]
    tests, pooled = _attribute_rows(grid), _pooled_rows(grid)
    if trials is not None:
        one_look = dict.fromkeys(("chi2_p", "p", "q_bh"))
        tests, pooled = ([{**row, **{c: None for c in one_look if c in row}} for row in t] for t in (tests, pooled))
    return Assessment(rows, tests, pooled)


def _group_columns(grid: Grid, rules: Rules, trials: Trials | None) -> dict[str, NDArray[Any]]:
    k, n = grid.k, grid.n
    k_others, n_others = pooled_others(k, n)
    cells: dict[str, NDArray[Any]] = {"n": n, "k": k, "acc": accuracies(k, n), "phi": bias_scores(k, n)}
    cells["wilson_low"], cells["wilson_high"] = wilson_interval(k, n, rules.confidence)
    cells["phi_low"], cells["phi_high"] = mover_interval(k, n, rules.confidence)
    cells["flag_point"] = flag_exact(k, n, rules.threshold)
    cells["fisher_p"] = fisher_value_tests(k, n)
    cells["boot_low"], cells["boot_high"] = _bootstraps(grid, rules)
    cells["permutation_p"] = _permutations(grid, rules)
    others_acc = np.divide(k_others, n_others, out=np.full(k.shape, np.nan), where=n_others > 0)
    columns = {name: grid.gather(values) for name, values in cells.items()}
    tests = 1 if rules.fdr == "none" else int((~np.isnan(columns["fisher_p"])).sum())
    gap = min_detectable_gap(n, n_others, others_acc, alpha=rules.alpha, tests=tests)
    columns["min_detectable_gap"] = grid.gather(gap)
    if trials is None:
        columns |= _adjusted(grid, columns["permutation_p" if rules.permutation else "fisher_p"], rules)
    else:
        columns |= _anytime(grid, trials, rules)
    columns |= _checked_columns(grid, rules)
    columns["verdict"], columns["verdict_reason"] = _judged(grid, columns, rules)
    return columns


def _anytime(grid: Grid, trials: Trials, rules: Rules) -> dict[str, NDArray[Any]]:
    """What holds although the number of pictures depended on what was seen; the smallest gap that is excluded."""
    ended = [trials[g.name] for g in grid.groups]
    log_e, low, high = (np.array([t[i] for t in ended], np.float64) for i in range(3))
    acc_low, acc_high = confidence_sequence([g.k for g in grid.groups], [g.n for g in grid.groups], rules.confidence)
    unknown = np.full(len(ended), np.nan)
    columns = {
        "wilson_low": acc_low, "wilson_high": acc_high, "phi_low": low, "phi_high": high, "fisher_p": unknown,
        "permutation_p": unknown, "min_detectable_gap": np.maximum(np.abs(low), np.abs(high)), "e_value": np.exp(log_e),
        "stopped": np.array([t.stopped for t in ended], object), "available": np.array([t.available for t in ended]),
    }  # fmt: skip
    # Benjamini-Hochberg on 1/e is e-BH, which needs no independence.
    return columns | _adjusted(grid, inverse_e(log_e), rules)


def _adjusted(grid: Grid, p: FloatArray, rules: Rules) -> dict[str, NDArray[Any]]:
    """Adjusted p-values within each family of tests; a family is the audit, a target or an attribute."""
    families = {
        "audit": np.zeros(len(p), np.int64),
        "target": np.array([g.name.target for g in grid.groups]),
        "attribute": grid.row,
    }[rules.fdr_scope]
    q = {method: adjust_within(p, families, method) for method in ("bh", "by", "holm")}
    chosen = p if rules.fdr == "none" else q[rules.fdr]
    return {"q_value": chosen, "q_bh": q["bh"], "q_by": q["by"], "p_holm": q["holm"]}


def _checked_columns(grid: Grid, rules: Rules) -> dict[str, NDArray[Any]]:
    value_precision = grid.spread([g.checked.value for g in grid.groups])
    phi = bias_scores(grid.k, grid.n)
    pairs = (grid.n > 0).sum(1) == 2
    # With two values the other one's precision is the row's sum minus the own.
    other = np.nansum(np.where(grid.n > 0, value_precision, 0), 1, keepdims=True) - value_precision
    corrected = np.where(pairs[:, None], corrected_gap(phi, value_precision, other), np.nan)
    target_precision = np.array([g.checked.target for g in grid.groups])
    checks = np.where(np.isnan(target_precision), rules.target_check, "verifier")
    return {
        "phi_corrected": grid.gather(corrected),
        "target_precision": target_precision,
        "value_precision": np.array([g.checked.value for g in grid.groups]),
        "target_check": checks.astype(object),
        "separable": np.array([g.separable for g in grid.groups], object),
        "mean_similarity": np.array([g.mean_similarity for g in grid.groups]),
    }


def _judged(grid: Grid, columns: Mapping[str, NDArray[Any]], rules: Rules) -> tuple[NDArray[Any], NDArray[Any]]:
    k, n = grid.k, grid.n
    if rules.paper_mode:
        found = grid.gather(point_verdicts(k, n, rules.threshold)).astype(object)
        return found, np.array([_REASONS["undefined"] if v == "undefined" else None for v in found], object)
    precision = grid.spread(columns["target_precision"])
    checked = ~np.isnan(precision) | (n == 0)
    suspicious = suspicious_holds(k, n, robust_z(grid.spread(columns["mean_similarity"])), rules.threshold)
    suspicious &= ~checked.all(1, keepdims=True)
    lowest = grid.spread([g.checked.target_low for g in grid.groups])
    contaminated = contaminated_holds(k, n, precision, target_low=lowest, threshold=rules.threshold, alpha=rules.alpha)
    impure = impure_holds(k, n, precision, rules.min_precision, rules.threshold)
    untestable = np.array([g.separable is False for g in grid.groups], np.float64)
    found = grid.gather(
        verdicts(
            k, n, grid.spread(columns["q_value"]),
            threshold=rules.threshold, alpha=rules.alpha, min_group_size=rules.min_group_size,
            hold=suspicious | contaminated | impure,
            untestable=grid.spread(untestable, 0.0), blind=precision < rules.min_precision,
        )
    ).astype(object)  # fmt: skip
    why_held = np.where(grid.gather(contaminated), _HELD_CHECKED, np.where(grid.gather(impure), _HELD_IMPURE, _HELD))
    reasons = _reasons(grid, found, why_held, columns["target_precision"], rules)
    disagree = np.isin(found, FINDINGS) & (columns["boot_low"] <= 0) & (columns["boot_high"] >= 0)
    found[disagree], reasons[disagree] = "no_evidence", _CAPTIONS_DISAGREE
    return found, reasons


def _reasons(
    grid: Grid, found: NDArray[Any], why_held: NDArray[Any], precision: FloatArray, rules: Rules
) -> NDArray[Any]:
    """Why there is no verdict, one entry a group; None where there is one."""

    def reason(i: int) -> str | None:
        if found[i] == "held_back":
            return str(why_held[i])
        if found[i] == "not_testable":
            group = grid.groups[i]
            return group.doubt if group.separable is False else _BLIND.format(precision=precision[i])
        return _REASONS.get(found[i], "").format(minimum=rules.min_group_size) or None

    return np.array([reason(i) for i in range(len(found))], object)


def _bootstraps(grid: Grid, rules: Rules) -> tuple[FloatArray, FloatArray]:
    low, high = np.full(grid.shape, np.nan), np.full(grid.shape, np.nan)
    for row, members in _by_attribute(grid):
        if all(len(g.captions) < 2 for g in members):
            continue
        counts = [np.array(g.captions, np.int64).reshape(-1, 2) for g in members]
        seed = seed_of(rules.seed, "captions", *grid.attributes[row])
        ends = caption_bootstrap(
            [c[:, 0] for c in counts], [c[:, 1] for c in counts], confidence=rules.confidence, seed=seed
        )
        low[row, : len(members)], high[row, : len(members)] = ends
    return low, high


def _permutations(grid: Grid, rules: Rules) -> FloatArray:
    p = np.full(grid.shape, np.nan)
    if rules.permutation:
        for row, name in enumerate(grid.attributes):
            seed = seed_of(rules.seed, "permutation", *name)
            p[row] = permutation_test(grid.k[row], grid.n[row], permutations=rules.permutation, seed=seed)
    return p


def _by_attribute(grid: Grid) -> Iterable[tuple[int, list[GroupCounts]]]:
    members: list[list[GroupCounts]] = [[] for _ in grid.attributes]
    for group, row in zip(grid.groups, grid.row, strict=True):
        members[row].append(group)
    return enumerate(members)


def _attribute_rows(grid: Grid) -> list[Row]:
    statistic, p = chi_square_homogeneity(grid.k, grid.n)
    q = adjust(p, "bh")
    return [
        {
            "target": target, "attribute": attribute, "value_source": source,
            "m": int((grid.n[i] > 0).sum()), "n": int(grid.n[i].sum()),
            "chi2": plain(statistic[i]), "chi2_p": plain(p[i]), "q_bh": plain(q[i]),
        }
        for i, (target, attribute, source) in enumerate(grid.attributes)
    ]  # fmt: skip


def _pooled_rows(grid: Grid) -> list[Row]:
    """Values that several targets share by name (case and spacing aside): the same circumstance, whatever the class."""
    k_others, n_others = (grid.gather(cells) for cells in pooled_others(grid.k, grid.n))
    shared: dict[tuple[str, str, str], list[int]] = {}
    for i, name in enumerate(g.name for g in grid.groups):
        shared.setdefault((normalised(name.attribute), normalised(name.value), name.value_source), []).append(i)
    rows: list[Row] = []
    for (attribute, value, source), places in sorted(shared.items()):
        own = [grid.groups[i] for i in places]
        ratio, p, strata = cochran_mantel_haenszel(
            [g.k for g in own], [g.n for g in own], k_others[places], n_others[places]
        )
        if strata > 1:
            which = {"attribute": attribute, "value": value, "value_source": source, "targets": strata}
            rows.append({**which, "odds_ratio": plain(ratio), "p": p})
    for row, q in zip(rows, adjust([row["p"] for row in rows], "bh"), strict=True):
        row["q_bh"] = float(q)
    return rows


def plain(value: Any) -> Any:
    """A Python scalar for a row; NaN and infinity, which SQL compares badly, become None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
