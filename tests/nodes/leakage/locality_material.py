"""Pictures of four quadrants, each red or blue with noise, and predictors that read what they are told to."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from runner.data.parts.building import MaskRow, part_images
from runner.models.base import Classifier, ImageTextEncoder

PARTS = ["top left", "top right", "bottom left", "bottom right"]
SIDE = 32
CORNERS = [(0, 0), (0, SIDE // 2), (SIDE // 2, 0), (SIDE // 2, SIDE // 2)]


def box(part, side=SIDE):
    """Slices of a quadrant."""
    top, left = (corner * side // SIDE for corner in CORNERS[part])
    return slice(top, top + side // 2), slice(left, left + side // 2)


def quadrant_mask(part, side=SIDE):
    mask = np.zeros((side, side), bool)
    mask[box(part, side)] = True
    return mask


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def quadrant_images(
    folder, pictures=24, *, seed=0, absent=(), keypoints=True, extra=None, owners=None, resize="none", groups=None
):
    """A ``PartImages``: attribute ``red <part>`` of each quadrant. ``absent``: pairs (picture, part) that are not visible; ``extra``:
    further attributes {name: value by picture}; half of the pictures are of train, half of test."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2, (pictures, 4))
    listed, masks = [], []
    for i in range(pictures):
        pixels = np.zeros((SIDE, SIDE, 3))
        for part in range(4):
            pixels[box(part)] = (200, 40, 60) if bits[i, part] else (40, 60, 200)
        pixels = np.clip(pixels + generator.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        (folder / f"{i}.png").write_bytes(png(pixels))
        split = "train" if i < pictures // 2 else "test"
        listed.append({"sample_id": f"s{i}", "split": split, "source_id": "quadrants", "uri": f"{i}.png"})
        for part, (top, left) in enumerate(CORNERS):
            if (i, part) not in absent:
                point = (left + SIDE / 4, top + SIDE / 4) if keypoints else None
                masks.append(MaskRow(i, part, quadrant_mask(part), point))
    extra = extra or {}
    value = np.concatenate([bits, *(np.asarray(v)[:, None] for v in extra.values())], 1).astype(np.uint8)
    attributes = [f"red {part}" for part in PARTS] + list(extra)
    return part_images(
        name="quadrants", object="square", parts=PARTS, attributes=attributes,
        owners={f"red {part}": part for part in PARTS} | (owners or dict.fromkeys(extra, "global")),
        pictures=listed, corpus=[{"folder": str(folder), "name": "quadrants"}], masks=masks, value=value,
        valid=np.ones_like(value), mask_resize=resize, groups=groups,
    )  # fmt: skip


def redness(batch):
    """Mean of red minus blue of each quadrant: [n, 3, H, W] in 0..1 -> [n, 4]."""
    side = batch.shape[-1]
    lean = batch[:, 0] - batch[:, 2]
    return np.stack([lean[:, box(part, side)[0], box(part, side)[1]].mean((1, 2)) for part in range(4)], 1)


class Reader(Classifier):
    """Logits are ``mix`` [labels, 4] times the redness of the quadrants, times ``sharpness``."""

    name, format, identity = "reader", "made", "reader"

    def __init__(self, mix, labels=None, head="multilabel", sharpness=10.0):
        self.mix, self.head, self.sharpness = np.asarray(mix, np.float32), head, sharpness
        self.labels = tuple(labels or (f"red {part}" for part in PARTS))
        self.identity = f"reader {self.mix.tolist()} {head} {self.labels} {sharpness}"
        self.pictures = 0

    def prepare(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def logits(self, batch):
        self.pictures += len(batch)
        return np.asarray(self.sharpness * redness(batch) @ self.mix.T, np.float32)


class ColourEncoder(ImageTextEncoder):
    """A text that names a quadrant and a colour lies beside pictures whose quadrant has it: eight axes, one a quadrant and colour."""

    name, family, identity, dim, logit_scale = "colours", "made", "colours", 8, 5.0

    def prepare(self, image):
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def encode_prepared(self, batch):
        lean = np.clip(redness(batch), -1, 1)
        vectors = np.concatenate([1 + lean, 1 - lean], 1)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def encode_texts(self, texts):
        rows = np.zeros((len(texts), 8), np.float32)
        for row, text in zip(rows, texts, strict=True):
            colour, _, part = text.partition(" ")
            row[PARTS.index(part) + (0 if colour == "red" else 4)] = 1
        return rows


def rows_by(table, *keys):
    """Rows of a table by some of their columns."""
    return {tuple(row[key] for key in keys): row for row in table.to_pylist()}
