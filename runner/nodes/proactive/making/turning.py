"""MVP-N: a box that turns from its back to its front, the only side with a picture of what is in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from runner.nodes.pasting import scaled
from runner.nodes.proactive.making.material import Drawn, Stand

ANGLES = ((160, 200), (120, 150), (82, 112), (-24, 24))
"""Degrees between the front and the camera, view by view; on the first three nothing or a sliver of the front is seen."""
DISTANCE = 4.5
"""From the camera to the middle of the box, whose sides are about 1."""
LABEL = 256
"""Pixels of the front as it is drawn."""

Points = NDArray[np.float64]


def turned(stand: Stand, noun: str) -> Drawn:
    """MVP-N: four views of a cardboard box. Boxes of other products look the same but for the picture; wrong answers are of its kind."""
    figure = stand.figure(noun)
    front, colour = _front(stand, figure.image)
    extent = np.asarray([stand.between(0.85, 1.0), stand.between(0.85, 1.0), stand.between(0.5, 0.9)]) / 2
    ground, way, tilt = stand.backdrop(stand.size), 1 if stand.coin() else -1, np.deg2rad(stand.between(8, 20))
    angles = [way * np.deg2rad(stand.between(*ends)) for ends in ANGLES]
    seen = [_view(ground, front, colour, extent, angle, tilt) for angle in angles]
    reference = seen[-1][1]
    spoken, count = stand.wording["MVP-N"], len(ANGLES)
    fields = {
        "first_image": 0, "num_images": count, "reference_image": count - 1, "valid_images": [*range(count)],
    }  # fmt: skip
    visible = [min(area / reference, 1.0) for _, area in seen]
    rivals = stand.rivals(noun, stand.kit.nouns, similar=True)
    asks, part = [stand.pick(spoken["requests"])], "/".join(figure.place)
    return Drawn(stand.pick(spoken["questions"]), noun, rivals, asks, fields, [v for v, _ in seen], visible, part)


def _front(stand: Stand, figure: Image.Image) -> tuple[Image.Image, Points]:
    """The front with a white label and the product on it, and the cardboard's colour."""
    colour = np.asarray([184, 140, 92]) + stand.draw.integers(-24, 25)
    front = Image.new("RGBA", (LABEL, LABEL), (*(int(v) for v in colour), 255))
    edge = LABEL // 14
    ImageDraw.Draw(front).rectangle((edge, edge, LABEL - edge, LABEL - edge), fill=(250, 250, 246, 255))
    image = scaled(figure, round(LABEL * 0.8), mirrored=stand.coin())
    front.alpha_composite(image, ((LABEL - image.width) // 2, (LABEL - image.height) // 2))
    return front, colour.astype(np.float64)


def _view(
    ground: Image.Image, front: Image.Image, colour: Points, extent: Points, angle: float, tilt: float
) -> tuple[Image.Image, float]:
    """The box seen from one side, and the area of its front in pixels (0: turned away)."""
    image, size = ground.copy(), ground.width
    pen, area = ImageDraw.Draw(image), 0.0
    for name, corners in _faces(extent):
        places = _projected(corners, angle, tilt, size)
        across, along = places[1] - places[0], places[3] - places[0]
        facing = float(across[0] * along[1] - across[1] * along[0])
        if facing <= 0:  # seen from inside: hidden by the others, for a box has no holes
            continue
        if name == "front":
            image.alpha_composite(_stretched(front, places, size))
            area = _area(places)
        else:
            shade = {"top": 1.12, "side": 0.82, "back": 1.0}[name]
            fill = tuple(int(v) for v in np.clip(colour * shade, 0, 255))
            pen.polygon([(float(x), float(y)) for x, y in places], fill=(*fill, 255), outline=(90, 66, 40, 255))
    return image.convert("RGB"), area


def _faces(extent: Points) -> list[tuple[str, Points]]:
    """Faces by name with their corners, clockwise as seen from outside, from the upper left one; x right, y down, z to the camera."""
    x, y, z = extent
    return [
        ("front", np.asarray([[-x, -y, z], [x, -y, z], [x, y, z], [-x, y, z]])),
        ("back", np.asarray([[x, -y, -z], [-x, -y, -z], [-x, y, -z], [x, y, -z]])),
        ("side", np.asarray([[x, -y, z], [x, -y, -z], [x, y, -z], [x, y, z]])),
        ("side", np.asarray([[-x, -y, -z], [-x, -y, z], [-x, y, z], [-x, y, -z]])),
        ("top", np.asarray([[-x, -y, -z], [x, -y, -z], [x, -y, z], [-x, -y, z]])),
    ]


def _projected(corners: Points, angle: float, tilt: float, size: int) -> Points:
    """Pixels of corners (k, 3) after the box has turned and the camera looks down on it."""
    c, s, ct, st = np.cos(angle), np.sin(angle), np.cos(tilt), np.sin(tilt)
    turn = np.asarray([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    look = np.asarray([[1, 0, 0], [0, ct, st], [0, -st, ct]])
    points = corners @ turn.T @ look.T
    scale = 0.62 * size * DISTANCE / (DISTANCE - points[:, 2:])
    return np.asarray(points[:, :2] * scale + size / 2)


def _area(places: Points) -> float:
    """Area of a polygon (k, 2)."""
    x, y = places.T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _stretched(image: Image.Image, places: Points, size: int) -> Image.Image:
    """A picture whose corners (from the upper left one, clockwise) come to lie at four places, RGBA [size, size]."""
    width, height = image.size
    corners = np.asarray([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    rows, values = [], []
    for (x, y), (u, v) in zip(places, corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    found = np.linalg.solve(np.asarray(rows), np.asarray(values))
    return image.transform(
        (size, size), Image.Transform.PERSPECTIVE, [float(f) for f in found], Image.Resampling.BICUBIC
    )
