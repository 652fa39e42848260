"""Rows of the comparison of two models' heads, and of redirected retrieval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from runner.artifacts import HeadConcepts
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sith.decomposing import Reading
from runner.nodes.sith.evidence import Grid, main_codes
from runner.nodes.sith.metrics import HeadComparison, compare_heads, jaccard
from runner.nodes.sith.tower import plain_tower
from runner.nodes.sith.weights import HeadSvd, svd_of_product, vo_factors

Row = dict[str, Any]
Sets = Mapping[tuple[int, int, int], set[str]]


def check_comparable(clip: ClipModel, other: ClipModel) -> None:
    """Raise ``DataError`` unless both vision towers have the same blocks, heads and width."""
    first, second = (plain_tower(model.network.visual)[:4] for model in (clip, other))
    if first != second:
        raise DataError(
            f"{clip.name} has {first[0]} blocks of {first[1]} heads, width {first[2]}; {other.name} {second[0]} of {second[1]}, "
            f"width {second[2]}: their heads cannot be compared"
        )


def concept_sets(concepts: HeadConcepts, clip: ClipModel) -> Sets:
    """Concepts with a positive coefficient of each (layer, head, sv) that was explained, maybe none. Raises ``DataError`` for another model's."""
    if concepts.model["identity"] != clip.identity:
        raise DataError(f"the concepts are those of {concepts.model['name']}, not of {clip.name}")
    grid = Grid(concepts.model)
    codes = main_codes(grid, concepts, sign=1)
    return {
        (grid.layers[at], grid.heads[head], sv): {row["concept"] for row in codes.active.get((at, head, sv), ())}
        for at, head, sv in codes.explained
    }


def compare_rows(clip: ClipModel, other: ClipModel, layer: int, reading: Reading, sets: tuple[Sets, Sets] | None) -> Iterator[Row]:  # fmt: skip
    """Rows of ``sith_compare`` of one block: of the leading directions, each measured and matched among all of its head.

    ``sets``: concepts of the first and of the second model; only pairs of two explained directions have a likeness.
    """
    first, second = (_double(model, layer, reading) for model in (clip, other))
    found = compare_heads(first, second)
    for at, head in enumerate(reading.heads):
        whole = _head_values(found, at)
        for sv in range(reading.rank):
            sv_b = int(found.match[at, sv])
            sigma, gain = float(first.s[at, sv]), float(found.gain[at, sv])
            yield {
                "model": clip.name,
                "other": other.name,
                "layer": layer,
                "head": head,
                "sv_a": sv,
                "sv_b": sv_b,
                "cos": float(found.match_cos[at, sv]),
                "sigma_a": sigma,
                "gain": gain,
                "gain_ratio": gain / sigma if sigma > 0 else None,
                **whole,
                "principal": float(found.principal[at, sv]),
                "jaccard": None
                if sets is None
                else _likeness(sets[0].get((layer, head, sv)), sets[1].get((layer, head, sv_b))),
            }


def _likeness(first: set[str] | None, second: set[str] | None) -> float | None:
    return None if first is None or second is None else jaccard(first, second)


def _double(model: ClipModel, layer: int, reading: Reading) -> HeadSvd:
    """In float64, so that small differences between two models are not those of two roundings."""
    factors = vo_factors(model.network.visual, layer, reading.fold_ln, torch.float64)
    return svd_of_product(factors.A[reading.heads].cpu(), factors.B[reading.heads].cpu())


_WHOLE = (
    "mean_cos",
    "weighted_cos",
    "overlap1",
    "overlap5",
    "overlap_r",
    "reweight_energy",
    "inspan_energy",
    "rel_delta",
)


def _head_values(found: HeadComparison, at: int) -> Row:
    values: dict[str, Tensor] = {name: getattr(found, name)[at] for name in _WHOLE}
    return {name: None if math.isnan(float(value)) else float(value) for name, value in values.items()}
