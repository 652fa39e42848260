"""Adaptive sampling against 100 pictures a group, on simulated audits. Run: python benchmarks/adaptive.py [audits]

24 attributes of 2 to 5 values, as in the tests of the fixed design. ``planted``: 5 attributes have one value that is 0.30 worse.
``pool``: every attribute divides one and the same set of pictures, so that all e-processes hang together.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np

from runner.data.places import Place
from runner.nodes.bias.assess import Rules, assess_groups
from runner.nodes.bias.grid import GroupCounts, GroupName
from runner.nodes.bias.sampling import Policy, Sampler
from runner.nodes.bias.sequential import confidence_sequence, e_adjusted

ATTRIBUTES, FIXED, MOST, PLANTED, GAP = 24, 100, 200, (0, 5, 10, 15, 20), 0.3
VALUES = [2 + a % 4 for a in range(ATTRIBUTES)]


class Audit(NamedTuple):
    """Verdicts by (attribute, value): +1 favoured, -1 disfavoured; true phi; share of the fixed design's pictures; coverage."""

    found: dict[tuple[str, str], int]
    phi: dict[tuple[str, str], float]
    spent: float
    covered: float


def truth(accuracy: float, planted: tuple[int, ...]) -> list[np.ndarray]:
    """True accuracies, one array an attribute."""
    rates = [np.full(m, accuracy) for m in VALUES]
    for attribute in planted:
        rates[attribute][0] -= GAP
    return rates


def gaps(rates: list[np.ndarray]) -> dict[tuple[str, str], float]:
    """True phi by (attribute, value)."""
    phi = [p - (p.sum() - p) / (len(p) - 1) for p in rates]
    return {(f"a{a}", f"v{v}"): float(g) for a, row in enumerate(phi) for v, g in enumerate(row)}


def adaptive(rates: list[np.ndarray], seed: int, policy: Policy, *, pool: bool = False) -> Audit:
    """One audit by rounds; with ``pool`` (no bias) attribute a divides the same pictures into its values."""
    rng = np.random.default_rng(seed)
    answers: dict[Place, bool] = {}
    groups: dict[GroupName, list[Place]] = {}
    if pool:
        shots = [Place("s", str(i)) for i in range(MOST * 3)]
        answers = dict(zip(shots, (rng.random(len(shots)) < rates[0][0]).tolist(), strict=True))
    for a, row in enumerate(rates):
        value = rng.integers(0, len(row), MOST * 3)
        for v, p in enumerate(row):
            places = [s for s, own in zip(shots, value, strict=True) if own == v] if pool else [
                Place(f"{a}/{v}", str(i)) for i in range(MOST)]  # fmt: skip
            if not pool:
                answers |= dict(zip(places, (rng.random(MOST) < p).tolist(), strict=True))
            groups[GroupName("cat", f"a{a}", f"v{v}")] = places
    sampler = Sampler(groups, policy)
    seen: set[Place] = set()
    while wanted := sampler.requests():
        seen.update(place for places in wanted.values() for place in places)
        sampler.record(lambda _, place: answers[place])
    return _outcome(sampler, gaps(rates), policy, len(seen) / (len(answers) if pool else FIXED * sum(VALUES)))


def _outcome(sampler: Sampler, phi: dict[tuple[str, str], float], policy: Policy, spent: float) -> Audit:
    trials, said = sampler.trials(), sampler.answered()
    names = list(trials)
    q = e_adjusted([trials[n].log_e for n in names])
    acc = {n: np.mean(said[n]) for n in names}
    found = {}
    for name, level in zip(names, q, strict=True):
        others = np.mean([acc[o] for o in names if o.scope == name.scope and o != name])
        if level <= policy.alpha and abs(acc[name] - others) > policy.threshold:
            found[name.attribute, name.value] = int(np.sign(acc[name] - others))
    inside = [trials[n].phi_low <= phi[n.attribute, n.value] <= trials[n].phi_high for n in names]
    return Audit(found, phi, spent, float(np.mean(inside)))


def fixed(rates: list[np.ndarray], seed: int, images: int = FIXED) -> Audit:
    """One audit of the same number of pictures in every group: Fisher's test and Benjamini-Hochberg."""
    rng = np.random.default_rng(seed)
    groups = [
        GroupCounts(GroupName("cat", f"a{a}", f"v{v}"), ((int(rng.binomial(images, p)), images),), 0.3)
        for a, row in enumerate(rates)
        for v, p in enumerate(row)
    ]
    rows = assess_groups(groups, Rules()).groups
    sign = {"favoured": 1, "disfavoured": -1}
    found = {(r["attribute"], r["value"]): sign[r["verdict"]] for r in rows if r["verdict"] in sign}
    phi = gaps(rates)
    inside = [r["phi_low"] <= phi[r["attribute"], r["value"]] <= r["phi_high"] for r in rows]
    return Audit(found, phi, images / FIXED, float(np.mean(inside)))


def figures(audits: list[Audit], planted: tuple[int, ...]) -> dict[str, float]:
    """Recall of the planted values, precision, audits with a false verdict, share of the fixed design's pictures, coverage."""
    false = [sum(s * np.sign(a.phi[n]) <= 0 or abs(a.phi[n]) < 1e-9 for n, s in a.found.items()) for a in audits]
    hits = [sum(a.found.get((f"a{i}", "v0")) == -1 for i in planted) for a in audits]
    total = sum(len(a.found) for a in audits)
    return {
        "recall": sum(hits) / (len(planted) * len(audits)) if planted else float("nan"),
        "precision": 1 - sum(false) / total if total else float("nan"),
        "false": sum(f > 0 for f in false) / len(audits),
        "spent": float(np.mean([a.spent for a in audits])),
        "most": max(a.spent for a in audits),
        "covered": float(np.mean([a.covered for a in audits])),
    }


def uniform_coverage(sequences: int = 2000, length: int = 1000) -> float:
    """Worst share, over accuracies, of sequences that ever leave their 95 % confidence sequence."""
    rng, worst = np.random.default_rng(0), 0.0
    n = np.arange(1, length + 1)
    for p in (0.5, 0.8, 0.95):
        k = (rng.random((sequences, length)) < p).cumsum(1)
        low, high = confidence_sequence(k, n)
        worst = max(worst, float(((p < low) | (p > high)).any(1).mean()))
    return worst


def main() -> int:
    audits = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"{audits} audits a row; spent, most: share of {FIXED} pictures a group (one pool: of its pictures)")
    good = True
    for planted in ((), PLANTED):
        for accuracy in (0.5, 0.8, 0.95):
            rates = truth(accuracy, planted)
            rows = {"fixed": figures([fixed(rates, s) for s in range(audits)], planted)}
            rows["adaptive"] = figures([adaptive(rates, s, Policy()) for s in range(audits)], planted)
            if not planted:
                rows["one pool"] = figures([adaptive(rates, s, Policy(), pool=True) for s in range(audits)], planted)
            for design, row in rows.items():
                what = f"{len(planted)} planted, accuracy {accuracy:.2f}, {design:8}"
                print(what, *(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
            ours = rows["adaptive"]
            good &= ours["spent"] <= 0.6 and (ours["recall"] >= 0.95 if planted else ours["false"] <= 0.05)
    print(f"ever outside the 95 % confidence sequence in 1,000 looks: {uniform_coverage():.3f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
