"""Rows of ``sith_effect``: directions that carry an attribute, by pictures or by prompts. Ours, not the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from results.tables import arrow_table
from runner.artifacts import AttributedImages, HeadDirections, ImageFeatures
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sith.activations import Directions, Sums, activity_difference
from runner.nodes.sith.attribute_effects import AttributeEffects
from runner.nodes.sith.attributing_pictures import summed_activity
from runner.nodes.sith.dictionary_making import check_identity
from runner.nodes.sith.effects import Effects, attribute_direction, direction_effects, written
from runner.nodes.sith.evidence import Grid, shown
from runner.nodes.sith.weights import TINY

Row = dict[str, Any]


class Contrast(NamedTuple):
    """One value of the attribute against the others: embeddings (n, d), which have it, and what keeps them apart."""

    value: str
    against: str
    vectors: Tensor
    has: Tensor
    strata: Tensor | None


class Told(NamedTuple):
    """What every row says: the attribute, what the effects were taken from, and the margin they are taken on, if any."""

    attribute: str
    evidence: str
    margin: str | None


class Group(NamedTuple):
    """A contrast's effects are ``gain`` (layers, heads, r) times what is written along ``toward`` (d,)."""

    contrast: Contrast
    toward: Tensor
    gain: Tensor
    n_value: int
    n_against: int
    means: Tensor | None = None


def effects_by_images(
    ctx: StepContext,
    clip: ClipModel,
    directions: HeadDirections,
    attribute: str,
    features: ImageFeatures,
    images: AttributedImages,
    *,
    within_classes: bool,
    splits: Sequence[str] | None,
    activations: bool,
    margin: Sequence[str] | None,
) -> AttributeEffects:
    """Effects on the differences of mean image embeddings, or on a margin between two texts. Raises ``DataError`` for another
    encoder's features, an attribute that the pictures do not have, and values that no class has both with and without.

    ``activations``: gains are differences of what directions do on the pictures, instead of singular values.
    """
    check_identity(features.encoder, {"name": clip.name, "identity": clip.identity}, "features were made")
    at, rows, named = _attributed(features, images, attribute, splits)
    order = _values_in_order(images, attribute, named)
    strata = _strata(rows) if within_classes else None
    contrasts = _contrasts(order, named, torch.from_numpy(features.features["features"])[at], strata)
    groups = _groups(clip, directions, attribute, contrasts, margin)
    if activations:
        values = torch.tensor([order.index(value) for value in named])
        zero = torch.zeros_like(values)
        read = _read_directions(directions)
        sums = summed_activity(ctx, clip, read, images, rows, zero if strata is None else strata, values)
        groups = [_measured(attribute, group, sums, order.index(group.contrast.value)) for group in groups]
    told = Told(attribute, "activations" if activations else "images", _margin_name(margin))
    return _effects(clip, directions, told, groups)


def _attributed(
    features: ImageFeatures, images: AttributedImages, attribute: str, splits: Sequence[str] | None
) -> tuple[list[int], list[Row], list[str]]:
    """Features of the splits whose pictures have a value: where they stand, their rows, their values."""
    values = _values(images, attribute)
    found = [
        (at, row, values[key])
        for at, row in enumerate(features.rows.to_pylist())
        if (splits is None or row["split"] in splits) and (key := (row["dataset"], row["sample_id"])) in values
    ]
    return [at for at, _, _ in found], [row for _, row, _ in found], [value for _, _, value in found]


def _values_in_order(images: AttributedImages, attribute: str, named: Sequence[str]) -> list[str]:
    """Values that pictures have, as declared, then by name. Raises ``DataError`` for fewer than two."""
    order = [value for value in dict.fromkeys([*_declared(images, attribute), *sorted(named)]) if value in set(named)]
    if len(order) < 2:
        there = sorted({row["attribute"] for row in images.attributes.to_pylist()})
        raise DataError(
            f"the pictures have {len(order)} values of the attribute {attribute!r}; at least 2 are needed",
            hint=f"Attributes there are: {', '.join(there) or 'none'}.",
        )
    return order


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


def effects_by_texts(
    clip: ClipModel,
    directions: HeadDirections,
    attribute: str,
    texts: Mapping[str, Sequence[str]],
    margin: Sequence[str] | None,
) -> AttributeEffects:
    """Effects on the differences of mean text embeddings of each value's prompts, or on a margin between two texts."""
    if not all(texts.values()):
        raise DataError(f"texts: every value of {attribute!r} needs at least one prompt")
    named = [value for value, prompts in texts.items() for _ in prompts]
    vectors = torch.from_numpy(clip.encode_texts([prompt for prompts in texts.values() for prompt in prompts]))
    contrasts = _contrasts([*texts], named, vectors, None)
    groups = _groups(clip, directions, attribute, contrasts, margin)
    return _effects(clip, directions, Told(attribute, "texts", _margin_name(margin)), groups)


