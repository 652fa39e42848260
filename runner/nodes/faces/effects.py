"""From measured faces and classifiers' answers to rows: associations, and effects of edits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.context import StepContext
from runner.data.places import Place
from runner.errors import DataError
from runner.models.base import Classifier
from runner.nodes.faces import counterfactual as cf
from runner.nodes.faces.measure import MEASURES
from runner.nodes.predicting import predict
from runner.nodes.significance import adjust

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """A classifier on [n] pictures: whether it gives the answer that is counted, and that answer's probability."""

    outcome: BoolArray
    score: FloatArray


def answers(ctx: StepContext, classifier: Classifier, pictures: Sequence[bytes], outcome: str) -> Answers:
    """One pass a distinct picture, kept in the item cache. Raises ``DataError`` for an outcome that is no label."""
    if outcome not in classifier.labels:
        raise DataError(f"{classifier.name} has no label {outcome!r}; it has {', '.join(classifier.labels)}")
    places = [Place("faces", f"{number:06d}") for number in range(len(pictures))]
    found = predict(classifier, zip(places, pictures, strict=True), ctx, total=len(pictures)).logits
    missing = len(places) - len(found)
    if missing:
        raise DataError(f"{missing} of {len(places)} pictures cannot be read")
    logits = np.stack([found[place] for place in places]).astype(np.float64)
    wanted = classifier.labels.index(outcome)
    if classifier.head == "multilabel":
        return Answers(logits[:, wanted] >= 0, 1 / (1 + np.exp(-logits[:, wanted])))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return Answers(logits.argmax(1) == wanted, shares[:, wanted] / shares.sum(1))


def number(value: float) -> float | None:
    """NULL for NaN."""
    return None if math.isnan(value) else float(value)


def column(name: str) -> int:
    """Column of a measure. Raises ``DataError`` for an unknown one."""
    if name not in MEASURES:
        raise DataError(f"nothing called {name!r} is measured on faces", hint=f"measures: {', '.join(MEASURES)}")
    return MEASURES.index(name)


def association_rows(
    by_classifier: Mapping[str, Answers], measured: FloatArray, circumstances: Sequence[str], outcome: str, bins: int
) -> list[Row]:
    """Rows of ``c2b_association``; q over all of them."""
    rows = []
    for circumstance in circumstances:
        values = measured[:, column(circumstance)]
        try:
            edges, index = cf.quantile_bins(values, bins)
        except ValueError as error:
            raise DataError(f"{circumstance!r} is the same on every face, so that it has no bins") from error
        for name, given in by_classifier.items():
            found = cf.associate(given.outcome, index, len(edges) - 1)
            rows += [_bin_row(name, outcome, circumstance, edges, found, j) for j in range(len(edges) - 1)]
    return _with_q(rows, "fisher_p")


def _bin_row(name: str, outcome: str, circumstance: str, edges: FloatArray, found: cf.Association, j: int) -> Row:
    return {
        "classifier": name, "outcome": outcome, "circumstance": circumstance, "bin": j,
        "low_edge": float(edges[j]), "high_edge": float(edges[j + 1]), "n": int(found.n[j]), "k": int(found.k[j]),
        "rate": number(found.rate[j]),
        "wilson_low": number(found.rate_limits[0][j]), "wilson_high": number(found.rate_limits[1][j]),
        "difference": number(found.difference[j]), "difference_low": number(found.difference_limits[0][j]),
        "difference_high": number(found.difference_limits[1][j]), "fisher_p": number(found.fisher_p[j]),
        "gap": number(found.gap[j]), "gap_low": number(found.gap_limits[0][j]), "gap_high": number(found.gap_limits[1][j]),
    }  # fmt: skip


def _with_q(rows: list[Row], p: str) -> list[Row]:
    values = [math.nan if row[p] is None else row[p] for row in rows]
    for row, q in zip(rows, adjust(values) if rows else [], strict=True):
        row["q_bh"] = number(q)
    return rows


