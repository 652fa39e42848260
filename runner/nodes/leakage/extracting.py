"""Part vectors of a batch of pictures by every extractor that was asked for: what is computed, apart from files and rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from runner.models.base import VisionBackbone
from runner.nodes.leakage.features import single_stage_layers, two_stage_layers, two_stage_patches
from runner.nodes.leakage.masks import filling, patch_mask
from runner.nodes.leakage.names import Fill, Mode, Norm, Pool, Rule, boundary_leaks
from runner.nodes.leakage.pooling import normed, patches_to_pool, plain_layers, pool_parts
from runner.nodes.leakage.regions import constant_pictures, in_other_pictures, random_regions, without_high_norm

Cut = tuple[str, int]
"""An extractor and a layer."""


@dataclass(frozen=True)
class TwoStage:
    """Settings of two-stage vectors; see ``features.two_stage``."""

    mode: Mode = "packed"
    pool: Literal["mean", "cls"] = "mean"
    rule: Rule = "all"
    strict_pixels: bool = True
    fill: Fill = "mean"
    allow_boundary_leak: bool = False

    @property
    def leak_free(self) -> bool:
        """Whether no pixel outside a part can change its vector."""
        return not boundary_leaks(self.mode, self.rule, self.strict_pixels)


@dataclass(frozen=True)
class Recipe:
    """What to compute. ``layers``: numbers, rising; ``controls``: extractors beside ``single`` and ``two_stage``."""

    layers: tuple[int, ...]
    pooling: Pool = "mean"
    norm: Norm = "final"
    rule: Rule = "majority"
    two: TwoStage | None = TwoStage()
    controls: tuple[str, ...] = ()
    batch: int = 16
    seed: int = 0

    @property
    def extractors(self) -> list[str]:
        """Names in the order of the results."""
        return ["single", *(["two_stage"] if self.two else []), *self.controls]


@dataclass(frozen=True)
class Batch:
    """Pictures as the backbone takes them. ``images`` float32 [B, 3, H, W]; ``masks`` bool [B, S, H, W]: parts, then further
    sources; ``inner`` bool [B, S, H, W]: those of their pixels that hold nothing of what lies outside, for two-stage vectors;
    ``parts``: how many are parts; ``whole`` bool [B, H, W]; ``keypoints`` float32 [B, S, 2]; ``places`` float32 [B, P]: where random
    regions grow; ``donors`` [B, 3, H, W] and ``has_donor`` bool [B], or None."""

    images: Tensor
    masks: Tensor
    inner: Tensor
    parts: int
    whole: Tensor
    keypoints: Tensor
    places: Tensor
    donors: Tensor | None = None
    has_donor: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The same on a device."""
        moved: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass
class Vectors:
    """``vectors``: float32 [B, S, D] by extractor and layer, NaN where absent; ``present`` bool [B, S] by extractor; ``n_patches``
    and ``n_patches_two`` int64 [B, S]: at the deepest layer, by the rule of each stage; ``removed``: int64 [B, 2, S] by layer, a
    source's patches and those of them that ``no_artefacts`` leaves out."""

    vectors: dict[Cut, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)
    n_patches: Tensor = field(default_factory=lambda: torch.zeros(0))
    n_patches_two: Tensor = field(default_factory=lambda: torch.zeros(0))
    removed: dict[int, Tensor] = field(default_factory=dict)

    def add(self, name: str, layer: int, vectors: Tensor, present: Tensor) -> None:
        """One layer. A source is present where every layer has it: maps of a CNN are coarser the deeper."""
        self.vectors[name, layer] = vectors
        self.present[name] = self.present.get(name, torch.ones_like(present)) & present

    def settle(self) -> None:
        """NaN in every layer where a source is absent in one."""
        for (name, layer), vectors in self.vectors.items():
            self.vectors[name, layer] = torch.where(self.present[name][..., None], vectors, torch.nan)


def extract(backbone: VisionBackbone, batch: Batch, recipe: Recipe) -> Vectors:
    """Vectors of all extractors; one plain pass serves all that pool the whole picture's tokens."""
    made = Vectors()
    deepest = backbone.patch_sizes[recipe.layers[-1]]
    two_rule, two_mode = (recipe.two.rule, recipe.two.mode) if recipe.two else ("all", "packed")
    made.n_patches = patches_to_pool(batch.masks, deepest, recipe.rule, recipe.pooling, batch.keypoints).bool().sum(-1)
    made.n_patches_two = two_stage_patches(batch.inner, deepest, two_mode, two_rule).sum(-1)
    _single(made, backbone, batch, recipe)
    if recipe.two:
        _two_stage(made, backbone, batch, recipe, recipe.two, "two_stage", batch.images)
        if "mask_only" in recipe.controls:
            # What `blur` puts around a part is the picture's own; the choice of a colour by it would tell of the picture.
            fill = "mean" if recipe.two.fill == "blur" else recipe.two.fill
            ground = filling(fill, batch.images, batch.inner, backbone.mean, recipe.seed)
            blank = constant_pictures(batch.images, ground)
            _two_stage(made, backbone, batch, recipe, recipe.two, "mask_only", blank)
    if "swap" in recipe.controls:
        _swap(made, backbone, batch, recipe)
    made.settle()
    return made