def _contrasts(order: Sequence[str], named: Sequence[str], vectors: Tensor, strata: Tensor | None) -> list[Contrast]:
    """Of two values the second against the first; of more each against the rest."""
    wanted = order[1:] if len(order) == 2 else order
    number = {value: at for at, value in enumerate(order)}
    values = torch.tensor([number[value] for value in named])
    return [
        Contrast(value, order[0] if len(order) == 2 else "rest", vectors, values == number[value], strata)
        for value in wanted
    ]


def _groups(
    clip: ClipModel,
    directions: HeadDirections,
    attribute: str,
    contrasts: Sequence[Contrast],
    margin: Sequence[str] | None,
) -> list[Group]:
    """With singular values as gains."""
    s = torch.from_numpy(_stacked(directions, "s"))
    along = None if margin is None else _margin_direction(clip, margin)
    groups = []
    for contrast in contrasts:
        with _naming(attribute, contrast.value):
            toward = attribute_direction(contrast.vectors, contrast.has, contrast.strata) if along is None else along
        n = int(contrast.has.sum())
        groups.append(Group(contrast, toward, s, n, len(contrast.has) - n))
    return groups


def _margin_direction(clip: ClipModel, margin: Sequence[str]) -> Tensor:
    first, second = torch.from_numpy(clip.encode_texts([*margin]))
    difference: Tensor = first - second
    if float(difference.norm()) <= TINY:
        raise DataError("margin: the model embeds both texts alike", hint="Give the prompts of two classes.")
    return difference


def _margin_name(margin: Sequence[str] | None) -> str | None:
    return None if margin is None else " - ".join(map(shown, margin))


@contextmanager
def _naming(attribute: str, value: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise DataError(f"attribute {attribute!r}, value {value!r}: {error}") from error


def _read_directions(directions: HeadDirections) -> Directions:
    grid = Grid(directions.model)
    u, s = (torch.from_numpy(_stacked(directions, name)) for name in ("u", "s"))
    return Directions(grid.layers, grid.heads, u, s, bool(directions.model["fold_ln"]))


def _measured(attribute: str, group: Group, sums: Sums, value: int) -> Group:
    with _naming(attribute, group.contrast.value):
        gain = activity_difference(sums, value)
    n = int(sums.number[:, value].sum())
    means = sums.total.sum((0, 1)) / sums.number.sum()
    return group._replace(gain=gain, n_value=n, n_against=int(sums.number.sum()) - n, means=means)


def _effects(clip: ClipModel, directions: HeadDirections, told: Told, groups: Sequence[Group]) -> AttributeEffects:
    grid, visual = Grid(directions.model), clip.network.visual
    vh, s = (torch.from_numpy(_stacked(directions, name)) for name in ("vh", "s"))
    q = written(vh.to(next(visual.parameters()).device), visual).cpu()
    rows: list[Row] = []
    for group in groups:
        rows += _rows(clip.name, told, group, grid, s, direction_effects(group.gain, q, group.toward))
    return AttributeEffects(directions.model, arrow_table("sith_effect", rows))


def _stacked(directions: HeadDirections, name: str) -> Any:
    import numpy as np

    stacked: Any = np.stack([directions.arrays[f"L{layer}.{name}"] for layer in directions.model["layers"]])
    return stacked


def _rows(model: str, told: Told, group: Group, grid: Grid, s: Tensor, found: Effects) -> list[Row]:
    order = found.effect.abs().flatten().argsort(descending=True, stable=True).tolist()
    columns = [part.flatten().tolist() for part in (found.cosine, s, found.effect, found.share)]
    _, heads, rank = grid.shape
    means = None if group.means is None else group.means.flatten().tolist()
    rows = []
    for place, at in enumerate(order):
        cosine, sigma, effect, share = (column[at] for column in columns)
        rows.append(
            {
                "model": model,
                "attribute": told.attribute,
                "value": group.contrast.value,
                "against": group.contrast.against,
                "evidence": told.evidence,
                "margin": told.margin,
                "n_value": group.n_value,
                "n_against": group.n_against,
                "layer": grid.layers[at // (heads * rank)],
                "head": grid.heads[at // rank % heads],
                "sv": at % rank,
                "side": "right",
                "cosine": cosine,
                "sigma": sigma,
                "effect": effect,
                "share": share,
                "mean_coefficient": None if means is None else means[at],
                "rank": place,
            }
        )
    return rows
