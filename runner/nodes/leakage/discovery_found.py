"""Found parts as a dataset with part masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.data.geometry import Geometry
from runner.data.images import UnreadableImage
from runner.data.parts.building import MaskRow, part_images
from runner.data.parts.reading import OBJECT, PartReader
from runner.errors import DataError

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.nodes.leakage.outputs import Discovery


def part_images_of(discovery: Discovery, images: PartImages, name: str) -> PartImages:
    """The pictures of ``images`` in which ``discovery`` found parts, under the masks found by the training ``name``."""
    if name not in discovery.found:
        raise DataError(
            f"leakage.found_parts: there is no training {name}", hint=f"There are: {', '.join(discovery.found)}."
        )
    about, found = discovery.about, discovery.found[name]
    reader = PartReader(images)
    rows = _rows(discovery, images, reader)
    fixed = discovery.settings["routing"] == "fixed"
    parts = list(about["parts"]) if fixed else [f"slot{i}" for i in range(int(discovery.settings["slots_used"]))]
    places = list(rows)
    at = np.asarray([rows[place] for place in places])
    listed = images.images.take(at).to_pylist()
    note = f"parts found from attributes by {discovery.model['name']} ({name}), not drawn by a person"
    return part_images(
        name=about["dataset"], object=about["object"], parts=parts, attributes=about["attributes"],
        owners=about["owners"] if fixed else _owners(about, discovery.routes[name], parts),
        pictures=[{key: row[key] for key in ("sample_id", "split", "source_id", "uri", "target")} for row in listed],
        corpus=images.corpus, masks=_masks(reader, rows, places, found, len(parts), Geometry(**discovery.model["geometry"])),
        value=images.labels["value"][at], valid=images.labels["valid"][at], excluded=about["excluded"],
        swaps=about["swaps"] if fixed else (), part_source="discovered", label_mode=about["label_mode"],
        notes=[*about["notes"], note], licence=images.datasets[0].get("licence"),
    )  # fmt: skip


def _rows(discovery: Discovery, images: PartImages, reader: PartReader) -> dict[int, int]:
    """For each readable picture of the discovery its row in ``images``. Raises ``DataError`` for pictures of another dataset."""
    row_of = {sample: row for row, sample in enumerate(reader.sample_ids)}
    listed = discovery.rows.to_pylist()
    strange = [row["sample_id"] for row in listed if row["sample_id"] not in row_of]
    if strange or images.about["attributes"] != discovery.about["attributes"]:
        raise DataError(
            "leakage.found_parts: these are not the pictures in which the parts were found"
            + (f" ({strange[0]!r} is missing)" if strange else ""),
            hint="Give the same images as to leakage.discover.",
        )
    return {place: row_of[row["sample_id"]] for place, row in enumerate(listed) if row["readable"]}


def _owners(about: dict[str, Any], routes: dict[str, int], parts: list[str]) -> dict[str, str]:
    """An attribute belongs to the slot that it reads; one that no slot told is global."""
    return {name: parts[routes[name]] if name in routes else "global" for name in about["attributes"]}


def _masks(
    reader: PartReader, rows: dict[int, int], places: list[int], found: NDArray[np.uint8], k: int, geometry: Geometry
) -> Iterator[MaskRow]:
    """Every found slot of every picture at the picture's own size, and their union as the object."""
    number = {rows[place]: i for i, place in enumerate(places)}
    of_row = {row: place for place, row in rows.items()}
    for row, image in reader.pictures(list(number)):
        if isinstance(image, UnreadableImage):
            raise DataError(f"{reader.sample_ids[row]}: {image}", hint="It could be read when parts were discovered.")
        slots = in_picture(found[of_row[row]], k, geometry, image.width, image.height)
        for slot in range(k):
            yield MaskRow(number[row], slot, slots == slot, None, bool((slots == slot).any()))
        yield MaskRow(number[row], OBJECT, slots < k)


def in_picture(slots: NDArray[np.uint8], k: int, geometry: Geometry, width: int, height: int) -> NDArray[np.uint8]:
    """Slots of patches [h, w] as slots of the picture's pixels [height, width]; ``k``, the background, outside the cut."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = geometry.points(np.stack([x.ravel(), y.ravel()], 1), width, height)
    inside = ~np.isnan(points).any(1)
    patch = geometry.size // slots.shape[0]
    columns, rows = (points[inside].astype(np.int64) // patch).T
    out = np.full(width * height, k, np.uint8)
    out[inside] = slots[rows, columns]
    return out.reshape(height, width)
