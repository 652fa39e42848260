"""COCO: the picture shows more and more of a scene in which an object stands off the first view."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from runner.nodes.proactive.making.material import Drawn, Stand, over, placed
from runner.nodes.proactive.records import SIDES, Crop

SCENE = 1.5
"""Side of the whole picture, in sides of a frame of the other scenarios."""
WAYS = (*SIDES, *SIDES, "up_left", "up_right", "down_left", "down_right", "zoom", "zoom")
SEED_BOX = 4
"""Side of the box from which a zoom grows, pixels."""


class Growth(NamedTuple):
    """Steps of one axis: where the box begins and ends without any step, and pixels a step."""

    low: int
    high: int
    step: int


def beyond(stand: Stand, noun: str) -> Drawn:
    """COCO: towards one side or two, the first view ends before the object, the last one shows the whole scene; ``zoom`` grows from a
    small box inside the object until it shows all of it.

    Ours: published scenes are photographs of COCO, whose first views cut the object.
    """
    side, way = round(SCENE * stand.size), stand.pick(WAYS)
    figure = stand.figure(noun)
    image = stand.shaped(figure.image, 0.4 * SCENE, 0.5 * SCENE)
    granularity = int(stand.draw.integers(4 if way == "zoom" else 3, 6))
    left, top = (_corner(stand, way, side, extent, ends) for extent, ends in zip(image.size, _AXES, strict=True))
    fields = _zoomed(stand, image, (left, top), granularity) if way == "zoom" else _grown(way, side, (left, top), image.size, granularity)  # fmt: skip
    layer = placed(image, side, left, top)
    fields |= {
        "first_image": 0,
        "num_images": _views(way, granularity),
        "reference_image": 0,
        "direction": way,
        "granularity": granularity,
    }
    spoken = stand.wording["COCO"]
    asks = [spoken["requests"][name] for name in (["farther"] if way == "zoom" else way.split("_"))]
    rivals = stand.rivals(noun, stand.kit.nouns, similar=True)
    frames = [over(stand.backdrop(side), layer)]
    part = "/".join(figure.place)
    return Drawn(stand.pick(spoken["questions"]), noun, rivals, asks, fields, frames, [], part, layer)


_AXES = (("left", "right"), ("up", "down"))


def _corner(stand: Stand, way: str, side: int, extent: int, ends: tuple[str, str]) -> int:
    """Where the object begins on one axis: near the side that the box grows to, else anywhere; of a zoom near the middle."""
    room, near = side - extent, round(stand.between(0.01, 0.06) * side)
    if way == "zoom":
        return room // 2 + round(stand.between(-0.06, 0.06) * side)
    if ends[0] in way.split("_"):
        return min(near, room)
    return max(room - near, 0) if ends[1] in way.split("_") else round(stand.between(0, 1) * room)


def _views(way: str, granularity: int) -> int:
    """Views from the first to the last."""
    return granularity + 1 if way == "zoom" else len(way.split("_")) * (granularity - 1) + 1


def _grown(way: str, side: int, corner: tuple[int, int], extent: tuple[int, int], granularity: int) -> dict[str, Any]:
    """Crop and steps: after one step the box ends where the object begins, after all of them at the picture's edge."""
    boxes = [_axis(way.split("_"), ends, side, low, low + span, granularity)
             for ends, low, span in zip(_AXES, corner, extent, strict=True)]  # fmt: skip
    across, down = boxes
    crop = Crop(down.low, across.low, down.high, across.high)
    return {"crop": crop._asdict(), "horizontal_step": across.step, "vertical_step": down.step}


def _axis(way: list[str], ends: tuple[str, str], side: int, low: int, high: int, granularity: int) -> Growth:
    if ends[0] in way:
        step = math.ceil(high / (granularity - 1))
        return Growth(granularity * step, side, step)
    if ends[1] in way:
        step = math.ceil((side - low) / (granularity - 1))
        return Growth(0, side - granularity * step, step)
    return Growth(0, side, 0)


def _zoomed(stand: Stand, image: Image.Image, corner: tuple[int, int], granularity: int) -> dict[str, Any]:
    """Crop and steps around a point well inside the object."""
    opaque = np.argwhere(np.asarray(image.getchannel("A")) > 200)
    near = opaque[
        np.argsort(np.abs(opaque - np.asarray(image.size[::-1]) / 2).max(1), kind="stable")[: len(opaque) // 6 + 1]
    ]
    y, x = (int(v) for v in near[int(stand.draw.integers(len(near)))])
    reach = max(x, y, image.width - x, image.height - y)
    step = math.ceil((reach - SEED_BOX / 2) / (granularity + 1))
    crop = Crop(corner[1] + y - SEED_BOX // 2, corner[0] + x - SEED_BOX // 2, SEED_BOX, SEED_BOX)
    return {"crop": crop._asdict(), "horizontal_step": step, "vertical_step": step}