def _single(made: Vectors, backbone: VisionBackbone, batch: Batch, recipe: Recipe) -> None:
    sizes = {backbone.patch_sizes[layer] for layer in recipe.layers}
    kept = {s: patches_to_pool(batch.masks, s, recipe.rule, recipe.pooling, batch.keypoints) for s in sizes}
    others = {s: _regions(batch, kept[s].bool(), s, recipe.rule) for s in sizes if "random_region" in recipe.controls}
    over_regions: Pool = recipe.pooling if recipe.pooling in ("mean_all", "max") else "mean"
    for layer, _, raw in plain_layers(backbone, batch.images, recipe.layers):
        size, tokens = backbone.patch_sizes[layer], normed(backbone, raw, recipe.norm)
        made.add("single", layer, pool_parts(tokens, kept[size], recipe.pooling), kept[size].bool().any(-1))
        if "no_artefacts" in recipe.controls:
            left = without_high_norm(kept[size], raw)
            held, still = ((each > 0).sum(-1) for each in (kept[size], left))
            made.removed[layer] = torch.stack([held, held - still], 1)
            made.add("no_artefacts", layer, pool_parts(tokens, left, recipe.pooling), left.bool().any(-1))
        if others:
            made.add("random_region", layer, pool_parts(tokens, others[size], over_regions), others[size].any(-1))


def _regions(batch: Batch, weights: Tensor, size: int, rule: Rule) -> Tensor:
    """Random regions for the parts, none for further sources: bool [B, S, N]."""
    inside = patch_mask(batch.whole, size, rule) | weights[:, : batch.parts].any(1)
    regions = random_regions(inside, weights[:, : batch.parts], batch.places)
    return torch.cat([regions, torch.zeros_like(weights[:, batch.parts :])], 1)


def _two_stage(
    made: Vectors, backbone: VisionBackbone, batch: Batch, recipe: Recipe, two: TwoStage, name: str, images: Tensor
) -> None:
    vectors = two_stage_layers(
        backbone, images, batch.inner, two.mode, two.pool, rule=two.rule, strict_pixels=two.strict_pixels, fill=two.fill,
        layers=recipe.layers, norm=recipe.norm, allow_boundary_leak=two.allow_boundary_leak, seed=recipe.seed,
    )  # fmt: skip
    sizes = {backbone.patch_sizes[layer] for layer in recipe.layers}
    there = {size: two_stage_patches(batch.inner, size, two.mode, two.rule).any(-1) for size in sizes}
    for layer, each in zip(recipe.layers, vectors, strict=True):
        made.add(name, layer, each, there[backbone.patch_sizes[layer]])


def _swap(made: Vectors, backbone: VisionBackbone, batch: Batch, recipe: Recipe) -> None:
    """Single-stage vectors of each part in the picture of its donor: one pass a part and picture."""
    if batch.donors is None or batch.has_donor is None:
        raise ValueError("swapping needs donors")
    masks = batch.masks[:, : batch.parts]
    present = made.present["single"][:, : batch.parts] & batch.has_donor[:, None]
    absent_sources = torch.zeros_like(made.present["single"][:, batch.parts :])
    pairs = present.nonzero()
    found = [list[Tensor]() for _ in recipe.layers]
    for picked in _split(pairs, recipe.batch):
        b, p = picked.T
        mask, point = masks[b, p][:, None], batch.keypoints[b, p][:, None]
        pasted = in_other_pictures(batch.images[b], mask, batch.donors[b])[:, 0]
        each = single_stage_layers(
            backbone, pasted, mask, recipe.pooling, rule=recipe.rule, layers=recipe.layers, norm=recipe.norm, keypoints=point
        )  # fmt: skip
        for place, vectors in zip(found, each, strict=True):
            place.append(vectors[:, 0])
    for layer, blocks in zip(recipe.layers, found, strict=True):
        target = torch.full_like(made.vectors["single", layer], torch.nan)
        if blocks:
            target[pairs[:, 0], pairs[:, 1]] = torch.cat(blocks)
        made.add("swap", layer, target, torch.cat([present, absent_sources], 1))


def _split(rows: Tensor, size: int) -> Iterator[Tensor]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def described(recipe: Recipe) -> list[dict[str, Any]]:
    """``{"name", "what", "leak_free"}`` of every extractor, in order."""
    two = recipe.two
    what = {
        "single": f"tokens of the whole picture pooled under the part ({recipe.pooling})",
        "two_stage": "" if two is None else f"computed from the part alone ({two.mode}, {two.pool})",
        "random_region": "tokens of the whole picture pooled over a random region of the object with as many patches as the part, "
        "none of them the part's where the rest of the object has as many",
        "mask_only": "two-stage vectors of a picture of one colour: all they know is the mask",
        "swap": "tokens of another picture, into which the part was pasted, pooled under the part",
        "no_artefacts": "as single, without tokens whose norm is above median + 5 MAD of their picture; on a flat background, whose "
        "norms hardly differ, ordinary tokens of the object count as high too (see settings, removed)",
    }
    clean = {"two_stage": bool(two and two.leak_free), "mask_only": True}
    return [{"name": name, "what": what[name], "leak_free": clean.get(name, False)} for name in recipe.extractors]
