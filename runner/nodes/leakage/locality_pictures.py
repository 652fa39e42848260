"""Pictures drawn from a ``PartImages``, as they are and with one part hidden, written as PNGs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from runner.artifacts import MaskedPictures
from runner.data.images import UnreadableImage
from runner.data.parts.reading import PartMasks, PartReader
from runner.errors import DataError, StepError
from runner.nodes.leakage.hiding import (
    Drawn,
    draw_order,
    draw_pairs,
    hide,
    keypoint_radius,
    keypoint_regions,
    mean_colour,
)

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.context import StepContext

Region = Literal["mask", "keypoint"]
Fill = Literal["image_mean", "dataset_mean"]
AS_IS = -1
"""Draw number of pictures as they are."""
EMPTY_RUNS = 4
"""Bytes of the run lengths of a mask without a pixel (one run)."""

_TYPES: dict[str, pa.DataType] = {"draw": pa.int32(), "value": pa.uint8(), "group": pa.int32()}
_TEXT: pa.DataType = pa.string()


def _schema(*names: str) -> pa.Schema:
    return pa.schema([(name, _TYPES.get(name, _TEXT)) for name in names])


VIEWS = _schema("sample_id", "masked_part", "draw", "uri")
TRUTH = _schema("sample_id", "attribute", "value")
VISIBLE = _schema("sample_id", "part", "masked_part", "draw", "group")


@dataclass(frozen=True)
class Hiding:
    """How parts are hidden. ``parts``: names; ``side``: longer side of the pictures in pixels at most, None = as they are."""

    parts: tuple[str, ...]
    images_per_pair: int
    draws: int
    region: Region
    radius: float
    fill: Fill
    split: str
    seed: int
    side: int | None


def masked_pictures(ctx: StepContext, images: PartImages, hiding: Hiding) -> MaskedPictures:
    """Draw, hide, write. Raises ``StepError`` where nothing can be hidden."""
    reader = PartReader(images)
    known = {part: i for i, part in enumerate(reader.parts)}
    chosen = [known[part] for part in hiding.parts]
    rows = [row for row, split in enumerate(reader.splits) if split == hiding.split]
    names = [reader.sample_ids[row] for row in rows]
    visible = torch.from_numpy(hideable(images.masks, hiding.region, len(reader), len(known))[rows])
    orders = [draw_order(names, hiding.seed, draw) for draw in range(hiding.draws)]
    drawn = draw_pairs(visible, orders, hiding.images_per_pair, chosen)
    drawn = drawn._replace(picture=torch.tensor(rows, dtype=torch.int64)[drawn.picture])
    if not len(drawn.picture):
        raise StepError(
            f"no picture of the split {hiding.split!r} has a {hiding.region} of any of these parts", step=ctx.step,
            hint="use another split, other parts, or region: keypoint or mask, whichever the dataset has",
        )  # fmt: skip
    _say_missing(ctx, drawn, chosen, reader.parts)
    folder = ctx.folder("pictures")
    written = _Writer(ctx, reader, hiding, folder, images.about["mask_resize"]).write(drawn)
    return _artifact(images, hiding, reader, drawn, written, folder)


def hideable(masks: pa.Table, region: Region, pictures: int, parts: int) -> NDArray[np.bool_]:
    """Bool [n, P]: the part is visible and has a mask with a pixel, or a keypoint."""
    found = np.zeros((pictures, parts), np.bool_)
    there = masks.filter((pc.field("part") >= 0) & pc.field("visible"))
    if region == "mask":
        kept = there.filter(pc.greater(pc.binary_length(there["runs"]), pa.scalar(EMPTY_RUNS)))
    else:
        kept = there.filter(pc.is_valid(there["keypoint_x"]))
    found[kept["row"].to_numpy(), kept["part"].to_numpy()] = True
    return found


def _say_missing(ctx: StepContext, drawn: Drawn, chosen: Sequence[int], parts: Sequence[str]) -> None:
    """Name the pairs that no picture shows together: their response stays empty."""
    found = set(zip(drawn.part.tolist(), drawn.hidden.tolist(), strict=True))
    missing = [f"{parts[q]} and {parts[k]}" for q in chosen for k in chosen if q <= k and (q, k) not in found]
    if missing:
        ctx.warn(f"no picture shows both of: {'; '.join(missing[:20])}: their responses stay empty")


Written = dict[tuple[int, int], str]
"""File by row of the picture and hidden part; part -1: the picture as it is."""


@dataclass
class _Writer:
    ctx: StepContext
    reader: PartReader
    hiding: Hiding
    folder: Path
    mask_resize: str
    vanished: int = 0
    written: Written = field(default_factory=dict)

    def write(self, drawn: Drawn) -> Written:
        wanted: dict[int, set[int]] = {}
        for row, part in zip(drawn.picture.tolist(), drawn.hidden.tolist(), strict=True):
            wanted.setdefault(row, set()).add(part)
        common = self._dataset_mean(sorted(wanted)) if self.hiding.fill == "dataset_mean" else None
        for row, image in self._pictures(sorted(wanted), "pictures with hidden parts"):
            self._write_one(row, image, sorted(wanted[row]), common)
        if self.vanished:
            self.ctx.warn(f"{self.vanished} parts have no pixel of their own to hide and are left out")
        return self.written

    def _pictures(self, rows: Sequence[int], unit: str) -> Iterator[tuple[int, Image.Image]]:
        for row, image in self.ctx.track(self.reader.pictures(rows), unit=unit, total=len(rows)):
            if isinstance(image, UnreadableImage):
                self.ctx.failed(self.reader.sample_ids[row], str(image.message))
            else:
                yield row, image

    def _dataset_mean(self, rows: Sequence[int]) -> Tensor:
        """Mean of the drawn pictures' mean colours."""
        means = [mean_colour(_pixels(image)) for _, image in self._pictures(rows, "pictures averaged")]
        return torch.stack(means).mean(0) if means else torch.full((3,), 127.5)

    def _write_one(self, row: int, image: Image.Image, parts: Sequence[int], common: Tensor | None) -> None:
        pixels = _pixels(_shrunk(image, self.hiding.side))
        regions = self._regions(row, image, pixels.shape[1], pixels.shape[2])[list(parts)]
        colour = (mean_colour(pixels) if common is None else common).round()
        self._save(row, AS_IS, pixels)
        for part, region in zip(parts, regions, strict=True):
            if bool(region.any()):
                self._save(row, part, hide(pixels, region[None], colour)[0].to(torch.uint8))
            else:
                self.vanished += 1

    def _regions(self, row: int, image: Image.Image, height: int, width: int) -> Tensor:
        """Bool [P, height, width] of the picture as it is written."""
        found = self.reader.masks(row)
        if self.hiding.region == "mask":
            self._check_size(row, found, image)
            return torch.from_numpy(np.stack([_resized(mask, height, width) for mask in found.masks]))
        points = torch.from_numpy(found.keypoints).to(torch.float64)
        points[torch.from_numpy(~found.visible)] = torch.nan
        # Pixel centres stand at whole numbers: half a pixel is added before shrinking, and taken off after.
        shrinking = points.new_tensor([width / image.width, height / image.height])
        radius = keypoint_radius(height, width, self.hiding.radius)
        return keypoint_regions((points + 0.5) * shrinking - 0.5, height, width, radius)

    def _check_size(self, row: int, found: PartMasks, image: Image.Image) -> None:
        if self.mask_resize == "none" and found.masks.shape[1:] != (image.height, image.width):
            height, width = found.masks.shape[1:]
            raise DataError(
                f"{self.reader.sample_ids[row]}: its masks are {width} x {height}, its picture {image.width} x {image.height}",
                hint="Masks of another size need mask_resize: nearest where the dataset is loaded.",
            )

    def _save(self, row: int, part: int, pixels: Tensor) -> None:
        name = f"{row:07d}.png" if part == AS_IS else f"{row:07d}-{part:03d}.png"
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(self.folder / name, "PNG")
        self.written[row, part] = name


