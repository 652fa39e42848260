"""Pictures with their masks as a backbone takes them, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from runner.data.images import UnreadableImage
from runner.data.parts.reading import PartMasks, PartReader
from runner.errors import DataError
from runner.nodes.leakage.extracting import Batch
from runner.nodes.leakage.regions import extended

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.artifacts import PartImages
    from runner.data.geometry import Geometry
    from runner.models.base import VisionBackbone

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Drawn:
    """One picture at the input's size: ``pixels`` float32 [3, H, W]; ``masks`` bool [P, H, W]; ``inner`` bool [P + 2, H, W]: pixels made
    of the pixels of each part, of the object and of all else alone (``Geometry.inner_mask``); ``whole`` bool [H, W]; ``keypoints``
    float32 [P, 2], NaN outside; ``visible`` bool [P]."""

    pixels: Floats
    masks: Bools
    inner: Bools
    whole: Bools
    keypoints: Floats
    visible: Bools


@dataclass
class Loaded:
    """``rows``: the pictures that could be read, in order; ``batch``: their tensors (None: none could); ``visible`` bool [B, S];
    ``unreadable``: why, by row."""

    rows: list[int] = field(default_factory=list)
    batch: Batch | None = None
    visible: Bools = field(default_factory=lambda: np.zeros((0, 0), bool))
    unreadable: dict[int, str] = field(default_factory=dict)


class Loader:
    """Reads batches by row numbers. ``further``: sources beside the parts; ``donors``: row by row, for swapping."""

    def __init__(
        self, reader: PartReader, backbone: VisionBackbone, about: dict[str, Any], further: tuple[str, ...], donors: dict[int, int], seed: int
    ) -> None:  # fmt: skip
        self.reader, self.backbone, self.further, self.donors, self.seed = reader, backbone, further, donors, seed
        self.resize = about.get("mask_resize") == "nearest"

    def load(self, rows: Sequence[int]) -> Loaded:
        """Read, cut and stack. Raises ``DataError`` where a mask does not have its picture's size."""
        context = [self.donors[row] for row in rows if self.donors.get(row, -1) >= 0]
        loaded, drawn, around = Loaded(), dict[int, Drawn](), dict[int, Floats]()
        for row, image in self.reader.pictures(sorted({*rows, *context})):
            if isinstance(image, UnreadableImage):
                loaded.unreadable[row] = image.message
                continue
            if row in rows:
                drawn[row] = self.draw(row, image)
            if row in context:
                around[row] = drawn[row].pixels if row in drawn else self.backbone.prepare(image)
        loaded.unreadable = {row: why for row, why in loaded.unreadable.items() if row in rows}
        loaded.rows = [row for row in rows if row in drawn]
        if loaded.rows:
            self._stack(loaded, [drawn[row] for row in loaded.rows], around)
        return loaded

    def draw(self, row: int, image: Image) -> Drawn:
        """One picture and what is drawn on it, cut alike."""
        geometry, found = self.backbone.geometry, self.reader.masks(row)
        size = self.reader.size(row)
        if size not in (None, (image.height, image.width)):
            if not self.resize:
                raise DataError(
                    f"{self.reader.sample_ids[row]}: its masks are {size[1]} x {size[0]} pixels, the picture is "
                    f"{image.width} x {image.height}",
                    hint="Draw masks at the picture's size, or say mask_resize: nearest where the dataset is loaded.",
                )
            found = resized(found, image.height, image.width)
        masks = [_cut(geometry.mask, mask) for mask in found.masks]
        whole = _cut(geometry.mask, found.object)
        beyond = ~found.object & found.object.any()
        inner = [_cut(geometry.inner_mask, mask) for mask in (*found.masks, found.object, beyond)]
        points = geometry.points(np.where(found.visible[:, None], found.keypoints, np.nan), image.width, image.height)
        return Drawn(self.backbone.prepare(image), np.stack(masks), np.stack(inner), whole, points, found.visible)

    def _stack(self, loaded: Loaded, drawn: list[Drawn], around: dict[int, Floats]) -> None:
        count, parts, more = len(drawn), len(self.reader.parts), len(self.further)
        stacked = {
            name: torch.from_numpy(np.stack([getattr(each, name) for each in drawn]))
            for name in ("pixels", "masks", "inner", "whole", "keypoints")
        }
        points = torch.cat([stacked["keypoints"], torch.full((count, more, 2), torch.nan)], 1)
        places = torch.from_numpy(np.stack([self._places(row, parts) for row in loaded.rows]))
        masks = extended(stacked["masks"], stacked["whole"], self.further)
        kept = [*range(parts), *(parts + ("whole", "background").index(name) for name in self.further)]
        loaded.batch = Batch(
            stacked["pixels"],
            masks,
            stacked["inner"][:, kept],
            parts,
            stacked["whole"],
            points,
            places,
            *self._donors(loaded, around),
        )
        visible = np.stack([each.visible for each in drawn])
        loaded.visible = np.concatenate([visible, masks[:, parts:].flatten(2).any(-1).numpy()], 1)

    def _places(self, row: int, parts: int) -> Floats:
        """Numbers in [0, 1) that depend on seed and picture alone, not on the batch."""
        name = self.reader.sample_ids[row].encode()
        drawn = np.random.default_rng([self.seed, *np.frombuffer(name, np.uint8).tolist()])
        return drawn.random(parts, np.float32)

    def _donors(
        self, loaded: Loaded, around: dict[int, Floats]
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        if not self.donors:
            return None, None
        side = self.backbone.image_size
        blank = np.zeros((3, side, side), np.float32)
        found = [around.get(self.donors.get(row, -1)) for row in loaded.rows]
        pixels = np.stack([blank if each is None else each for each in found])
        return torch.from_numpy(pixels), torch.tensor([each is not None for each in found])


def resized_sizes(images: PartImages, geometry: Geometry) -> list[tuple[int, int]]:
    """Sizes (width, height) of masks, and so of pictures, that the backbone does not take pixel by pixel; sorted."""
    held = images.masks.select(["width", "height"]).group_by(["width", "height"]).aggregate([]).to_pylist()
    sizes = [(row["width"], row["height"]) for row in held if row["width"] is not None]
    if geometry.squash:
        return sorted(size for size in sizes if size != (geometry.size, geometry.size))
    return sorted(size for size in sizes if min(size) != geometry.short_side)


def _cut(how: Callable[[Bools], Bools], mask: Bools) -> Bools:
    """A mask at the input's size by one of the geometry's two ways; an empty one, of whatever size, stays empty."""
    made = how(mask)
    return made if mask.any() else np.zeros_like(made)


def resized(found: PartMasks, height: int, width: int) -> PartMasks:
    """Masks scaled to the picture's size by the nearest pixel. Keypoints are in pixels of the picture and stay."""
    old_height, old_width = found.object.shape
    rows = (np.arange(height) * old_height // height)[:, None]
    columns = np.arange(width) * old_width // width
    return PartMasks(found.masks[:, rows, columns], found.visible, found.object[rows, columns], found.keypoints)


def draw_donors(rows: Sequence[int], splits: Sequence[str], seed: int) -> dict[int, int]:
    """For each row another one of its split, each used once (a random cycle); -1 where a split has one picture only."""
    generator = np.random.default_rng(seed)
    found: dict[int, int] = {}
    for split in sorted({splits[row] for row in rows}):
        own = generator.permutation([row for row in rows if splits[row] == split]).tolist()
        following = [*own[1:], own[0]] if len(own) > 1 else [-1]
        found |= dict(zip(own, following, strict=True))
    return found
