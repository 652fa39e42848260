"""Rows of ``sith_effect``: directions that carry an attribute, by pictures or by prompts. Ours, not the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from results.tables import arrow_table
from runner.artifacts import AttributedImages, HeadDirections, ImageFeatures
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sith.dictionary_making import check_identity
from runner.nodes.sith.effects import attribute_direction, direction_effects, written
from runner.nodes.sith.evidence import Grid
from runner.nodes.sith.weight_steps import AttributeEffects

Row = dict[str, Any]


class Contrast(NamedTuple):
    """One value of the attribute against the others: embeddings (n, d), which have it, and what keeps them apart."""

    value: str
    against: str
    vectors: Tensor
    has: Tensor
    strata: Tensor | None


def effects_by_images(
    clip: ClipModel,
    directions: HeadDirections,
    attribute: str,
    features: ImageFeatures,
    images: AttributedImages,
    within_classes: bool,
    splits: Sequence[str] | None,
) -> AttributeEffects:
    """Effects on the differences of mean image embeddings. Raises ``DataError`` for another encoder's features, an
    attribute that the pictures do not have, and values that no class has both with and without."""
    check_identity(features.encoder, {"name": clip.name, "identity": clip.identity}, "features were made")
    values = _values(images, attribute)
    every = [row if splits is None or row["split"] in splits else None for row in features.rows.to_pylist()]
    places = [at for at, row in enumerate(every) if row and (row["dataset"], row["sample_id"]) in values]
    rows = [row for row in (every[at] for at in places) if row is not None]
    named = [values[row["dataset"], row["sample_id"]] for row in rows]
    order = list(dict.fromkeys([*_declared(images, attribute), *sorted(named)]))
    order = [value for value in order if value in set(named)]
    if len(order) < 2:
        there = sorted({row["attribute"] for row in images.attributes.to_pylist()})
        raise DataError(
            f"the pictures have {len(order)} values of the attribute {attribute!r}; at least 2 are needed",
            hint=f"Attributes there are: {', '.join(there) or 'none'}.",
        )
    vectors = torch.from_numpy(features.features["features"])[places]
    contrasts = _contrasts(order, named, vectors, _strata(rows) if within_classes else None)
    return _effects(clip, directions, attribute, "images", contrasts)


def _strata(rows: Sequence[Row]) -> Tensor:
    """One number (n,) for each class of each dataset."""
    classes = [(row["dataset"], row["class_index"]) for row in rows]
    number = {name: at for at, name in enumerate(sorted(set(classes)))}
    return torch.tensor([number[name] for name in classes])


def _values(images: AttributedImages, attribute: str) -> dict[tuple[str, str], str]:
    rows = images.attributes.to_pylist()
    return {(row["dataset"], row["sample_id"]): row["value"] for row in rows if row["attribute"] == attribute}


def _declared(images: AttributedImages, attribute: str) -> list[str]:
    return [value for info in images.about for value in info["attributes"].get(attribute, [])]


def effects_by_texts(clip: ClipModel, directions: HeadDirections, attribute: str, texts: Mapping[str, Sequence[str]]) -> AttributeEffects:  # fmt: skip
    """Effects on the differences of mean text embeddings of each value's prompts."""
    if not all(texts.values()):
        raise DataError(f"texts: every value of {attribute!r} needs at least one prompt")
    named = [value for value, prompts in texts.items() for _ in prompts]
    vectors = torch.from_numpy(clip.encode_texts([prompt for prompts in texts.values() for prompt in prompts]))
    return _effects(clip, directions, attribute, "texts", _contrasts([*texts], named, vectors, None))


def _contrasts(order: Sequence[str], named: Sequence[str], vectors: Tensor, strata: Tensor | None) -> list[Contrast]:
    """Of two values the second against the first; of more each against the rest."""
    wanted = order[1:] if len(order) == 2 else order
    number = {value: at for at, value in enumerate(order)}
    values = torch.tensor([number[value] for value in named])
    return [
        Contrast(value, order[0] if len(order) == 2 else "rest", vectors, values == number[value], strata)
        for value in wanted
    ]


def _effects(clip: ClipModel, directions: HeadDirections, attribute: str, evidence: str, contrasts: Sequence[Contrast]) -> AttributeEffects:  # fmt: skip
    grid, visual = Grid(directions.model), clip.network.visual
    arrays = directions.arrays
    vh, s = (torch.from_numpy(_stacked(arrays, grid, name)) for name in ("vh", "s"))
    q = written(vh.to(next(visual.parameters()).device), visual).cpu()
    rows: list[Row] = []
    for contrast in contrasts:
        try:
            direction = attribute_direction(contrast.vectors, contrast.has, contrast.strata)
        except ValueError as error:
            raise DataError(f"attribute {attribute!r}, value {contrast.value!r}: {error}") from error
        rows += _rows(clip.name, attribute, evidence, contrast, grid, s, direction_effects(s, q, direction))
    return AttributeEffects(directions.model, arrow_table("sith_effect", rows))


def _stacked(arrays: Mapping[str, Any], grid: Grid, name: str) -> Any:
    import numpy as np

    return np.stack([arrays[f"L{layer}.{name}"] for layer in grid.layers])


def _rows(
    model: str, attribute: str, evidence: str, contrast: Contrast, grid: Grid, s: Tensor, found: Any
) -> list[Row]:
    order = found.effect.abs().flatten().argsort(descending=True, stable=True).tolist()
    columns = [part.flatten().tolist() for part in (found.cosine, s, found.effect, found.share)]
    _, heads, rank = grid.shape
    rows = []
    for place, at in enumerate(order):
        cosine, sigma, effect, share = (column[at] for column in columns)
        rows.append(
            {
                "model": model,
                "attribute": attribute,
                "value": contrast.value,
                "against": contrast.against,
                "evidence": evidence,
                "n_value": int(contrast.has.sum()),
                "n_against": int((~contrast.has).sum()),
                "layer": grid.layers[at // (heads * rank)],
                "head": grid.heads[at // rank % heads],
                "sv": at % rank,
                "side": "right",
                "cosine": cosine,
                "sigma": sigma,
                "effect": effect,
                "share": share,
                "rank": place,
            }
        )
    return rows