def _shrunk(image: Image.Image, side: int | None) -> Image.Image:
    """The longer side at most ``side`` pixels, never enlarged."""
    if side is None or max(image.size) <= side:
        return image
    scale = side / max(image.size)
    return image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.BICUBIC)


def _pixels(image: Image.Image) -> Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _resized(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    if mask.shape == (height, width):
        return mask
    drawn = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(drawn) > 127


# --- tables ----------------------------------------------------------------------------------------------------------


def _artifact(
    images: PartImages, hiding: Hiding, reader: PartReader, drawn: Drawn, written: Written, folder: Path
) -> MaskedPictures:
    kept = [
        (row, part, hidden, draw)
        for row, part, hidden, draw in zip(*(column.tolist() for column in drawn), strict=True)
        if (row, hidden) in written
    ]
    rows = sorted({row for row, part in written if part == AS_IS})
    settings = {**asdict(hiding), "parts": list(hiding.parts), "pictures": len(rows)}
    ids, parts = reader.sample_ids, reader.parts
    views = [(ids[row], None, AS_IS, written[row, AS_IS]) for row in rows]
    hidden_views = sorted({(row, hidden, draw) for row, _, hidden, draw in kept})
    views += [(ids[row], parts[hidden], draw, written[row, hidden]) for row, hidden, draw in hidden_views]
    group = groups_of(images, hiding.split)
    visible = [(ids[row], parts[part], parts[hidden], draw, group.get(ids[row])) for row, part, hidden, draw in kept]
    return MaskedPictures(
        images.about, settings, folder,
        _table(VIEWS, views), truth_of(images, rows, ids), _table(VISIBLE, visible),
    )  # fmt: skip


def groups_of(images: PartImages, split: str) -> dict[str, int]:
    """The original of each picture of a split by sample_id; empty where pictures stand alone."""
    if "group" not in images.labels:
        return {}
    names: list[Any] = images.images["sample_id"].to_pylist()
    own = zip(names, images.images["split"].to_pylist(), images.labels["group"].tolist(), strict=True)
    return {name: group for name, of, group in own if of == split}


def truth_of(images: PartImages, rows: Sequence[int], ids: Sequence[str]) -> pa.Table:
    """Valid labels of the pictures at ``rows``."""
    value, valid = (images.labels[key][list(rows)] for key in ("value", "valid"))
    picture, attribute = np.nonzero(valid)
    columns: dict[str, Any] = {
        "sample_id": np.array([ids[row] for row in rows], object)[picture],
        "attribute": np.array(images.about["attributes"], object)[attribute],
        "value": value[picture, attribute],
    }
    return pa.table(columns, TRUTH)


def _table(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema)