# --- pairs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edited:
    """People drawn twice, with ``less`` and ``more`` of one circumstance.

    ``change`` [n, 21]: measure again, more minus less, in standard deviations of the people; ``kept`` [n] and ``reasons``
    from the manipulation check; ``identity`` [n]: cosine of a face descriptor between the two, or None.
    """

    circumstance: str
    kind: str
    uris: list[str]
    less: list[bytes]
    more: list[bytes]
    measured: tuple[FloatArray, FloatArray]
    change: FloatArray
    kept: BoolArray
    reasons: list[str | None]
    wanted_change: float
    step_length: float
    fit: float | None
    identity: FloatArray | None


def checked(
    change: FloatArray, circumstance: str, held: Iterable[str], *, least: float, most: float
) -> tuple[BoolArray, list[str | None]]:
    """The manipulation check in words: (kept [n], why not)."""
    columns = [column(name) for name in held]
    kept, moved, still = cf.manipulated(change[:, column(circumstance)], change[:, columns], least=least, most=most)
    reasons: list[str | None] = []
    for person in range(len(change)):
        others = [MEASURES[c] for c in columns if abs(change[person, c]) > most]
        text = None if moved[person] else f"{circumstance} changed too little"
        reasons.append(text if still[person] or text else f"{', '.join(others)} changed too")
    return kept, reasons


def effect_row(edited: Edited, name: str, outcome: str, less: Answers, more: Answers) -> Row:
    """One row of ``c2b_counterfactual``, from the pairs that were kept."""
    kept = edited.kept
    table = cf.paired_table(less.outcome[kept], more.outcome[kept])
    effect = cf.paired_effect(table)
    score = cf.mean_change(less.score[kept], more.score[kept])
    zero = np.zeros(int(kept.sum()))
    means = {m: cf.mean_change(zero, edited.change[kept, j]) for j, m in enumerate(MEASURES)}
    moved = means.pop(edited.circumstance)
    side = {m: [None if math.isnan(v) else round(v, 4) for v in mean] for m, mean in means.items()}
    cosine = math.nan if edited.identity is None or not kept.any() else float(edited.identity[kept].mean())
    return {
        "classifier": name, "outcome": outcome, "circumstance": edited.circumstance, "kind": edited.kind,
        "people": len(kept), "pairs": table.pairs, "both_yes": table.both, "gained": table.gained, "lost": table.lost,
        "neither": table.neither, "effect": number(effect.effect), "low": number(effect.low),
        "high": number(effect.high), "mcnemar_p": number(effect.p), "score_change": number(score.mean),
        "score_low": number(float(np.maximum(score.low, -1))), "score_high": number(float(np.minimum(score.high, 1))), "wanted_change": edited.wanted_change,
        "measured_change": number(moved.mean), "measured_low": number(moved.low), "measured_high": number(moved.high),
        "side_effects": json.dumps(side), "fit": edited.fit, "step_length": edited.step_length,
        "identity_cosine": number(cosine),
    }  # fmt: skip


def with_q(rows: list[Row]) -> list[Row]:
    """q over the edits; a placebo is no test of the audit."""
    _with_q([row for row in rows if row["kind"] == "edit"], "mcnemar_p")
    return rows


def pair_rows(edited: Edited, name: str, less: Answers, more: Answers, shown: int) -> list[Row]:
    """Rows of ``c2b_pair``; ``shown`` flipped and as many unflipped kept people carry their two thumbnails."""
    from runner.nodes.faces.studio import small

    j = column(edited.circumstance)
    flipped = less.outcome != more.outcome
    with_pictures = set()
    for group in (edited.kept & flipped, edited.kept & ~flipped):
        with_pictures |= set(np.flatnonzero(group)[:shown].tolist())
    rows = []
    for i, uri in enumerate(edited.uris):
        pictured = i in with_pictures and edited.kind == "edit"
        rows.append({
            "classifier": name, "circumstance": edited.circumstance, "kind": edited.kind, "uri": uri,
            "measured_less": number(edited.measured[0][i, j]), "measured_more": number(edited.measured[1][i, j]),
            "kept": bool(edited.kept[i]), "reason": edited.reasons[i], "outcome_less": bool(less.outcome[i]),
            "outcome_more": bool(more.outcome[i]), "score_less": float(less.score[i]), "score_more": float(more.score[i]),
            "identity_cosine": None if edited.identity is None else float(edited.identity[i]),
            "thumbnail_less": small(edited.less[i]) if pictured else None,
            "thumbnail_more": small(edited.more[i]) if pictured else None,
        })  # fmt: skip
    return rows
