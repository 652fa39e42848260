"""Pictures and stage-1 tokens of part discovery, kept in scratch as plain arrays: read once, whatever is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.context import StepContext, item_key
from runner.data.images import UnreadableImage
from runner.data.parts.reading import PartReader
from runner.data.sampling import sampled
from runner.errors import DataError
from runner.models.base import VisionBackbone
from runner.nodes.leakage.discovery_model import chunks, patch_tokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.artifacts import PartImages

SPLITS = ("train", "test")


class Pictures(NamedTuple):
    """Pictures as the backbone takes them. ``rows`` int64 [n]: their rows of the dataset; ``pixels`` uint8 [n, 3, H, W] (a file);
    ``sizes`` int64 [n, 2]: width and height of the pictures themselves; ``train``, ``test``: places in this list."""

    reader: PartReader
    rows: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    train: Tensor
    test: Tensor

    def batch(self, places: Tensor) -> Tensor:
        """Pixels float32 [B, 3, H, W] in 0..1."""
        return torch.from_numpy(self.pixels[places.numpy()]).float() / 255


def read(ctx: StepContext, backbone: VisionBackbone, images: PartImages, limit: int | None) -> Pictures:
    """Pictures of train and test, at most ``limit`` of each, once through; those that cannot be read are left out, named."""
    reader = PartReader(images)
    wanted = [row for split in SPLITS for row in _drawn(reader, split, limit, ctx.seed)]
    side = backbone.image_size
    name = item_key("discover pixels", backbone.identity, side, [reader.sample_ids[row] for row in wanted])[:16]
    pixels, found = _kept(ctx.scratch / f"pixels-{name}", (len(wanted), 3, side, side), "u1")
    sizes = np.zeros((len(wanted), 2), np.int64)
    if found:
        sizes = np.load(ctx.scratch / f"pixels-{name}.sizes.npy")
    else:
        _fill(ctx, backbone, reader, wanted, pixels, sizes)
        np.save(ctx.scratch / f"pixels-{name}.sizes.npy", sizes)
        _keep(ctx.scratch / f"pixels-{name}", pixels)
    there = [i for i in range(len(wanted)) if sizes[i, 0]]
    places = {split: [i for i in there if reader.splits[wanted[i]] == split] for split in SPLITS}
    for split, listed in places.items():
        if len(listed) < 2:
            raise DataError(
                f"{images.about['dataset']}: {len(listed)} readable pictures in {split}, at least 2 are needed"
            )
    train, test = (torch.tensor(places[split]) for split in SPLITS)
    return Pictures(reader, np.asarray(wanted, np.int64), pixels, sizes, train, test)


def _drawn(reader: PartReader, split: str, limit: int | None, seed: int) -> list[int]:
    rows = [row for row, of in enumerate(reader.splits) if of == split]
    return sampled(rows, limit, seed, lambda row: reader.sample_ids[row])


def _fill(
    ctx: StepContext,
    backbone: VisionBackbone,
    reader: PartReader,
    wanted: list[int],
    pixels: NDArray[np.uint8],
    sizes: NDArray[np.int64],
) -> None:
    place = {row: i for i, row in enumerate(wanted)}
    for row, image in ctx.track(reader.pictures(wanted), unit="pictures", total=len(wanted)):
        if isinstance(image, UnreadableImage):
            ctx.failed(reader.sample_ids[row], str(image))
            continue
        pixels[place[row]] = _prepared(backbone, image)
        sizes[place[row]] = image.size


def _prepared(backbone: VisionBackbone, image: Image) -> NDArray[np.uint8]:
    """The picture as uint8: exactly what ``prepare`` gives, which is uint8 / 255."""
    return np.asarray(np.rint(backbone.prepare(image) * 255), np.uint8)


def stage1_tokens(
    ctx: StepContext, backbone: VisionBackbone, pictures: Pictures, batch: int
) -> Callable[[Tensor], Tensor]:
    """Patch tokens of the frozen stage 1, computed once: a function from places to float32 [B, N, D]."""
    shape = (len(pictures.rows), (backbone.image_size // backbone.patch_sizes[-1]) ** 2, backbone.widths[-1])
    name = item_key("discover tokens", backbone.identity, pictures.rows.tolist())[:16]
    tokens, found = _kept(ctx.scratch / f"tokens-{name}", shape, "f4")
    if not found:
        for places in ctx.track(chunks(torch.arange(shape[0]), batch), unit="batches of tokens"):
            pixels = pictures.batch(places).to(backbone.device)
            with torch.no_grad():
                tokens[places.numpy()] = patch_tokens(backbone, backbone.normalise(pixels)).cpu().numpy()
        _keep(ctx.scratch / f"tokens-{name}", tokens)
    return lambda places: torch.from_numpy(tokens[places.numpy()])


def _kept(path: Path, shape: tuple[int, ...], kind: str) -> tuple[NDArray[Any], bool]:
    """An array in a file, and whether it is there whole; else one to be filled, under another name."""
    if path.is_file():
        return np.memmap(path, kind, "r", shape=shape), True
    return np.memmap(path.with_suffix(".part"), kind, "w+", shape=shape), False


def _keep(path: Path, array: NDArray[Any]) -> None:
    """Give a filled array its name; only then it counts as there."""
    assert isinstance(array, np.memmap)
    array.flush()
    path.with_suffix(".part").replace(path)


class Truth(NamedTuple):
    """What is drawn over one picture, in pixels of the input. ``masks`` bool [P, H, W]; ``visible`` bool [P]; ``object`` bool [H, W];
    ``keypoints`` float32 [P, 2], the annotated ones (NaN: none, or not visible); ``spots`` float32 [P, 2]: one place of each visible part;
    ``box`` (left, top, width, height); ``drawn``: whether it has masks at all."""

    masks: Tensor
    visible: Tensor
    object: Tensor
    keypoints: Tensor
    spots: Tensor
    box: tuple[float, float, float, float]
    drawn: bool


def truth(backbone: VisionBackbone, pictures: Pictures, place: int) -> Truth:
    """Masks and keypoints of one picture through the geometry of the backbone; used to measure, never to train.

    A part without a keypoint has as its spot the pixel of its mask nearest to the mask's centroid, so that the spot lies in the part
    (definition of this project); it is never taken for a keypoint.
    """
    given = pictures.reader.masks(int(pictures.rows[place]))
    geometry = backbone.geometry
    masks = np.stack([geometry.mask(mask) for mask in given.masks]) if len(given.masks) else np.zeros((0, 1, 1), bool)
    whole = geometry.mask(given.object)
    width, height = pictures.sizes[place].tolist()
    points = geometry.points(given.keypoints, width, height)
    visible = given.visible & (masks.any((1, 2)) | ~np.isnan(points).any(1))
    points[~visible] = np.nan
    spots = points.copy()
    for part in np.flatnonzero(visible & np.isnan(given.keypoints).any(1)):
        spots[part] = central_pixel(masks[part])
    found, shown, drawn, annotated, places = (
        torch.from_numpy(np.ascontiguousarray(x)) for x in (masks, visible, whole, points, spots)
    )
    return Truth(found, shown, drawn, annotated, places, _box(whole), bool(masks.any()))


def central_pixel(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The centre (x, y) of the mask's pixel nearest to its centroid; of equally near ones the first, row by row."""
    pixels = np.argwhere(mask)
    nearest = pixels[((pixels - pixels.mean(0)) ** 2).sum(1).argmin()]
    return np.asarray(nearest[::-1] + 0.5, np.float32)


def _box(whole: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a mask; the whole input where it is empty."""
    if not whole.any():
        return 0.0, 0.0, float(whole.shape[1]), float(whole.shape[0])
    rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)
