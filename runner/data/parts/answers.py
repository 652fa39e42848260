"""Answers about pictures with one part hidden: one row a view and concept, whoever gave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.artifacts import ConceptAnswers

if TYPE_CHECKING:
    from runner.artifacts import MaskedPictures

Reasons = Mapping[str, str] | Mapping[tuple[str, int], str]
"""Why there is no answer, by uri, or by uri and number of the concept."""


def answers_of(
    pictures: MaskedPictures,
    predictor: Mapping[str, Any],
    concepts: Sequence[str],
    values: Mapping[str, NDArray[np.float64]],
    reasons: Reasons,
    *,
    only: frozenset[str] | None = None,
) -> ConceptAnswers:
    """One row a view and concept. ``values``: by uri float64 [concepts] in 0..1, NaN where there is none; ``predictor``: as in
    ``ConceptAnswers``; ``only``: the pictures (sample_id) that were looked at, None = all."""
    from results.tables import arrow_schema

    rows: list[dict[str, Any]] = pictures.views.to_pylist()
    views = [row for row in rows if only is None or row["sample_id"] in only]
    count, nothing = len(concepts), np.full(len(concepts), np.nan)
    told = np.stack([values.get(view["uri"], nothing) for view in views]) if views else np.zeros((0, count))
    missing = np.isnan(told)
    why = np.full(told.shape, None, object)
    for i, a in np.argwhere(missing).tolist():
        why[i, a] = _reason(reasons, views[i]["uri"], a)
    columns: dict[str, Any] = {
        "dataset": [pictures.about["dataset"]] * told.size, "predictor": [predictor["name"]] * told.size,
        "concept": [*concepts] * len(views), "value": pa.array(told.ravel(), mask=missing.ravel()), "reason": why.ravel(),
        **{name: np.array([view[name] for view in views], object).repeat(count) for name in ("sample_id", "masked_part", "draw")},
    }  # fmt: skip
    schema = arrow_schema("leak_masked_answer")
    table = pa.table({name: columns[name] for name in schema.names}, schema)
    return ConceptAnswers(pictures.about, pictures.settings, dict(predictor), table, pictures.visible, pictures.truth)


def _reason(reasons: Any, uri: str, concept: int) -> str:
    return str(reasons.get((uri, concept)) or reasons.get(uri) or "no answer")
