"""Pictures of a ``PartImages`` with the masks of their parts, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runner.data.images import UnreadableImage, decode
from runner.data.parts import rle
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.artifacts import PartImages
    from runner.data.sources import Source

Mask = NDArray[np.bool_]
OBJECT = -1
"""Index of the whole object among a picture's masks."""


@dataclass(frozen=True)
class PartMasks:
    """Masks of one picture at its own size. ``masks`` bool [P, H, W]; ``visible`` bool [P]; ``object`` bool [H, W] (the stored
    one, else the union of the parts); ``keypoints`` float32 [P, 2] (x, y in pixels), NaN where there is none."""

    masks: Mask
    visible: Mask
    object: Mask
    keypoints: NDArray[np.float32]


class PartReader:
    """Reads pictures and masks by row number of ``images.images``."""

    def __init__(self, images: PartImages) -> None:
        self.parts: list[str] = list(images.about["parts"])
        rows: list[dict[str, str]] = images.images.select(["sample_id", "split", "source_id", "uri"]).to_pylist()
        self.sample_ids = [row["sample_id"] for row in rows]
        self.splits = [row["split"] for row in rows]
        self._places = [Place(row["source_id"], row["uri"]) for row in rows]
        self._corpus = images.corpus
        columns = ("row", "part", "height", "width", "runs", "keypoint_x", "keypoint_y", "visible")
        self._columns = {name: images.masks[name] for name in columns}
        order = self._columns["row"].to_numpy()
        self._by_row: dict[int, list[int]] = {}
        for place, row in enumerate(order.tolist()):
            self._by_row.setdefault(row, []).append(place)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def size(self, row: int) -> tuple[int, int] | None:
        """Height and width of the masks, None where the picture has none (keypoints only). Raises ``DataError`` where they differ."""
        column = self._columns
        found = {(column["height"][i].as_py(), column["width"][i].as_py()) for i in self._by_row.get(row, ())}
        sizes = {(height, width) for height, width in found if height is not None}
        if len(sizes) > 1:
            raise DataError(f"{self.sample_ids[row]}: its masks have different sizes: {sorted(sizes)}")
        return sizes.pop() if sizes else None

    def masks(self, row: int) -> PartMasks:
        """The masks of one picture; without any row in the table all parts are absent on a 1 x 1 canvas."""
        height, width = self.size(row) or (1, 1)
        masks = np.zeros((len(self.parts), height, width), bool)
        visible = np.zeros(len(self.parts), bool)
        keypoints = np.full((len(self.parts), 2), np.nan, np.float32)
        whole: Mask | None = None
        column = self._columns
        for i in self._by_row.get(row, ()):
            part, runs = column["part"][i].as_py(), column["runs"][i].as_py()
            mask = None if runs is None else rle.decode(runs, height, width)
            if part == OBJECT:
                whole = mask
                continue
            visible[part] = bool(column["visible"][i].as_py())
            if mask is not None:
                masks[part] = mask
            x, y = column["keypoint_x"][i].as_py(), column["keypoint_y"][i].as_py()
            if x is not None and y is not None:
                keypoints[part] = x, y
        masks &= visible[:, None, None]
        return PartMasks(masks, visible, np.asarray(masks.any(0)) if whole is None else whole, keypoints)

    @cached_property
    def _sources(self) -> list[Source]:
        """Opened once: some sources read an index when they are opened."""
        return open_sources(self._corpus)

    def pictures(self, rows: Sequence[int]) -> Iterator[tuple[int, Image | UnreadableImage]]:
        """Row and RGB picture, source by source; the error instead of a picture that cannot be read."""
        wanted: dict[Place, list[int]] = {}
        for row in rows:
            wanted.setdefault(self._places[row], []).append(row)
        for place, data in read_pictures(self._sources, wanted):
            try:
                image: Image | UnreadableImage = decode(data)
            except UnreadableImage as error:
                image = error
            for row in wanted[place]:
                yield row, image
