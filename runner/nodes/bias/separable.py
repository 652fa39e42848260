"""What the separability test looks at, gathered from retrieved pictures, their measurements and the index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.artifacts import ImageIndex, MeasuredGroups, RetrievedImages
from runner.data.places import Place
from runner.errors import DataError
from runner.models.base import ImageTextEncoder
from runner.nodes.bias.measures import MEASURES
from runner.nodes.bias.separability import Attribute, Nearest

Row = dict[str, Any]
FloatArray = NDArray[np.float64]
Similarities = Callable[[Sequence[str], Sequence[int]], FloatArray]
"""Texts and rows of the index to cosines float64 [texts, rows]."""


class _Scope(NamedTuple):
    """The captions of one attribute of one target, by value, and the target's neutral ones."""

    target: str
    attribute: str
    captions: Mapping[str, list[Row]]
    neutral: list[Row]


def attributes_of(
    images: RetrievedImages, measured: MeasuredGroups | None = None, similar: Similarities | None = None
) -> list[Attribute]:
    """One entry for each attribute of each target, from the first draw of the proposals."""
    candidates: dict[str, list[Row]] = {}
    for row in images.retrieval.to_pylist():
        candidates.setdefault(row["caption_id"], []).append(row)
    for rows in candidates.values():
        rows.sort(key=lambda row: row["rank"])
    orders = _orders(measured)
    taken = _taken(measured)
    return [
        _attribute(scope, candidates, orders.get((scope.target, scope.attribute)), taken, similar)
        for scope in _scopes(images.captions.to_pylist())
    ]


def _scopes(captions: Iterable[Row]) -> list[_Scope]:
    scopes: dict[tuple[str, str], dict[str, list[Row]]] = {}
    neutral: dict[str, list[Row]] = {}
    for c in captions:
        if c["resample"]:
            continue
        if c["attribute"] is None:
            neutral.setdefault(c["target"], []).append(c)
        else:
            scopes.setdefault((c["target"], c["attribute"]), {}).setdefault(c["value"], []).append(c)
    return [_Scope(t, a, values, neutral.get(t, [])) for (t, a), values in sorted(scopes.items())]


def _attribute(
    scope: _Scope,
    candidates: Mapping[str, list[Row]],
    order: list[Row] | None,
    taken: Mapping[tuple[str, Place], Any],
    similar: Similarities | None,
) -> Attribute:
    everything = [*scope.neutral, *(c for captions in scope.captions.values() for c in captions)]
    pool = {_place(row): row for c in everything for row in candidates.get(c["caption_id"], ())}
    number = {place: i for i, place in enumerate(sorted(pool))}
    ranked = all(row["similarity"] is not None for row in pool.values())

    def nearest(captions: Iterable[Row]) -> Nearest:
        lists = (candidates.get(c["caption_id"], ()) for c in captions)
        return Nearest(tuple(np.array([number[_place(row)] for row in rows], np.int64) for rows in lists if ranked))

    rows = [pool[place]["row"] for place in number]
    similarity = {}
    if similar is not None and ranked and None not in rows:
        similarity = {v: similar([c["text"] for c in captions], rows) for v, captions in scope.captions.items()}
    measure = order[0]["measure"] if order else None
    measured, categories = _groups_measured(scope, candidates, order or [], taken)
    return Attribute(
        scope.target, scope.attribute, {v: nearest(captions) for v, captions in scope.captions.items()},
        (nearest(scope.neutral),), similarity, measure, measured, categories,
    )  # fmt: skip


def _groups_measured(
    scope: _Scope, candidates: Mapping[str, list[Row]], order: list[Row], taken: Mapping[tuple[str, Place], Any]
) -> tuple[dict[str, FloatArray], dict[str, dict[str, FloatArray]]]:
    """Measurements of the kept pictures of each caption group, from the lowest value to the highest; or shares of categories."""
    found: dict[str, list[Any]] = {}
    for bin_ in order:
        captions = scope.captions.get(bin_["value"], ())
        kept = {_place(row) for c in captions for row in candidates.get(c["caption_id"], ()) if row["kept"]}
        values = (taken.get((bin_["measure"], place)) for place in sorted(kept))
        found[bin_["value"]] = [value for value in values if value is not None]
    if not order or not MEASURES[order[0]["measure"]].is_category:
        return {value: np.array(group, np.float64) for value, group in found.items()}, {}
    shares = {
        bin_["value"]: {
            value: np.array([name == bin_["category"] for name in group], np.float64) for value, group in found.items()
        }
        for bin_ in order
    }
    return {}, shares


def _orders(measured: MeasuredGroups | None) -> dict[tuple[str, str], list[Row]]:
    """Bins by target and attribute, from low to high (names as they come)."""
    orders: dict[tuple[str, str], list[Row]] = {}
    for row in [] if measured is None else measured.bins.to_pylist():
        orders.setdefault((row["target"], row["attribute"]), []).append(row)
    for bins in orders.values():
        bins.sort(key=lambda row: -np.inf if row["low"] is None else row["low"])
    return orders


def _taken(measured: MeasuredGroups | None) -> dict[tuple[str, Place], Any]:
    rows = [] if measured is None else measured.measurements.to_pylist()
    return {(r["measure"], _place(r)): r["measured"] if r["category"] is None else r["category"] for r in rows}


def _place(row: Row) -> Place:
    return Place(row["source_id"], row["uri"])


def similarities_of(corpus: ImageIndex, encoder: ImageTextEncoder, images: RetrievedImages) -> Similarities:
    """Cosines from the vectors in the index. Raises ``DataError`` where it is not the index that was searched."""
    from retrieval.index import open_index

    index = open_index(corpus.index)
    index.require(encoder)
    _require_same(index.rows, images)

    def similar(texts: Sequence[str], rows: Sequence[int]) -> FloatArray:
        vectors = np.asarray(index.vectors[np.array(rows, np.int64)], np.float32)
        return np.asarray(index.embed_queries(encoder, list(texts)) @ vectors.T, np.float64)

    return similar


def _require_same(rows: Any, images: RetrievedImages) -> None:
    """The pictures must stand in the rows where the search found them."""
    found = images.retrieval.filter(images.retrieval["row"].is_valid())
    numbers = found["row"].to_numpy()
    uris = found["uri"].to_pylist()
    if len(numbers) and (numbers.max() >= len(rows["uri"]) or rows["uri"].take(numbers).to_pylist() != uris):
        raise DataError("the index of `corpus` is not the one that `images` were retrieved from")
